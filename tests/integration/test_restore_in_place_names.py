"""A restore in place of a source whose own path is not UTF-8: a snapshot's `paths` can't say it, its trees can."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.backups import Shop, write
from tests.support.restores import restore
from workers.restore.places import quoted


def below(shop: Shop, name: bytes) -> str:
    """A path in the source folder."""
    return os.fsdecode(os.fsencode(shop.source) + b"/" + name)


def test_all_of_a_source_whose_path_is_not_utf8(tmp_path: Path) -> None:
    """As it is reached through a symbolic link of a sane name: what was changed comes back, nothing else is touched."""
    shop = Shop(str(tmp_path))
    folder = below(shop, b"latin\xe9")
    for number in range(2):
        write(f"{folder}/d/f{number}", b"original")
    os.symlink(folder, f"{shop.source}/way")
    shop.backup(f"{shop.source}/way/d")
    write(f"{folder}/d/f0", b"changed")
    result = restore(shop, in_place=True)
    assert (result.exit_code, result.files, result.unchanged) == (0, 1, 1)
    assert Path(f"{folder}/d/f0").read_bytes() == b"original"
    assert not os.path.lexists(f"{shop.source}/latin\ufffd")


def test_paths_that_look_the_same_in_a_snapshot(tmp_path: Path) -> None:
    """One byte or another, and the replacement character itself, are the same in its JSON: all of them come back."""
    shop = Shop(str(tmp_path))
    names = [b"\xe8/one", b"\xe9/two", "\ufffd/three".encode(), b"sane"]
    for name in names:
        write(below(shop, name) + "/f", b"original")
    write(below(shop, b"\xe8/two") + "/f", b"not backed up")
    shop.backup(*(below(shop, name) for name in names))
    for name in names:
        os.unlink(below(shop, name) + "/f")
    result = restore(shop, in_place=True)
    assert (result.exit_code, result.files, result.problems) == (0, 4, [])
    assert [Path(below(shop, name), "f").read_bytes() for name in names] == [b"original"] * 4
    assert Path(below(shop, b"\xe8/two"), "f").read_bytes() == b"not backed up"


def test_a_damaged_tree_above_one_of_them(tmp_path: Path) -> None:
    """It is told as damage, and the other paths are restored."""
    shop = Shop(str(tmp_path))
    lost, good = below(shop, b"a/\xe9/lost"), below(shop, b"b/\xe9/good")
    write(f"{lost}/f", b"lost")
    write(f"{good}/f", b"good")
    shop.backup(lost, run="first")
    packs = shop.packs()
    shop.backup(lost, good, run="second")
    for pack in packs.values():
        os.unlink(pack)
    os.unlink(f"{good}/f")
    result = restore(shop, in_place=True)
    assert (result.exit_code, result.files, Path(f"{good}/f").read_bytes()) == (24, 1, b"good")
    assert [problem["path"] for problem in result.problems] == [below(shop, b"a"), f"{shop.source}/a/\ufffd/lost"]


@pytest.mark.parametrize(
    "name", [b"plain", b"lat in\xe9", b"it's\n\x1b[31m\\", "caf\u00e9 \u202e$HOME".encode(), b"-n"]
)
def test_its_undo_can_be_pasted_into_a_shell(tmp_path: Path, name: bytes) -> None:
    """The printed command names the very bytes, and is printable itself."""
    shop = Shop(str(tmp_path))
    folder = below(shop, name)
    write(f"{folder}/f", b"original")
    shop.backup(folder)
    write(f"{folder}/f", b"precious, and longer")
    result = restore(shop, in_place=True, paths=[folder])
    assert result.undo_hint.isprintable()
    subprocess.run(["bash", "-c", result.undo_hint], check=True)
    assert Path(f"{folder}/f").read_bytes() == b"precious, and longer"


def test_digits_behind_an_escaped_byte() -> None:
    """They are not taken as part of the escape."""
    assert quoted(b"/\xe9117") == "$'/\\351117'"
    out = subprocess.run(["bash", "-c", f"printf %s {quoted(bytes(range(1, 256)))}"], check=True, capture_output=True)
    assert out.stdout == bytes(range(1, 256))
