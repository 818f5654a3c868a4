"""A source that is the output of a program: one file of the snapshot, or no snapshot at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shared.errors import HoldfastError, Interrupted
from tests.support.backups import STREAM, Shop
from tests.support.ledgers import until
from workers.programs.program import ProgramFailed

MIB = 1 << 20


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """An empty repository."""
    return Shop(str(tmp_path))


def random_file(path: Path, size: int) -> str:
    """A file that nothing compresses."""
    path.write_bytes(os.urandom(size))
    return str(path)


def snapshots(shop: Shop) -> int:
    """How many there are."""
    return len(list(Path(shop.repository, "snapshots").glob("*")))


def test_a_stream_is_one_file_that_restic_restores(shop: Shop, tmp_path: Path) -> None:
    """Byte for byte, below the path that the snapshot's record names."""
    content = random_file(tmp_path / "content", 9 * MIB + 17)
    result = shop.stream("cat", content)
    assert (result.kind, result.files_new, result.dirs, result.bytes_read) == ("full", 1, 3, 9 * MIB + 17)
    (snapshot,) = shop.restic_json("0.18", "snapshots")
    assert snapshot["paths"] == [STREAM]
    shop.restic("0.18", "restore", "latest", "--target", str(tmp_path / "back"))
    assert (tmp_path / f"back{STREAM}").read_bytes() == Path(content).read_bytes()
    shop.check()


def test_ours_restores_it_right_into_a_folder(shop: Shop) -> None:
    """Without the folders above it, and readable by its owner alone."""
    shop.stream("printf", "hello")
    target = shop.restore("back", of=os.path.dirname(STREAM), paths=[STREAM])
    file = Path(target, "dump")
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("hello", 0o600)


def test_an_incremental_reads_all_and_stores_what_is_new(shop: Shop, tmp_path: Path) -> None:
    """The second of the same content stores no data."""
    content = random_file(tmp_path / "content", 6 * MIB)
    first = shop.stream("cat", content)
    second = shop.stream("cat", content)
    assert (second.kind, second.parent, second.files_changed) == ("incremental", first.snapshot, 1)
    assert (second.bytes_read, second.bytes_added < MIB) == (6 * MIB, True)


def test_a_small_stream_counts_once(shop: Shop) -> None:
    """Its bytes are counted as they come, and not again with its node."""
    result = shop.stream("printf", "hello")
    assert (result.bytes_read, result.bytes_processed) == (5, 5)


def is_alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


FAILING = {
    "ends with a code after half": (
        ["sh", "-c", "head -c 5000000 /dev/zero; echo no space >&2; exit 7"],
        "code 7: no space",
    ),
    "is killed": (["sh", "-c", "head -c 5000000 /dev/zero; kill -9 $$"], "killed by SIGKILL"),
    "prints nothing": (["true"], "printed nothing"),
    "is none": (["/no/such/program"], "can't be started"),
    "is no program": (["/etc/passwd"], "can't be started"),
    "ends badly while its child holds the pipe": (["sh", "-c", "echo a; sleep 60 & exit 3"], "code 3"),
    "closes its output and then fails": (["sh", "-c", "echo a; exec >&-; sleep 0.3; exit 4"], "code 4"),
}


@pytest.mark.parametrize("how", FAILING)
def test_a_program_that_fails_makes_no_snapshot(shop: Shop, how: str) -> None:
    """However it does; the error names the source, the program, and what it said."""
    argv, reason = FAILING[how]
    with pytest.raises(HoldfastError, match=reason) as caught:
        shop.stream(*argv)
    assert "source web1: " in str(caught.value)
    assert (caught.value.exit_code, snapshots(shop)) == (ProgramFailed.exit_code, 0)
    assert list(Path(shop.repository, "locks").glob("*")) == []


def test_what_it_says_is_kept_bounded(shop: Shop) -> None:
    """A program that complains without end neither fills memory nor the error, nor is it held up."""
    with pytest.raises(HoldfastError, match="the last line") as caught:
        shop.stream("sh", "-c", "echo a; yes complaint | head -c 3000000 >&2; echo the last line >&2; exit 1")
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize(
    "argv", [["sleep", "600"], ["sh", "-c", "echo a; exec >&-; sleep 600"]], ids=["silent", "closed"]
)
def test_a_program_that_hangs_is_killed_after_its_time(shop: Shop, argv: list[str]) -> None:
    """Also one that has closed its output: what it printed until then is no dump."""
    with pytest.raises(HoldfastError, match="not done after"):
        shop.stream(*argv, timeout=0.5)
    assert snapshots(shop) == 0


