"""What stock restic backed up, Holdfast restores identical, but for what that restic itself does not record."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support.backups import PASSWORD, Shop, run_restic
from tests.support.compare import compare_trees, tree_of
from tests.support.kinds import make_every_kind
from tests.support.restores import restore, target_of, verify

# What a restic does not record: sockets, paths beyond PATH_MAX (these two are not made), and for 0.14 also
# link targets that are not UTF-8 (mangled) and attributes of symbolic links.
LOST: dict[str, dict[bytes, set[str]]] = {
    "0.14": {b"link-not-utf8": {"target"}, b"link-dangling": {"xattrs"}},
    "0.18": {},
}


@pytest.mark.parametrize(("version", "format_version"), [("0.14", "1"), ("0.14", "2"), ("0.18", "2")])
def test_restic_backs_up_holdfast_restores(tmp_path: Path, version: str, format_version: str) -> None:
    """Every kind of file, from repositories of both format versions; verification finds nothing wrong with them."""
    shop = Shop(str(tmp_path))
    shutil.rmtree(shop.repository)
    run_restic(version, shop.repository, "init", "--repository-version", format_version)
    shutil.rmtree(shop.source)
    make_every_kind(shop.source, sockets=False, deep=False)
    shop.restic_backup(version)
    before = sorted(os.listdir(os.path.join(shop.repository, "locks")))

    result = restore(shop, verify=True, base=shop.source)
    assert (result.exit_code, result.problems, result.metadata_problems) == (0, [], [])
    source, target = tree_of(shop.source), tree_of(target_of(shop))
    for path, aspects in LOST[version].items():
        for aspect in aspects:
            for tree in (source, target):
                setattr(tree[path], aspect, None)
    assert compare_trees(source, target, top=False) == []
    assert ("no lock: the repository's format version is only read" in result.notes) == (format_version == "1")

    report = verify(shop, share=100)
    assert (report.exit_code, report.problems, report.packs_read) == (0, [], report.packs)
    assert sorted(os.listdir(os.path.join(shop.repository, "locks"))) == before


def test_restic_restores_the_same(tmp_path: Path) -> None:
    """Of a snapshot of Holdfast's, stock restic's restore and Holdfast's own are the same tree."""
    shop = Shop(str(tmp_path))
    shutil.rmtree(shop.source)
    make_every_kind(shop.source, sockets=False, deep=False)
    assert shop.backup().complete
    theirs = tmp_path / "theirs"
    run_restic("0.18", shop.repository, "restore", f"latest:{shop.source}", "--target", str(theirs), "--sparse")
    result = restore(shop, base=shop.source)
    assert result.exit_code == 0
    restics, ours = tree_of(theirs), tree_of(target_of(shop))
    for name in (b"link", b"link-hard"):  # restic makes hard links of files alone
        assert ours[name].links == b"link"
        ours[name].links = restics[name].links
    # Restic may take more room: it leaves holes by whole blobs.
    assert compare_trees(restics, ours, top=False) == []


def test_every_key_opens(tmp_path: Path) -> None:
    """A repository of restic's opens with any of its passwords, whichever comes first."""
    shop = Shop(str(tmp_path))
    shutil.rmtree(shop.repository)
    run_restic("0.18", shop.repository, "init")
    Path(shop.source, "file").write_bytes(b"x")
    shop.restic_backup("0.18")
    result = restore(shop, passwords=["not this one", PASSWORD])
    assert (result.exit_code, result.files) == (0, 1)
