"""Creating and opening a repository, and everything that may stand at its place instead of one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import orjson
import pytest

from shared.repository import keys
from shared.repository.crypto import Sealer
from shared.repository.errors import Damaged, RepositoryMissing, UnsupportedRepository, WrongPassword
from shared.repository.pack import BlobType
from shared.repository.repository import Repository
from shared.storage import ObjectStore, open_store
from shared.storage.api import MissingObject
from tests.support.backups import PASSWORD, RECOVERY, REPOSITORY, SECRET, Shop, write
from tests.support.processes import in_processes


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A repository."""
    return Shop(str(tmp_path))


def files(folder: str) -> dict[str, bytes]:
    """Everything below a folder."""
    return {
        os.path.join(above, name): Path(above, name).read_bytes()
        for above, _, names in os.walk(folder)
        for name in names
    }


def refused(store: ObjectStore, folder: str, error: type[Exception], message: str, *passwords: str) -> None:
    """Opening ends with this, and writes nothing."""
    before = files(folder)
    with pytest.raises(error, match=message):
        Repository.open(store, *(passwords or (PASSWORD,)))
    assert files(folder) == before


def put_config(shop: Shop, content: bytes) -> None:
    """Another config in its place."""
    path = os.path.join(shop.repository, "config")
    os.chmod(path, 0o600)
    Path(path).write_bytes(content)


def seal_config(shop: Shop, **change: object) -> None:
    """A config with some fields changed, rightly sealed."""
    repo = shop.open()
    fields = orjson.loads(repo.sealer().unseal(repo.store.get("config")))
    put_config(shop, Sealer(repo.key).seal(orjson.dumps(fields | change)))


def test_both_passwords_open_it(shop: Shop) -> None:
    """The machine's and the recovery one give the same key; the first that fits is taken."""
    opened = [Repository.open(shop.store(), *given) for given in ((PASSWORD,), (RECOVERY,), ("wrong", PASSWORD))]
    assert len({repo.key for repo in opened}) == 1
    assert {(repo.version, repo.restic_id) for repo in opened} == {(2, keys.derived_config(SECRET, REPOSITORY)[0])}
    ns = sorted(orjson.loads(raw)["N"] for path, raw in files(shop.repository).items() if "/keys/" in path)
    assert ns == [1024, 32768]


def test_nothing_there(tmp_path: Path) -> None:
    """The message names the place."""
    store = open_store(str(tmp_path)).below("repos/none")
    refused(store, str(tmp_path), RepositoryMissing, rf"no repository at {tmp_path}/repos/none \(it has no config\)")


def test_something_else_there(tmp_path: Path) -> None:
    """A folder of other files is no repository; so are keys without a config, which a killed creation leaves."""
    write(f"{tmp_path}/other/file", b"content")
    refused(open_store(str(tmp_path)), str(tmp_path), RepositoryMissing, "has no config")
    made = Shop(f"{tmp_path}/shop")
    os.unlink(os.path.join(made.repository, "config"))
    refused(made.store(), made.site, RepositoryMissing, "has no config")


@pytest.mark.parametrize("password", ["wrong", "", PASSWORD[:-1], PASSWORD.upper()])
def test_a_wrong_password(shop: Shop, password: str) -> None:
    """No key opens: that is said, and not that something is damaged."""
    refused(
        shop.store(), shop.site, WrongPassword, r"no key of the repository at .* opens with this password", password
    )


@pytest.mark.parametrize("version", [0, 3, 99, "2", None])
def test_a_version_that_is_not_known(shop: Shop, version: object) -> None:
    """Named, with those that are known."""
    seal_config(shop, version=version)
    refused(
        shop.store(), shop.site, UnsupportedRepository, f"format version {version!r}; this release knows 1 .* and 2"
    )


def test_version_1_is_read_only(shop: Shop) -> None:
    """It opens; whoever wants to write is told how to convert it."""
    seal_config(shop, version=1)
    repo = shop.open()
    assert repo.version == 1
    with pytest.raises(UnsupportedRepository, match="format version 1, which is only read"):
        repo.require_writable()


@pytest.mark.parametrize("how", ["cut", "flipped", "empty", "another key's", "no JSON", "fields missing"])
def test_a_damaged_config(shop: Shop, how: str) -> None:
    """However it is damaged; the hint says where the same content can be had."""
    repo = shop.open()
    sealed = bytearray(repo.store.get("config"))
    match how:
        case "cut":
            del sealed[40:]
        case "flipped":
            sealed[50] ^= 4
        case "empty":
            sealed.clear()
        case "another key's":
            sealed = bytearray(Sealer(keys.derived_master_key(SECRET, "other")).seal(b"{}"))
        case "no JSON":
            sealed = bytearray(repo.sealer().seal(b"\x02 compressed, which is not allowed here"))
        case _:
            sealed = bytearray(repo.sealer().seal(b'{"version":2}'))
    put_config(shop, bytes(sealed))
    refused(shop.store(), shop.site, Damaged, "its config is damaged .*another site")


