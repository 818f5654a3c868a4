"""The one-time token by which a server joins, and the sealed parcel that it fetches with it.

    hfa1.<base64url of JSON {"h": host, "b": broker without user and password, "i": id, "k": key, "e": expiry}>.<check>

The token holds no secret of the fleet: only a key of its own. Redis holds the parcel sealed with that key, under a
key that one user may take, once; of that user's password it has the hash alone. So who reads Redis has nothing, who has
the token can use it once and for a while, and no port is opened and no service runs for it. `check` tells a token that
was cut in pasting from one that is refused.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shared.agents.errors import BadToken

JOIN_USERS = "hf-join-"
_JOIN_KEYS = "hf:join:"
_KIND = "hfa1"
_KEY = 32  # bytes
_NONCE = 12
_CHECK = 8  # hex characters


@dataclass(frozen=True, slots=True)
class Token:
    """A token taken apart. `expires` in seconds since 1970."""

    host: str
    broker: str
    id: str
    expires: int
    key: bytes = field(repr=False)

    @classmethod
    def new(cls, host: str, broker: str, expires: int) -> Token:
        """One for a host."""
        return cls(host, broker, f"{host}:{os.urandom(8).hex()}", expires, os.urandom(_KEY))

    @property
    def password(self) -> str:
        """Of the user who may take the parcel."""
        return self._derive("password").hex()

    def seal(self, parcel: dict[str, object]) -> bytes:
        """The parcel, for this token alone."""
        nonce = os.urandom(_NONCE)
        return nonce + AESGCM(self._derive("seal")).encrypt(nonce, json.dumps(parcel).encode(), self.id.encode())

    def open(self, sealed: bytes) -> dict[str, object]:
        """What was sealed. Raises BadToken."""
        try:
            plain = AESGCM(self._derive("seal")).decrypt(sealed[:_NONCE], sealed[_NONCE:], self.id.encode())
            parcel = json.loads(plain)
        except (InvalidTag, ValueError):
            raise BadToken("what lies ready for this token was not made for it", hint=_AGAIN) from None
        if not isinstance(parcel, dict):
            raise BadToken("what lies ready for this token is no configuration", hint=_AGAIN)
        return parcel

    def text(self) -> str:
        """The one line."""
        fields = {"h": self.host, "b": self.broker, "i": self.id, "e": self.expires, "k": self.key.hex()}
        body = base64.urlsafe_b64encode(json.dumps(fields, separators=(",", ":")).encode()).decode().rstrip("=")
        return f"{_KIND}.{body}.{_check(body)}"

    @classmethod
    def parse(cls, text: str) -> Token:
        """Take a token apart. Raises BadToken; nothing that stands in it is quoted."""
        kind, _, rest = "".join(text.split()).partition(".")
        if not kind.startswith("hfa"):
            raise BadToken(f"this is no token: expected {_KIND}. and what follows it", hint=_AGAIN)
        if kind != _KIND:
            raise BadToken("this token is of another release", hint="Use the same release here and there")
        body, _, check = rest.partition(".")
        if _check(body) != check:
            raise BadToken("the token is not whole: it was cut, or changed, on its way", hint="Paste all of the line")
        try:
            fields = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
            host, broker, token_id = (str(fields[name]) for name in "hbi")
            return cls(host, broker, token_id, int(fields["e"]), bytes.fromhex(fields["k"]))
        except (ValueError, KeyError, TypeError, binascii.Error):
            raise BadToken("the token can't be read", hint=_AGAIN) from None

    def _derive(self, what: str) -> bytes:
        return hashlib.sha256(f"holdfast join 1|{what}|".encode() + self.key).digest()


def join_user(token_id: str) -> str:
    """The user of Redis that a token is."""
    return f"{JOIN_USERS}{token_id}"


def join_key(token_id: str) -> str:
    """Where its parcel lies."""
    return f"{_JOIN_KEYS}{token_id}"


def _check(body: str) -> str:
    return hashlib.sha256(f"{_KIND}.{body}".encode()).hexdigest()[:_CHECK]


_AGAIN = "Make another, where the fleet's file is: holdfast agent enroll HOST"
