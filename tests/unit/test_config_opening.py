"""Opening a repository by the configuration: which password, and when the other one is asked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shared.config.opening import MACHINE, RECOVERY, open_repository, passwords
from shared.errors import ConfigError
from shared.repository import keys
from shared.repository.errors import Damaged, RepositoryMissing, WrongPassword
from shared.repository.repository import Repository
from tests.support.fleets import SmallFleet


@pytest.fixture
def small(tmp_path: Path) -> SmallFleet:
    """A fleet whose one source has a repository."""
    made = SmallFleet(str(tmp_path))
    machine, recovery = passwords(made.fleet, "web1")
    assert machine == made.fleet.machine_password("web1")
    Repository.create(
        made.fleet.open_site("a").below("repos/web1"),
        repository_id="web1",
        fleet_secret=made.fleet.secret.read(),
        recovery_password=recovery,
    )
    return made


def key_file(small: SmallFleet, n: int) -> Path:
    """The key file of that cost."""
    folder = Path(small.directory, "site/repos/web1/keys")
    return next(path for path in folder.iterdir() if b'"N":%d' % n in path.read_bytes().replace(b" ", b""))


def spoil(path: Path) -> None:
    """Make it no key file."""
    path.chmod(0o600)
    path.write_bytes(b"{}")


def test_the_machine_password_opens_without_a_look_at_the_other(small: SmallFleet) -> None:
    """The recovery password may be a question to a vault: it is not read where it is not needed."""
    os.unlink(os.path.join(small.directory, "recovery"))
    opened = open_repository(small.fleet, "web1", "a")
    assert (opened.which, opened.name, opened.site) == (MACHINE, "web1", "a")
    assert opened.password == small.fleet.machine_password("web1")


@pytest.mark.parametrize("damaged", [False, True])
def test_the_recovery_password_opens_where_the_machine_s_key_file_does_not(small: SmallFleet, *, damaged: bool) -> None:
    """Removed, as stock restic may do it, or damaged."""
    path = key_file(small, keys.MACHINE_N)
    if damaged:
        spoil(path)
    else:
        path.unlink()
    opened = open_repository(small.fleet, "web1", "a")
    assert (opened.which, opened.password) == (RECOVERY, "a recovery password")


def test_without_any_that_fits_the_repository_s_own_fault_is_told(small: SmallFleet) -> None:
    """Neither password opens it; and where only the machine's key file is there and damaged, that is what is told."""
    key_file(small, keys.RECOVERY_N).unlink()
    spoil(key_file(small, keys.MACHINE_N))
    os.unlink(os.path.join(small.directory, "recovery"))
    with pytest.raises(Damaged):
        open_repository(small.fleet, "web1", "a")
    for path in Path(small.directory, "site/repos/web1/keys").iterdir():
        path.unlink()
    with pytest.raises(ConfigError, match="recovery"):
        open_repository(small.fleet, "web1", "a")
    Path(small.directory, "recovery").write_text("another password")
    os.chmod(os.path.join(small.directory, "recovery"), 0o600)
    with pytest.raises(WrongPassword):
        open_repository(small.fleet, "web1", "a")


def test_no_repository_is_told_as_such(small: SmallFleet) -> None:
    """A name of none."""
    with pytest.raises(RepositoryMissing):
        open_repository(small.fleet, "other", "a")


def test_its_snapshots_are_kept_in_the_configured_cache(small: SmallFleet) -> None:
    """Whoever opens by the configuration shares one cache with the engines of this host."""
    from shared.repository.snapshot import Snapshot, encode_snapshot
    from workers.access import open_repository as open_for_engine
    from workers.spec_parts import site_spec

    fleet = small.fleet
    repository = open_repository(fleet, "web1", "a").repository
    repository.save("snapshots", encode_snapshot(Snapshot(1, bytes(range(32)), [b"/srv"])))
    assert len(list(repository.snapshots())) == 1
    (kept,) = Path(fleet.cache_dir, "snapshots").iterdir()
    before = kept.stat()
    again = open_for_engine(site_spec(fleet, "a"), "web1", passwords(fleet, "web1"), cache_dir=fleet.cache_dir)
    assert len(list(again.snapshots())) == 1
    assert [path.stat().st_ino for path in Path(fleet.cache_dir, "snapshots").iterdir()] == [before.st_ino]
