"""Sealing: AES-256-CTR with a Poly1305-AES tag, as restic's format has it.

    sealed = IV (16) | ciphertext (as long as the plaintext) | tag (16)

Invariants: an IV is random and never used twice; the tag is compared before one byte is decrypted.
Neither keys nor IVs of zeros are accepted: they are what uninitialised memory looks like.
"""

from __future__ import annotations

import hmac
import os
from base64 import b64decode, b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import orjson
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.poly1305 import Poly1305

from shared.repository.errors import Damaged

Buffer: TypeAlias = bytes | bytearray | memoryview

IV_SIZE = 16
TAG_SIZE = 16
OVERHEAD = IV_SIZE + TAG_SIZE
_ZERO_IV = bytes(IV_SIZE)


@dataclass(frozen=True, slots=True)
class MasterKey:
    """The key of a repository: 32 bytes for AES-256, 16 (k) and 16 (r) for Poly1305-AES."""

    encrypt: bytes = field(repr=False)
    k: bytes = field(repr=False)
    r: bytes = field(repr=False)

    def __post_init__(self) -> None:
        """Reject wrong sizes and keys of zeros. Raises Damaged."""
        sizes = (len(self.encrypt), len(self.k), len(self.r))
        if sizes != (32, 16, 16):
            raise Damaged(f"master key: expected parts of (32, 16, 16) bytes, got {sizes}")
        if not any(self.encrypt) or not any(self.k) or not any(self.r):
            raise Damaged("master key: a part of it is all zeros")

    @classmethod
    def from_bytes(cls, raw: bytes) -> MasterKey:
        """Split 64 bytes, as scrypt or HKDF gave them: encryption key, k, r."""
        return cls(raw[:32], raw[32:48], raw[48:64])

    def to_bytes(self) -> bytes:
        """The 64 bytes that `from_bytes` takes."""
        return self.encrypt + self.k + self.r

    def to_json(self) -> bytes:
        """The JSON that a key file seals."""
        mac = {"k": b64encode(self.k).decode(), "r": b64encode(self.r).decode()}
        return orjson.dumps({"mac": mac, "encrypt": b64encode(self.encrypt).decode()})

    @classmethod
    def from_json(cls, raw: bytes) -> MasterKey:
        """Read what `to_json` wrote. Raises Damaged."""
        try:
            data = orjson.loads(raw)
            parts = (data["encrypt"], data["mac"]["k"], data["mac"]["r"])
            return cls(*(b64decode(part, validate=True) for part in parts))
        except (ValueError, KeyError, TypeError) as error:
            raise Damaged(f"master key: not the JSON that was expected ({error})") from error


class Sealer:
    """Seals and unseals with one master key. NOT safe for use by two threads at once: make one for each.

    The cipher contexts are made once and given a new nonce per blob; setting up AES for each
    small file would cost more than encrypting it.
    """

    def __init__(self, key: MasterKey) -> None:
        self.key = key
        self._r = key.r
        self._ctr = Cipher(algorithms.AES(key.encrypt), modes.CTR(os.urandom(IV_SIZE))).encryptor()
        self._ecb = Cipher(algorithms.AES(key.k), modes.ECB()).encryptor()  # noqa: S305 -- Poly1305-AES asks for one raw block

    def seal_into(self, plain: Buffer, out: memoryview, offset: int) -> int:
        """Seal `plain` into `out` at `offset`; returns the offset behind the sealed bytes (len(plain) + 32 on)."""
        iv = _fresh_iv()
        start = offset + IV_SIZE
        end = start + len(plain)
        out[offset:start] = iv
        body = out[start:end]
        self._ctr.reset_nonce(iv)
        self._ctr.update_into(plain, body)
        out[end : end + TAG_SIZE] = Poly1305.generate_tag(self._r + self._ecb.update(iv), body)
        return end + TAG_SIZE

    def seal_in_pieces(self, plain: Buffer, room: memoryview) -> Iterator[Buffer]:
        """The sealed bytes of `plain`, through `room` (over 16 bytes); a piece is good until the next is asked for.

        So a large blob is sealed without memory for all of it, and each piece is still in the processor's cache
        for whoever hashes and writes it.
        """
        iv = _fresh_iv()
        tag = Poly1305(self._r + self._ecb.update(iv))
        room[:IV_SIZE] = iv
        self._ctr.reset_nonce(iv)
        view = memoryview(plain)
        at, start = 0, IV_SIZE
        while at < len(view):
            part = view[at : at + len(room) - start]
            end = start + len(part)
            body = room[start:end]
            self._ctr.update_into(part, body)
            tag.update(body)
            yield room[:end]
            at += len(part)
            start = 0
        yield tag.finalize()

    def seal(self, plain: Buffer) -> bytes:
        """The sealed bytes of `plain`, 32 more than it has."""
        out = bytearray(len(plain) + OVERHEAD)
        with memoryview(out) as view:
            self.seal_into(plain, view, 0)
        return bytes(out)

    def unseal(self, sealed: Buffer) -> bytes:
        """Verify and decrypt. Raises Damaged, which the caller words with the object's name."""
        return self._ctr.update(self._authentic(sealed))

    def unseal_into(self, sealed: Buffer, out: memoryview) -> int:
        """As `unseal`, to the beginning of `out`, which has room for it; the number of bytes. Raises Damaged.

        Where nothing is authenticated, nothing is written. A buffer that is used again saves the copy and the
        page faults of a fresh one: with large blobs they cost as much as the decryption itself.
        """
        return self._ctr.update_into(self._authentic(sealed), out)

    def _authentic(self, sealed: Buffer) -> memoryview:
        """The ciphertext, its tag compared, with the cipher set to its IV. Raises Damaged."""
        view = memoryview(sealed)
        if len(view) < OVERHEAD:
            raise Damaged(f"sealed data: expected at least {OVERHEAD} bytes, got {len(view)}")
        iv = bytes(view[:IV_SIZE])
        body = view[IV_SIZE:-TAG_SIZE]
        tag = Poly1305.generate_tag(self._r + self._ecb.update(iv), body)
        if iv == _ZERO_IV or not hmac.compare_digest(tag, view[-TAG_SIZE:]):
            raise Damaged("sealed data: the authentication tag does not match")
        self._ctr.reset_nonce(iv)
        return body


def _fresh_iv() -> bytes:
    iv = os.urandom(IV_SIZE)
    while iv == _ZERO_IV:
        iv = os.urandom(IV_SIZE)
    return iv
