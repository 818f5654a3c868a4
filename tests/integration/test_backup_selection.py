"""Which files of a source are left out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shared.errors import BackupError
from tests.support.backups import Shop, write
from tests.support.compare import tree_of
from tests.support.namespaces import run_mounted

TAG = b"Signature: 8a477f597d28d172789f06886806bc55\n# a cache\n"


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A source like a checkout."""
    made = Shop(str(tmp_path))
    for name in (
        "keep.txt", "a.log", "important.log", "sub/b.log", "sub/build/out", "build/out", "buildx", "sub/deep/er/c.tmp",
        "sub/deep/keep", "docs/a/x.md", "docs/b/c/x.md", "docs/x.md", "space name ", "#hash", "!bang", "cache/1",
    ):  # fmt: skip
        write(f"{made.source}/{name}", b"0123456789")
    write(os.fsencode(made.source) + b"/latin\xe9.log", b"x")
    return made


def kept(shop: Shop, **selection: object) -> set[str]:
    """The files (not directories) of a snapshot that is made with this selection."""
    shop.backup(kind="full", **selection)
    restored = tree_of(shop.restore(os.urandom(4).hex()))
    return {os.fsdecode(path) for path, seen in restored.items() if seen.kind != "dir"}


ALL = {
    "keep.txt", "a.log", "important.log", "sub/b.log", "sub/build/out", "build/out", "buildx", "sub/deep/er/c.tmp",
    "sub/deep/keep", "docs/a/x.md", "docs/b/c/x.md", "docs/x.md", "space name ", "#hash", "!bang", "cache/1",
    "latin\udce9.log",
}  # fmt: skip


@pytest.mark.parametrize(
    ("patterns", "left_out"),
    [
        ([], set()),
        (["*.log"], {"a.log", "important.log", "sub/b.log", "latin\udce9.log"}),
        (["*.log", "!important.log"], {"a.log", "sub/b.log", "latin\udce9.log"}),
        (["/*.log"], {"a.log", "important.log", "latin\udce9.log"}),
        (["build"], {"build/out", "sub/build/out"}),
        (["build/"], {"build/out", "sub/build/out"}),
        (["/build"], {"build/out"}),
        (["buildx/"], set()),
        (["sub/deep"], {"sub/deep/er/c.tmp", "sub/deep/keep"}),
        (["sub/deep/*", "!sub/deep/keep"], {"sub/deep/er/c.tmp"}),
        (["sub/deep", "!sub/deep/keep"], {"sub/deep/er/c.tmp", "sub/deep/keep"}),
        (["docs/**/x.md"], {"docs/a/x.md", "docs/b/c/x.md", "docs/x.md"}),
        (["docs/*/x.md"], {"docs/a/x.md"}),
        (["**/er/"], {"sub/deep/er/c.tmp"}),
        (["\\#hash", "\\!bang", "space\\ name\\ "], {"#hash", "!bang", "space name "}),
        (["# a comment", "", "   "], set()),
        (["[ab].log"], {"a.log", "sub/b.log"}),
        (["latin?.log"], {"latin\udce9.log"}),
        (["*", "!*/", "!*.md"], ALL - {"docs/a/x.md", "docs/b/c/x.md", "docs/x.md"}),
    ],
)
def test_patterns_are_gitignores(shop: Shop, patterns: list[str], left_out: set[str]) -> None:
    """Anchored, negated, for directories alone, with stars, escaped; relative to the source's path."""
    assert ALL - kept(shop, excludes=patterns) == left_out


def test_files_that_list_patterns(shop: Shop, tmp_path: Path) -> None:
    """A line each, after those of the configuration; bytes that are not UTF-8 match such names."""
    listed = tmp_path / "patterns"
    listed.write_bytes(b"# comment\n*.md\n!docs/x.md\nlatin\xe9.log\r\n")
    listed.write_bytes(listed.read_bytes().replace(b"\r", b""))
    got = kept(shop, excludes=["*.tmp"], exclude_files=[str(listed)])
    assert ALL - got == {"sub/deep/er/c.tmp", "docs/a/x.md", "docs/b/c/x.md", "latin\udce9.log"}


