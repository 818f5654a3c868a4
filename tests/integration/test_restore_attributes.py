"""Attributes that the snapshot does not have: what stood there had them, or a directory hands them down."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support.backups import Shop
from tests.support.compare import compare_trees
from tests.support.kinds import make_every_kind, remove_tree
from tests.support.restores import restore, target_of

# version 2; tag, permissions, id: owner rwx, user 12345 rwx, group r-x, mask rwx, other none
_ENTRIES = ((1, 7, 0xFFFFFFFF), (2, 7, 12345), (4, 5, 0xFFFFFFFF), (16, 7, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF))
_ACL = b"\2\0\0\0" + b"".join(
    tag.to_bytes(2, "little") + perm.to_bytes(2, "little") + who.to_bytes(4, "little") for tag, perm, who in _ENTRIES
)
_ACCESS, _DEFAULT = "system.posix_acl_access", "system.posix_acl_default"


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A repository that holds every kind of file."""
    shop = Shop(str(tmp_path))
    shutil.rmtree(shop.source)
    make_every_kind(shop.source, deep=False)
    assert shop.backup().complete
    return shop


def test_what_a_directory_hands_down(shop: Shop, tmp_path: Path) -> None:
    """Below a directory with a default ACL everything is made as the snapshot has it, no ACL inherited."""
    os.mkdir(target_of(shop))
    os.setxattr(target_of(shop), _DEFAULT, _ACL)
    result = restore(shop, base=shop.source)
    assert (result.exit_code, result.problems, result.metadata_problems) == (0, [], [])
    assert compare_trees(shop.source, target_of(shop), top=False) == []
    remove_tree(str(tmp_path))
    tmp_path.mkdir()


@pytest.mark.parametrize("policy", ["always", "if-changed"])
def test_what_stood_there_had_more(shop: Shop, tmp_path: Path, policy: str) -> None:
    """Files that are replaced and directories that stay lose attributes and ACLs that the snapshot does not have."""
    assert restore(shop, base=shop.source).exit_code == 0
    target = Path(target_of(shop))
    directories = [target / name for name in os.listdir(target) if (target / name).is_dir()]
    assert len(directories) > 1
    for number, place in enumerate((*directories, target / "plain", target / "acl")):
        os.setxattr(place, "user.extra", b"%d" % number)
        os.setxattr(place, _ACCESS, _ACL)
        if place.is_dir():
            os.setxattr(place, _DEFAULT, _ACL)
        else:
            os.utime(place, ns=(0, 0))  # changed, so each policy replaces it
    result = restore(shop, base=shop.source, overwrite=policy)
    assert (result.exit_code, result.metadata_problems) == (0, [])
    assert compare_trees(shop.source, str(target), top=False) == []
    remove_tree(str(tmp_path))
    tmp_path.mkdir()


def test_the_machine_s_own_stay(monkeypatch: pytest.MonkeyPatch, shop: Shop, tmp_path: Path) -> None:
    """What a machine gives to all files by itself (labels, ACLs of a network mount) is no extra, and left."""
    theirs = ["security.selinux", "system.nfs4_acl", "user.extra"]
    monkeypatch.setattr(os, "listxattr", lambda *_, **__: theirs)
    removed = tmp_path / "removed"

    def note(_: object, key: str, **__: object) -> None:  # by helpers, which are other processes
        with open(removed, "a", encoding="ascii") as file:
            file.write(f"{key}\n")

    monkeypatch.setattr(os, "removexattr", note)
    assert restore(shop, base=shop.source).exit_code == 0
    assert set(removed.read_text().split()) == {"user.extra"}
