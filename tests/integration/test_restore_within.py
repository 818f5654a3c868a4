"""A restore that may write only below some folders: what it may, it does as any other, and nothing else."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from shared.config.fleet import Fleet
from shared.ledger.model import RunKind, RunRequest
from tests.support.backups import OLD, SECOND, Shop, write
from tests.support.compare import compare_trees
from tests.support.fleets import SmallFleet
from tests.support.restores import restore, target_of
from workers.restore.within import TargetRefused
from workers.specs import spec_for


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A repository with one backup of a few files."""
    shop = Shop(str(tmp_path))
    for name in ("one", "deep/down/two"):
        write(f"{shop.source}/{name}", b"first " + name.encode())
    assert shop.backup().complete
    return shop


def test_within_a_folder_it_restores_as_ever(shop: Shop) -> None:
    """Identical, into what was not there; asked for again there is something to be looked at, as ever."""
    result = restore(shop, "allowed/sub", within=[target_of(shop, "allowed")], base=shop.source, verify=True)
    assert (result.exit_code, result.verified) == (0, 2)
    assert compare_trees(shop.source, target_of(shop, "allowed/sub"), top=False) == []
    assert result.undo_hint == f"rm -r {target_of(shop, 'allowed/sub')}"
    subprocess.run(shlex.split(result.undo_hint), check=True)
    assert os.listdir(target_of(shop, "allowed")) == []


def test_by_a_link_into_the_folder_it_says_where_it_is(shop: Shop) -> None:
    """The target is where the link leads to."""
    os.mkdir(target_of(shop, "allowed"))
    os.symlink(target_of(shop, "allowed"), target_of(shop, "link"))
    result = restore(shop, "link/sub", within=[target_of(shop, "allowed")], base=shop.source)
    assert (result.exit_code, result.target) == (0, target_of(shop, "allowed/sub"))


@pytest.mark.parametrize("within", [[], ["/srv/other"], ["{base}/tar"], ["{base}/target/sub"]])
def test_elsewhere_nothing_is_written(shop: Shop, within: list[str]) -> None:
    """Neither the target nor a lock."""
    with pytest.raises(TargetRefused):
        restore(shop, within=[folder.format(base=shop.base) for folder in within])
    assert not os.path.exists(target_of(shop))
    assert shop.names("locks") == set()


def test_in_place_counts_where_the_files_were(shop: Shop) -> None:
    """Allowed: what was changed is replaced, with a safety copy. Not allowed: it stays."""
    write(f"{shop.source}/one", b"second", mtime=OLD + SECOND)
    for within, options in (
        ([f"{shop.source}/deep"], {}),
        ([f"{shop.source}/deep"], {"paths": [f"{shop.source}/one"]}),
        ([], {}),
    ):
        with pytest.raises(TargetRefused, match="may not write to"):
            restore(shop, in_place=True, within=within, **options)
    assert Path(shop.source, "one").read_bytes() == b"second"
    result = restore(shop, in_place=True, within=[shop.source])
    assert (result.exit_code, Path(shop.source, "one").read_bytes()) == (0, b"first one")
    assert Path(result.undo[0], "one").read_bytes() == b"second"


@pytest.mark.parametrize(
    ("setting", "agent", "within"),
    [
        ("", False, None),
        ("", True, []),
        ("restore_to: [/srv/a, /tmp]\n", True, ["/srv/a", "/tmp"]),
        ("restore_to: /srv/a\n", False, ["/srv/a"]),
        ("restore_to: []\n", False, []),
    ],
)
def test_the_workers_own_file_says_where(tmp_path: Path, setting: str, *, agent: bool, within: object) -> None:
    """Whatever the run asks for: an agent writes nowhere else, others anywhere unless their file says something."""
    small = SmallFleet(str(tmp_path))
    with open(small.path, "a") as file:
        file.write(setting)
    asked = RunRequest("ab" * 16, RunKind.RESTORE, "web1", options={"target": "/x", "within": ["/"]})
    assert spec_for(Fleet.load(small.path), asked, agent=agent)["within"] == within
