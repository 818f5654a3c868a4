"""Key files: what opens them, what is refused, and what is derived from a fleet's secret."""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode, b64encode

import pytest

from shared.errors import UsageError
from shared.repository import keys
from shared.repository.crypto import MasterKey, Sealer
from shared.repository.errors import Damaged
from shared.repository.polynomial import is_irreducible

KEY = MasterKey.from_bytes(bytes(range(1, 65)))
SECRET = b"\x11" * 32
MACHINE = keys.machine_password(SECRET, "web1")
GOLDEN = ("063426c32910544e", "ca29b238a7dd61e8", "3343f29c359fdf", "cca38e97a0a80cfb")


def made(**change: object) -> bytes:
    """A machine's key file with some fields changed."""
    return json.dumps(json.loads(keys.make_key_file(KEY, MACHINE, n=2)) | change).encode()


def test_a_key_file_has_the_fields_of_the_format() -> None:
    """Salt of 64 bytes, r = 8, p = 1, the N that was asked for; the sealed JSON holds the master key."""
    fields = json.loads(keys.make_key_file(KEY, MACHINE, n=1024))
    assert list(fields) == ["created", "username", "hostname", "kdf", "N", "r", "p", "salt", "data"]
    assert (fields["kdf"], fields["N"], fields["r"], fields["p"], len(b64decode(fields["salt"]))) == (
        "scrypt",
        1024,
        8,
        1,
        64,
    )
    assert fields["created"].endswith("Z")
    raw = hashlib.scrypt(MACHINE.encode(), salt=b64decode(fields["salt"]), n=1024, r=8, p=1, dklen=64)
    assert Sealer(MasterKey.from_bytes(raw)).unseal(b64decode(fields["data"])) == KEY.to_json()


def test_the_right_password_opens_it() -> None:
    """And another one does not, which is no damage."""
    raw = keys.make_key_file(KEY, MACHINE, n=2)
    assert (keys.open_key_file(raw, MACHINE), keys.open_key_file(raw, MACHINE[:-1] + "g")) == (KEY, None)


@pytest.mark.parametrize("password", ["hunter2", "A" * 64, "f" * 63, "f" * 65, "", "é" * 64])
@pytest.mark.parametrize("n", [1024, 16384])
def test_a_low_n_is_refused_for_a_password_that_a_person_chose(password: str, n: int) -> None:
    """Only 64 lowercase hex digits can be a derived one; at N = 32768 anything may be used."""
    with pytest.raises(UsageError, match=f"scrypt N = {n} is too low"):
        keys.make_key_file(KEY, password, n=n)


def test_a_persons_password_at_the_default_n() -> None:
    """32768, with any characters."""
    raw = keys.make_key_file(KEY, "pässwörd\n")
    assert (json.loads(raw)["N"], keys.open_key_file(raw, "pässwörd\n")) == (32768, KEY)


@pytest.mark.parametrize(("n", "r", "p"), [(4, 1, 1), (16, 2, 3), (2, 8, 16), (1024, 4, 2)])
def test_a_reader_takes_the_parameters_of_the_file(n: int, r: int, p: int) -> None:
    """As restic writes them after measuring its machine."""
    salt = b"\x05" * 64
    user = MasterKey.from_bytes(hashlib.scrypt(b"pw", salt=salt, n=n, r=r, p=p, dklen=64))
    data = b64encode(Sealer(user).seal(KEY.to_json())).decode()
    raw = made(N=n, r=r, p=p, salt=b64encode(salt).decode(), data=data)
    assert keys.open_key_file(raw, "pw") == KEY


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"N": 3}, "N a power of two"),
        ({"N": 1}, "N a power of two"),
        ({"N": 0}, "N a power of two"),
        ({"N": -2}, "N a power of two"),
        ({"N": "2"}, "N a power of two"),
        ({"r": 0}, "N a power of two"),
        ({"p": 1.5}, "N a power of two"),
        ({"kdf": "argon2"}, "got argon2"),
        ({"N": 1 << 30}, "would take over 1024 MiB"),
        ({"N": 2, "r": 1 << 24}, "would take over 1024 MiB"),
        ({"salt": "!"}, "not the JSON"),
        ({"data": "!"}, "not the JSON"),
        ({"data": None}, "not the JSON"),
    ],
)
def test_a_key_file_that_cannot_be_is_damaged(change: dict[str, object], message: str) -> None:
    """Also one whose scrypt would take all of the memory."""
    with pytest.raises(Damaged, match=message):
        keys.open_key_file(made(**change), MACHINE)


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"\xff"])
def test_what_is_no_key_file_is_damaged(raw: bytes) -> None:
    """Any other bytes."""
    with pytest.raises(Damaged, match="key file: not the JSON"):
        keys.open_key_file(raw, MACHINE)


def test_what_is_derived_never_changes() -> None:
    """Golden values: another derivation would make a second, different repository under the same id."""
    master = keys.derived_master_key(SECRET, "web1").to_bytes()
    restic_id, polynomial = keys.derived_config(SECRET, "web1")
    digest = hashlib.sha256(master + MACHINE.encode() + restic_id.encode() + f"{polynomial:x}".encode()).hexdigest()
    assert (MACHINE[:16], restic_id[:16], f"{polynomial:x}", digest[:16]) == GOLDEN
    assert is_irreducible(polynomial)


def test_derivations_are_of_one_repository_and_one_fleet() -> None:
    """No two of them are the same."""
    made_of = [(SECRET, "web1"), (SECRET, "web2"), (b"\x12" * 32, "web1")]
    for derive in (keys.machine_password, keys.derived_master_key, keys.derived_config):
        assert len({repr(derive(*of)) if derive is not keys.derived_master_key else derive(*of) for of in made_of}) == 3
