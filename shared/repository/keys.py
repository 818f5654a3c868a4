"""Key files: the master key sealed with a password, and what is derived from the fleet's secret.

A repository of Holdfast's has two: one for the recovery password that a person keeps (scrypt
N = 32768), one for the machine password that is derived (64 hex characters of HMAC, N = 1024, cheap
where thousands are opened). A low N for a password that a person chose is refused.

Whoever creates a repository, twice, racing, or at two sites that can't see each other, derives the
same master key, id and polynomial; so two key files never hold different master keys.
"""

from __future__ import annotations

import getpass
import hashlib
import hmac
import os
import socket
from base64 import b64decode, b64encode
from collections.abc import Iterator
from datetime import UTC, datetime

import orjson
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shared.errors import UsageError
from shared.repository import polynomial
from shared.repository.crypto import MasterKey, Sealer
from shared.repository.errors import Damaged

RECOVERY_N = 32768
MACHINE_N = 1024
MACHINE_PASSWORD_LENGTH = 64
_SALT_SIZE = 64
_SCRYPT_MEMORY = 1 << 30  # bytes; a key file that asks for more is not opened
_HEX = frozenset("0123456789abcdef")


def machine_password(fleet_secret: bytes, repository_id: str) -> str:
    """The password of machines for one repository: 64 hex characters, as good as a key."""
    return hmac.new(fleet_secret, repository_id.encode(), hashlib.sha256).hexdigest()


def derived_master_key(fleet_secret: bytes, repository_id: str) -> MasterKey:
    """The master key that a new repository gets."""
    return MasterKey.from_bytes(_derive(fleet_secret, "master key", repository_id, 64))


def derived_config(fleet_secret: bytes, repository_id: str) -> tuple[str, int]:
    """The restic id (64 hex characters) and the chunker polynomial that a new repository gets."""
    restic_id = _derive(fleet_secret, "restic id", repository_id, 32).hex()
    return restic_id, polynomial.draw(_numbers(fleet_secret, repository_id))


def _derive(fleet_secret: bytes, label: str, repository_id: str, length: int) -> bytes:
    info = f"holdfast {label} 1|{repository_id}".encode()
    return HKDF(SHA256(), length, salt=None, info=info).derive(fleet_secret)


def _numbers(fleet_secret: bytes, repository_id: str) -> Iterator[int]:
    for round_ in range(1000):
        yield int.from_bytes(_derive(fleet_secret, f"polynomial {round_}", repository_id, 8), "big")


def make_key_file(key: MasterKey, password: str, *, n: int = RECOVERY_N) -> bytes:
    """The bytes of a key file. Raises UsageError for a low N with a password that a person may have chosen."""
    derived = len(password) == MACHINE_PASSWORD_LENGTH and not set(password) - _HEX
    if n < RECOVERY_N and not derived:
        raise UsageError(
            f"scrypt N = {n} is too low for a password that is not a derived one",
            hint=f"Use N = {RECOVERY_N} or higher",
        )
    salt = os.urandom(_SALT_SIZE)
    sealed = Sealer(_scrypt(password, salt, n, 8, 1)).seal(key.to_json())
    return orjson.dumps(
        {
            "created": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            "username": username(),
            "hostname": socket.gethostname(),
            "kdf": "scrypt",
            "N": n,
            "r": 8,
            "p": 1,
            "salt": b64encode(salt).decode(),
            "data": b64encode(sealed).decode(),
        }
    )


def open_key_file(raw: bytes, password: str) -> MasterKey | None:
    """The master key in a key file, or None where the password is not its own. Raises Damaged."""
    try:
        fields = orjson.loads(raw)
        kdf, n, r, p = fields["kdf"], fields["N"], fields["r"], fields["p"]
        salt, data = b64decode(fields["salt"], validate=True), b64decode(fields["data"], validate=True)
        if kdf != "scrypt" or not all(isinstance(x, int) and x > 0 for x in (n, r, p)) or n & (n - 1) or n < 2:
            raise Damaged(f"key file: expected scrypt with N a power of two, got {kdf} N={n} r={r} p={p}")
        if 128 * n * r * p > _SCRYPT_MEMORY:
            raise Damaged(f"key file: scrypt with N={n} r={r} p={p} would take over {_SCRYPT_MEMORY >> 20} MiB")
        user_key = _scrypt(password, salt, n, r, p)
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"key file: not the JSON that was expected ({error!r})") from error
    try:
        inner = Sealer(user_key).unseal(data)
    except Damaged:
        return None
    return MasterKey.from_json(inner)


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> MasterKey:
    memory = 128 * n * r * p + (1 << 20) + 128 * r * p
    raw = hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=max(memory * 2, 1 << 25), dklen=64)
    return MasterKey.from_bytes(raw)


def username() -> str:
    """The name of who runs this, for key and lock files; a number where there is no name."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's uid without a name
        return str(os.getuid())