def test_a_missing_pattern_file_is_an_error(shop: Shop) -> None:
    """Without it too much would be backed up, so nothing is."""
    with pytest.raises(BackupError, match=r"patterns /nowhere/x can't be read \(No such file"):
        shop.backup(exclude_files=["/nowhere/x"])
    assert shop.names("snapshots") == set()


@pytest.mark.parametrize("pattern", ["!", "a/[z-a]"])
def test_a_pattern_without_meaning_is_an_error(shop: Shop, pattern: str) -> None:
    """Told before anything is read, never by a process that dies of it."""
    with pytest.raises(BackupError, match="an exclude pattern can't be understood"):
        shop.backup(excludes=["*.log", pattern])
    assert shop.names("snapshots") == set()


def test_patterns_are_relative_to_each_path(shop: Shop) -> None:
    """An anchored pattern is anchored at every path of the source, the innermost that holds the file."""
    shop.backup(f"{shop.source}/sub", f"{shop.source}/docs", excludes=["/build", "/a"], kind="full")
    restored = tree_of(shop.restore())
    files = {os.fsdecode(path) for path, seen in restored.items() if seen.kind != "dir"}
    assert files == {"sub/b.log", "sub/deep/er/c.tmp", "sub/deep/keep", "docs/b/c/x.md", "docs/x.md"}


def test_caches_are_left_out_but_for_their_tag(shop: Shop) -> None:
    """A CACHEDIR.TAG counts only with its signature; the tag itself is kept."""
    write(f"{shop.source}/cache/CACHEDIR.TAG", TAG)
    write(f"{shop.source}/cache/below/2", b"x")
    write(f"{shop.source}/docs/CACHEDIR.TAG", b"no signature")
    assert kept(shop, exclude_caches=True) == ALL - {"cache/1"} | {"cache/CACHEDIR.TAG", "docs/CACHEDIR.TAG"}
    assert "cache/1" in kept(shop)


def test_what_lies_beside_a_marker_is_left_out(shop: Shop) -> None:
    """The marker is kept, so that it is seen why the directory is empty."""
    write(f"{shop.source}/sub/.nobackup")
    got = kept(shop, exclude_if_present=[".nobackup", ".other"])
    assert ALL - got == {"sub/b.log", "sub/build/out", "sub/deep/er/c.tmp", "sub/deep/keep"}
    assert "sub/.nobackup" in got


def test_files_larger_than_a_bound_are_left_out(shop: Shop) -> None:
    """One of exactly that size is kept; directories and links have no size."""
    write(f"{shop.source}/exact", b"x" * 100)
    write(f"{shop.source}/larger", b"x" * 101)
    os.symlink("x" * 200, f"{shop.source}/link")
    assert kept(shop, exclude_larger_than=100) == ALL | {"exact", "link"}


def test_excluded_files_do_not_make_a_snapshot_incomplete(shop: Shop) -> None:
    """And a file that is excluded later is gone from the next incremental, one that is no longer excluded is new."""
    first = shop.backup(excludes=["*.md"])
    second = shop.backup(excludes=["*.log"])
    assert (first.complete, second.complete, second.parent) == (True, True, first.snapshot)
    files = {os.fsdecode(path) for path, seen in tree_of(shop.restore()).items() if seen.kind != "dir"}
    assert ALL - files == {"a.log", "important.log", "sub/b.log", "latin\udce9.log"}


SCRIPT = """
import os, sys
from tests.support.backups import Shop
shop = Shop(sys.argv[1])
for one in (False, True):
    done = shop.backup(kind="full", one_file_system=one)
    print(done.complete, sorted(os.fsdecode(name) for name in shop.nodes(done.tree, shop.source + "/mnt")))
print("mnt" in os.listdir(shop.restore()))
"""


def test_other_file_systems_are_left_out_where_asked(shop: Shop, tmp_path: Path) -> None:
    """A mount point stays as an empty directory; asked for nothing, it is crossed."""
    os.mkdir(f"{shop.source}/mnt")
    mounts = 'mount -t tmpfs none "$1/source/mnt" && echo x > "$1/source/mnt/inside"'
    assert run_mounted(SCRIPT, str(tmp_path), mounts=mounts).split("\n")[:3] == ["True ['inside']", "True []", "True"]