def test_a_reducible_polynomial(shop: Shop) -> None:
    """Restic would refuse it as well."""
    seal_config(shop, chunker_polynomial=f"{1 << 53:x}")
    refused(shop.store(), shop.site, Damaged, "polynomial that is reducible")


def test_a_damaged_key_file_beside_a_good_one(shop: Shop) -> None:
    """The good one opens; where none does the damaged ones are named."""
    folder = os.path.join(shop.repository, "keys")
    Path(folder, "00" * 32).write_bytes(b"{not JSON")
    Path(folder, "11" * 32).write_bytes(b'{"kdf":"scrypt","N":1073741824,"r":8,"p":1,"salt":"","data":""}')
    assert shop.open().version == 2
    refused(shop.store(), shop.site, Damaged, f"no key file opens, and these are damaged: keys/{'00' * 32}", "wrong")


def test_creating_again_changes_nothing(shop: Shop) -> None:
    """It opens what is there; with other secrets it is a wrong password, and nothing is written."""
    before = files(shop.repository)

    def create(secret: bytes, recovery: str) -> Repository:
        return Repository.create(
            shop.store(), repository_id=REPOSITORY, fleet_secret=secret, recovery_password=recovery
        )

    assert create(SECRET, RECOVERY).key == shop.open().key
    with pytest.raises(WrongPassword):
        create(b"\x12" * 32, "another")
    assert files(shop.repository) == before


def test_a_creation_is_taken_up_from_any_step(shop: Shop) -> None:
    """Killed after either key file: the second creation ends with the same repository."""
    whole = shop.open()
    for kept in (0, 1, 2):
        base = Shop(f"{shop.base}/{kept}")
        os.unlink(os.path.join(base.repository, "config"))
        for name in sorted(base.names("keys"))[kept:]:
            os.unlink(os.path.join(base.repository, "keys", name))
        made = Repository.create(
            base.store(), repository_id=REPOSITORY, fleet_secret=SECRET, recovery_password=RECOVERY
        )
        assert (made.key, made.restic_id, len(base.names("keys"))) == (whole.key, whole.restic_id, 2)
        for version in ("0.14", "0.18"):
            assert base.restic(version, "snapshots", RESTIC_PASSWORD=RECOVERY if kept else PASSWORD) is not None


def test_two_that_create_at_once_create_the_same(tmp_path: Path) -> None:
    """Racing processes: one master key, one config, and each opens it."""
    os.mkdir(f"{tmp_path}/site")

    def create(_: int) -> tuple[bytes, str]:
        store = open_store(f"{tmp_path}/site").below("repos/raced")
        made = Repository.create(store, repository_id="raced", fleet_secret=SECRET, recovery_password=RECOVERY)
        return made.key.to_bytes(), made.restic_id

    results = in_processes(3, create)
    assert len(set(results)) == 1
    store = open_store(f"{tmp_path}/site").below("repos/raced")
    assert Repository.open(store, RECOVERY).key.to_bytes() == results[0][0]


def test_left_over_keys_of_another_secret_are_told(tmp_path: Path) -> None:
    """A key file that opens with our password but holds another key would make a repository look damaged."""
    store = open_store(str(tmp_path)).below("repos/x")
    alien = keys.make_key_file(keys.derived_master_key(SECRET, "other"), keys.machine_password(SECRET, "x"), n=1024)
    store.put("keys/" + "ab" * 32, alien)
    with pytest.raises(Damaged, match=r"holds another master key.*move `keys/` away"):
        Repository.create(store, repository_id="x", fleet_secret=SECRET, recovery_password=RECOVERY)
    with pytest.raises(MissingObject):
        store.stat("config")


def test_small_files_and_blobs_are_verified_when_read(shop: Shop) -> None:
    """A name that is not the hash, a flipped bit, a pack that ends early: Damaged, naming the object."""
    write(f"{shop.source}/f", b"content")
    shop.backup()
    repo = shop.open()
    (name,) = shop.names("snapshots")
    shutil.copy(os.path.join(shop.repository, "snapshots", name), os.path.join(shop.repository, "snapshots", "ee" * 32))
    with pytest.raises(Damaged, match=r"snapshots/e{16}: its bytes hash to \w{16}, not to its name"):
        repo.load("snapshots", "ee" * 32)
    with pytest.raises(MissingObject):
        repo.load("snapshots", "ff" * 32)
    (pack, blob) = next(place for (kind, _), place in shop.blobs().items() if kind is BlobType.DATA)
    assert repo.load_blob(pack, blob) == b"content"
    assert [one.id for one in repo.pack_header(pack)] == [blob.id]
    path = shop.packs()[pack.hex()]
    os.chmod(path, 0o600)
    raw = bytearray(Path(path).read_bytes())
    raw[20] ^= 1
    Path(path).write_bytes(raw)
    with pytest.raises(Damaged, match=rf"pack {pack.hex()[:16]}: sealed data"):
        repo.load_blob(pack, blob)
    Path(path).write_bytes(raw[:-10])
    with pytest.raises(Damaged, match=rf"pack {pack.hex()[:16]}: "):
        repo.pack_header(pack)
