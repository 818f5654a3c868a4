"""The age format, version 1, with a password: what seals a kit, and what `age -d` opens on a bare machine.

    age-encryption.org/v1
    -> scrypt <salt, 16 bytes> <log2 N>
    <the file key, 16 bytes, sealed by ChaCha20-Poly1305 with scrypt(password, label + salt, N, r=8, p=1)>
    --- <HMAC-SHA256 over all before, key HKDF(file key, info "header")>
    <nonce, 16 bytes><chunks of 64 KiB, each sealed with HKDF(file key, salt = nonce, info "payload")>

Bytes stand as base64 without padding in the lines. A chunk's nonce is its number (11 bytes) and 1 for the last, so
that chunks can be neither left out nor moved, and none can follow the last. Order of reading: the form with exact
sizes, then the password, then the header's MAC, then each chunk; nothing is given out before all of it is authentic.
Why it is written here, and not a library: docs/decisions/recovery-kit.md.
"""

from __future__ import annotations

import base64
import binascii
import os
import re

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from shared.kit.errors import KitDamaged, WrongKitPassword

MAGIC = b"age-encryption.org/v1\n"
ARMOR_BEGIN = "-----BEGIN AGE ENCRYPTED FILE-----"
ARMOR_END = "-----END AGE ENCRYPTED FILE-----"
STRONG = 15  # log2 N for 128 random bits or more: 32 MiB of memory, a tenth of a second
CHOSEN = 18  # for a password that a person chose, as age itself takes: 256 MiB, a second
_MOST = 20  # a file that asks for more (1 GiB) is not opened: no kit does
_LABEL = b"age-encryption.org/v1/scrypt"
_SALT = _NONCE = _FILE_KEY = 16
_TAG = 16
_CHUNK = 64 * 1024
_COLUMNS = 64
_HEADER = re.compile(
    rb"age-encryption\.org/v1\n"
    rb"-> scrypt ([A-Za-z0-9+/]{22}) ([1-9][0-9]?)\n"
    rb"([A-Za-z0-9+/]{43})\n"
    rb"--- ([A-Za-z0-9+/]{43})\n"
)


def seal(plain: bytes, password: str, *, work: int) -> bytes:
    """An age file that opens with `password`. `work`: log2 of scrypt's N."""
    salt, key, nonce = os.urandom(_SALT), os.urandom(_FILE_KEY), os.urandom(_NONCE)
    sealed = ChaCha20Poly1305(_wrapping(password, salt, work)).encrypt(bytes(12), key, None)
    header = MAGIC + b"-> scrypt %s %d\n%s\n---" % (_encode(salt), work, _encode(sealed))
    mac = _mac(key, header).finalize()
    body = _derive(key, nonce, b"payload")
    chunks = [plain[at : at + _CHUNK] for at in range(0, len(plain), _CHUNK)] or [b""]
    last = len(chunks) - 1
    out = [header, b" ", _encode(mac), b"\n", nonce]
    out += [body.encrypt(_number(at, last), chunk, None) for at, chunk in enumerate(chunks)]
    return b"".join(out)


def unseal(data: bytes, password: str, what: str) -> bytes:
    """What was sealed. `what` names the file in errors. Raises KitDamaged, WrongKitPassword."""
    found = _HEADER.match(data)
    if found is None:
        if data.startswith(MAGIC):
            raise KitDamaged(f"{what}: its first lines are damaged, or it was not sealed with a password", hint=_OTHER)
        raise KitDamaged(
            f"{what} is no recovery kit: expected {MAGIC.decode().strip()!r} at its start, "
            f"found {data[: len(MAGIC)]!r}",
            hint=_OTHER,
        )
    salt, work, sealed = _decode(found[1], what), int(found[2]), _decode(found[3], what)
    if work > _MOST:
        raise KitDamaged(f"{what}: asks for scrypt with N = 2^{work}: expected 2^{_MOST} at most", hint=_OTHER)
    try:
        key = ChaCha20Poly1305(_wrapping(password, salt, work)).decrypt(bytes(12), sealed, None)
    except InvalidTag:
        raise WrongKitPassword(
            f"the password does not open {what}",
            hint="Type it as it was shown, with its dashes; or is it another kit's?",
        ) from None
    header = data[: found.start(4) - 1]
    try:
        _mac(key, header).verify(_decode(found[4], what))
    except InvalidSignature:
        raise KitDamaged(f"{what}: its first lines are damaged", hint=_OTHER) from None
    return _chunks(data[found.end() :], key, what)


def _chunks(rest: bytes, key: bytes, what: str) -> bytes:
    if len(rest) < _NONCE + _TAG:
        raise KitDamaged(f"{what} is not whole: it ends after {len(rest)} bytes of its content", hint=_OTHER)
    body = _derive(key, rest[:_NONCE], b"payload")
    parts = [rest[at : at + _CHUNK + _TAG] for at in range(_NONCE, len(rest), _CHUNK + _TAG)]
    last = len(parts) - 1
    try:
        return b"".join(body.decrypt(_number(at, last), part, None) for at, part in enumerate(parts))
    except InvalidTag:
        raise KitDamaged(f"{what} is damaged, or not whole: its content does not verify", hint=_OTHER) from None


def armor(sealed: bytes) -> str:
    """The same as lines of text."""
    text = base64.b64encode(sealed).decode()
    lines = [text[at : at + _COLUMNS] for at in range(0, len(text), _COLUMNS)]
    return "\n".join([ARMOR_BEGIN, *lines, ARMOR_END, ""])


def unarmor(text: str, what: str) -> bytes:
    """The bytes of the armored file that stands in a text. Raises KitDamaged."""
    inner = text.partition(ARMOR_BEGIN)[2].partition(ARMOR_END)
    try:
        if not inner[1]:
            raise KitDamaged(f"{what} is not whole: expected {ARMOR_END!r} at its end", hint=_OTHER)
        return base64.b64decode("".join(inner[0].split()), validate=True)
    except binascii.Error:
        raise KitDamaged(f"{what} is damaged: its lines are no base64", hint=_OTHER) from None


def _wrapping(password: str, salt: bytes, work: int) -> bytes:
    return Scrypt(salt=_LABEL + salt, length=32, n=1 << work, r=8, p=1).derive(password.encode())


def _mac(key: bytes, header: bytes) -> HMAC:
    mac = HMAC(HKDF(SHA256(), 32, salt=None, info=b"header").derive(key), SHA256())
    mac.update(header)
    return mac


def _derive(key: bytes, nonce: bytes, info: bytes) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(HKDF(SHA256(), 32, salt=nonce, info=info).derive(key))


def _number(at: int, last: int) -> bytes:
    return at.to_bytes(11, "big") + bytes([at == last])


def _encode(data: bytes) -> bytes:
    return base64.b64encode(data).rstrip(b"=")


def _decode(text: bytes, what: str) -> bytes:
    decoded = base64.b64decode(text + b"=" * (-len(text) % 4))
    if _encode(decoded) != text:
        raise KitDamaged(f"{what}: its first lines are damaged", hint=_OTHER)
    return decoded


_OTHER = "Take another copy of the kit"
