"""Scratch folders: private, gone afterwards, and nobody takes a living one for what was left."""

from __future__ import annotations

import os
import signal
import stat
import tempfile
from pathlib import Path

import pytest

from shared.errors import RestoreError
from tests.support.kinds import make_every_kind
from tests.support.stores import NOBODY
from workers.maintenance.scratch import FOLDER, remove, require_space, scratch_folder


def left(base: Path) -> list[str]:
    """What lies where scratch folders are made."""
    return sorted(os.listdir(base / FOLDER))


def test_a_folder_is_private_and_gone_afterwards(tmp_path: Path) -> None:
    """Also where the work ends in an error."""

    def fail() -> None:
        with scratch_folder(str(tmp_path), "ab" * 16) as folder:
            assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
            assert stat.S_IMODE(os.stat(tmp_path / FOLDER).st_mode) == 0o700
            assert os.listdir(folder) == []
            Path(folder, "file").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert left(tmp_path) == []


def test_whatever_is_in_it_goes(tmp_path: Path) -> None:
    """Trees deeper than a path may be long, directories of any mode, links to elsewhere, which is left alone."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    with scratch_folder(str(tmp_path), "ab" * 16) as folder:
        make_every_kind(os.path.join(folder, "all"), sockets=False)
        os.symlink(outside, os.path.join(folder, "link"))
        closed = os.path.join(folder, "closed")
        os.makedirs(os.path.join(closed, "below"))
        os.chmod(os.path.join(closed, "below"), 0)
        os.chmod(closed, 0)
    assert left(tmp_path) == []
    assert (outside / "kept").read_text() == "kept"


def test_who_owns_it_can_remove_it_without_being_root() -> None:
    """Modes that keep the owner out are changed first."""
    with tempfile.TemporaryDirectory() as above:
        os.chmod(above, 0o755)  # noqa: S103 - nobody must get this far
        base = Path(above, "parent", "base")
        below = base / "closed" / "below"
        below.mkdir(parents=True)
        (below / "file").write_text("x")
        for path in (below, below.parent):
            path.chmod(0)
        for path in (base.parent, base, below.parent, below, below / "file"):
            os.chown(path, *[NOBODY if os.geteuid() == 0 else -1] * 2)
        child = os.fork()
        if not child:
            if os.geteuid() == 0:
                os.setuid(NOBODY)
            remove(str(base))
            os._exit(int(base.exists()))
        assert os.waitpid(child, 0)[1] == 0


def test_what_a_killed_test_left_goes_with_the_next(tmp_path: Path) -> None:
    """Not before it is dead; and what a living one has stays."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        with scratch_folder(str(tmp_path), "aa" * 16) as folder:
            Path(folder, "file").write_text("x")
            os.write(writing, b"x")
            signal.pause()
    os.read(reading, 1)
    with scratch_folder(str(tmp_path), "bb" * 16) as mine:
        assert len(left(tmp_path)) == 4
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with scratch_folder(str(tmp_path), "cc" * 16) as another:
            assert [name.partition("-")[0] for name in left(tmp_path)] == ["bb" * 16] * 2 + ["cc" * 16] * 2
            assert os.path.isdir(mine)
            assert os.path.isdir(another)
    assert left(tmp_path) == []
    os.close(reading)
    os.close(writing)


def test_a_test_that_was_killed_while_it_began_or_ended_leaves_nothing(tmp_path: Path) -> None:
    """The lock is there before the folder, and goes after it."""
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "aa-1.lock").touch()
    with scratch_folder(str(tmp_path), "bb" * 16):
        assert len(left(tmp_path)) == 2
    assert left(tmp_path) == []


def test_what_does_not_fit_is_told_before_anything_is_written(tmp_path: Path) -> None:
    """With the place, what is needed, what there is, and the way out."""
    with scratch_folder(str(tmp_path), "ab" * 16) as folder:
        require_space(folder, 1000, 1)
        for space, nodes in ((1 << 60, 1), (1, 1 << 60)):
            with pytest.raises(RestoreError, match=f"too little room in {tmp_path / FOLDER}: it .*{1 << 60}") as caught:
                require_space(folder, space, nodes)
            assert "set `cache_dir` to where there is more" in caught.value.hint


def test_a_cache_that_can_not_be_written_is_told(tmp_path: Path) -> None:
    """With its path."""
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(
            RestoreError, match=f"no scratch folder can be made in {tmp_path}/file/{FOLDER}: Not a directory"
        ),
        scratch_folder(str(tmp_path / "file"), "ab" * 16),
    ):
        pass
