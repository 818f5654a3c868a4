"""Below which folders a restore may write, where the machine's own file says so. workers.restore.within."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from workers.restore.within import TargetRefused, admit, admit_in_place, enter


@pytest.fixture
def allowed(tmp_path: Path) -> Path:
    """The one folder that is allowed, with one beside it that is not."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "allowed").mkdir()
    return tmp_path / "allowed"


def is_refused(path: Path | str, *folders: Path) -> bool:
    """Whether a target is refused."""
    try:
        admit(str(path), [str(folder) for folder in folders])
    except TargetRefused:
        return True
    return False


def test_only_what_lies_in_a_folder_is_let_in(allowed: Path) -> None:
    """The folder itself and all below, there or not; nothing beside it, above it or of a name that begins alike."""
    for inside in ("", "sub", "sub/deep", "sub/../other"):
        assert not is_refused(allowed / inside, allowed)
    for outside in ("..", "../outside", "../allowed-too", "sub/../../outside", "/", "/etc"):
        assert is_refused(f"{allowed}/{outside}" if not outside.startswith("/") else outside, allowed)
    assert is_refused(allowed / "sub")  # no folder is allowed
    assert not is_refused("/etc/anything", Path("/"))


def test_a_link_counts_as_what_it_leads_to(allowed: Path) -> None:
    """Out of the folder, also by a link that dangles or leads on; into it from elsewhere; the folder may be one."""
    outside = allowed.parent / "outside"
    (allowed / "out").symlink_to(outside)
    (allowed / "dangling").symlink_to(outside / "not-there")
    (allowed / "again").symlink_to("out")
    (allowed / "loop").symlink_to("loop")
    for name in ("out", "out/sub", "dangling", "dangling/sub", "again/x"):
        assert is_refused(allowed / name, allowed)
    (outside / "in").symlink_to(allowed / "sub")
    assert admit(f"{outside}/in/x", [str(allowed)]) == (str(allowed), f"{allowed}/sub/x")
    (allowed.parent / "alias").symlink_to(allowed)
    assert admit(f"{allowed}/x", [f"{allowed.parent}/alias"]) == (str(allowed), f"{allowed}/x")


def test_the_refusal_names_the_place_what_is_allowed_and_the_way_out(allowed: Path) -> None:
    """Where a link is in the way, also where it leads to."""
    (allowed / "out").symlink_to("/etc")
    with pytest.raises(TargetRefused) as error:
        admit(f"{allowed}/out/x", [str(allowed)])
    said = str(error.value)
    assert all(word in said for word in (f"{allowed}/out/x", "/etc/x", f"only in {allowed}", "restore_to", "--direct"))
    with pytest.raises(TargetRefused, match="it may nowhere"):
        admit("/srv/x", [])


def test_in_place_the_original_paths_are_the_targets(allowed: Path) -> None:
    """Each of them; a link at its end is what is restored, one on the way to it counts as what it leads to."""

    def paths(*names: str) -> list[bytes]:
        return [os.fsencode(f"{allowed}/{name}")[1:] for name in names]

    (allowed / "out").symlink_to("/etc")
    admit_in_place(paths("a", "b/c", "out"), [str(allowed)])
    for refused in (paths("a", "../outside/b"), paths("out/passwd"), [b"etc/passwd"], [b""]):
        with pytest.raises(TargetRefused):
            admit_in_place(refused, [str(allowed)])


def test_the_target_is_made_and_entered_without_a_link(allowed: Path) -> None:
    """What is missing is made for its owner alone; a link that was put in the way after the look is refused."""
    folder, real = admit(f"{allowed}/one/two", [str(allowed)])
    fd = enter(folder, real)
    assert os.readlink(f"/proc/self/fd/{fd}") == f"{allowed}/one/two"
    os.close(fd)
    assert (allowed / "one/two").stat().st_mode & 0o777 == 0o700
    os.rename(allowed / "one", allowed / "moved")
    (allowed / "one").symlink_to(allowed.parent / "outside")
    with pytest.raises(TargetRefused, match="is a link or a file by now"):
        enter(folder, real)
    assert os.listdir(allowed.parent / "outside") == []