def test_its_group_is_killed_with_it(shop: Shop, tmp_path: Path) -> None:
    """What the program has started does not outlive it."""
    note = tmp_path / "pid"
    with pytest.raises(HoldfastError, match="not done after"):
        shop.stream("sh", "-c", f"sleep 600 & echo $! > {note}; wait", timeout=0.5)
    pid = int(note.read_text())
    until(lambda: not is_alive(pid) or None)


def test_a_stop_ends_the_program(shop: Shop, tmp_path: Path) -> None:
    """SIGTERM ends a run whose program prints nothing, and the program with it."""
    note = tmp_path / "pid"

    def look(*_: object) -> None:
        if note.exists() and note.read_text().endswith("\n"):
            signal.setitimer(signal.ITIMER_REAL, 0)
            os.kill(os.getpid(), signal.SIGTERM)

    old = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    try:
        with pytest.raises(Interrupted):
            shop.stream("sh", "-c", f"echo $$ > {note}; exec sleep 600")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert not os.path.exists(f"/proc/{note.read_text().strip()}")
    assert snapshots(shop) == 0


def test_what_was_uploaded_is_not_uploaded_again(shop: Shop, tmp_path: Path) -> None:
    """A program that fails after most of it: the next run stores the rest alone."""
    content = random_file(tmp_path / "content", 24 * MIB)
    with pytest.raises(HoldfastError, match="code 1"):
        shop.stream("sh", "-c", f"head -c {20 * MIB} {content}; exit 1", pack_size=4 * MIB)
    result = shop.stream("cat", content, pack_size=4 * MIB)
    assert result.bytes_added < 8 * MIB
    shop.check()


def test_its_environment_is_what_is_given(shop: Shop) -> None:
    """And no more: not that of the engine."""
    os.environ["HOLDFAST_TEST_LEAK"] = "1"
    try:
        shop.stream("env", env={"PGHOST": "/run/pg"})
    finally:
        del os.environ["HOLDFAST_TEST_LEAK"]
    names = {line.partition("=")[0] for line in shop.restic("0.18", "dump", "latest", STREAM).splitlines()}
    assert names - {"LC_CTYPE"} == {"PATH", "PGHOST"}


def test_it_has_no_terminal_and_no_input(shop: Shop) -> None:
    """A program that would ask for a password gets none, and does not wait for one."""
    result = shop.stream(
        sys.executable, "-c", f"import os, sys; print(repr(sys.stdin.read()), os.getsid(0) == {os.getsid(0)})"
    )
    assert shop.restic("0.18", "dump", result.snapshot, STREAM) == "'' False\n"


@pytest.mark.parametrize("who", ["helper", "program", "engine"])
def test_a_kill_makes_no_snapshot_and_leaves_no_program(shop: Shop, tmp_path: Path, who: str) -> None:
    """Of the helper that reads it, of the program, of the engine: what the program has started ends with it, too."""
    note = tmp_path / "pids"
    program = f"head -c 5000000 /dev/zero; sleep 600 & echo $$ $! >> {note}; wait"
    engine = subprocess.Popen([sys.executable, "-c", ENGINE, str(tmp_path), program], stderr=subprocess.PIPE, text=True)
    until(lambda: note.exists() or None)
    pids = [int(word) for word in note.read_text().split()]
    victims = {"helper": parent_of(parent_of(pids[0])), "program": pids[0], "engine": engine.pid}
    os.kill(victims[who], signal.SIGKILL)
    said = engine.communicate(timeout=60)[1]
    until(lambda: not any(is_alive(pid) for pid in pids) or None)
    assert snapshots(shop) == 0
    expected = {"helper": "HelperDied", "program": "sh was killed by SIGKILL", "engine": ""}
    assert expected[who] in said
    assert shop.stream("printf", "good").complete
    assert "no errors were found" in shop.restic("0.18", "check", "--read-data", "--no-lock")


ENGINE = """
import sys
from tests.support.backups import Shop
Shop(sys.argv[1]).stream("sh", "-c", sys.argv[2])
"""


def parent_of(pid: int) -> int:
    """The parent of a process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
