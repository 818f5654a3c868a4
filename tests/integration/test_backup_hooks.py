"""Programs around a run: before it reads, and after it whatever came of it, kill -9 included."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from shared.errors import BackupError, Interrupted
from shared.repository.errors import Locked
from tests.support.backups import STREAM, Shop
from tests.support.ledgers import until
from workers.backup.hooks import HookFailed
from workers.backup.run import run_backup
from workers.backup.spec import BackupResult, HooksSpec, Selection, StreamSpec
from workers.programs.program import ProgramSpec

NOTE = 'echo "$0 $HOLDFAST_SOURCE $HOLDFAST_KIND $HOLDFAST_RESULT" >> {log}'


class Hooked:
    """A shop with hooks that note in a log that they ran."""

    def __init__(self, base: Path) -> None:
        self.shop = Shop(str(base))
        self.base = base
        self.log = base / "log"
        Path(self.shop.source, "file").write_text("content")
        self.before = self.after = "true"
        self.timeout = 20.0
        self.private_mounts = False

    def backup(self, *, program: str = "", kind: Literal["full", "incremental"] = "incremental") -> BackupResult:
        """One backup with these hooks: of the source folder, or of what a shell prints."""
        spec = self.shop.spec()
        spec.state_dir = str(self.base / "state")
        spec.selection = Selection([self.shop.source])
        env = {"PATH": os.environ["PATH"]}
        spec.kind = kind
        spec.hooks = HooksSpec(self._sh("before"), self._sh("after"), env, self.timeout, self.private_mounts)
        if program:
            spec.stream = StreamSpec(STREAM, ProgramSpec(["sh", "-c", program], env))
        return run_backup(spec, self.shop.events.append)

    @property
    def ran(self) -> list[str]:
        """What ran, with kind and result."""
        try:
            return [line.replace(" web1", "").strip() for line in self.log.read_text().splitlines()]
        except FileNotFoundError:
            return []

    def _sh(self, name: str) -> list[str]:
        return ["sh", "-ec", f"{NOTE.format(log=self.log)}; {getattr(self, name)}", name]


@pytest.fixture
def hooked(tmp_path: Path) -> Hooked:
    """A shop with hooks."""
    return Hooked(tmp_path)


def test_both_run_around_a_backup(hooked: Hooked) -> None:
    """What `before` makes is in the snapshot; `after` is told what came of it."""
    hooked.before = f"echo frozen > {hooked.shop.source}/frozen"
    hooked.after = f"rm {hooked.shop.source}/frozen"
    result = hooked.backup()
    assert (result.complete, result.files_new) == (True, 2)
    assert hooked.ran == ["before full", "after full succeeded"]
    assert os.listdir(hooked.shop.source) == ["file"]


def test_a_failing_before_reads_nothing_and_is_undone(hooked: Hooked) -> None:
    """It may have begun something, so `after` runs."""
    hooked.before = "echo no space for the snapshot >&2; exit 5"
    with pytest.raises(
        HookFailed, match=r"source web1: hook before: sh ended with code 5: no space .*; nothing was read"
    ):
        hooked.backup()
    assert hooked.ran == ["before full", "after full failed"]
    assert not list(Path(hooked.shop.repository, "snapshots").glob("*"))
    hooked.before = "true"
    assert hooked.backup().complete


def test_a_before_that_hangs_is_killed_and_undone(hooked: Hooked) -> None:
    """With all that it has started."""
    hooked.before, hooked.timeout = f"sleep 600 & echo $! > {hooked.base}/pid; wait", 0.5
    with pytest.raises(HookFailed, match="not done after"):
        hooked.backup()
    assert hooked.ran == ["before full", "after full failed"]
    pid = int((hooked.base / "pid").read_text())
    until(lambda: True if not _runs(pid) else None)


def test_a_failing_after_makes_the_run_incomplete_and_is_tried_again(hooked: Hooked) -> None:
    """The snapshot stands, the run says what is wrong, and the next one begins with it."""
    hooked.after = f"test -e {hooked.base}/repaired || {{ echo still busy >&2; exit 1; }}"
    result = hooked.backup()
    assert (result.complete, result.problems[0].partition(". ")[0]) == (
        False,
        "source web1: hook after: sh ended with code 1: still busy",
    )
    assert len(hooked.shop.restic_json("0.18", "snapshots")) == 1
    with pytest.raises(HookFailed, match="still busy"):
        hooked.backup()
    (hooked.base / "repaired").touch()
    assert hooked.backup().complete
    kept = ["after incremental killed", "before incremental", "after incremental succeeded"]
    assert hooked.ran == ["before full", "after full succeeded", "after incremental killed", *kept]


def test_an_after_that_hangs_is_killed_and_tried_again(hooked: Hooked) -> None:
    """It does not hold the run up for ever, and what it did not undo the next one does."""
    hooked.after, hooked.timeout = f"test -e {hooked.base}/repaired || sleep 600", 2.0
    result = hooked.backup()
    assert (result.complete, "sh was not done after 2 s and was killed" in result.problems[0]) == (False, True)
    (hooked.base / "repaired").touch()
    assert hooked.backup().complete
    assert hooked.ran[2:] == ["after incremental killed", "before incremental", "after incremental succeeded"]


def test_a_backup_that_fails_is_undone(hooked: Hooked) -> None:
    """And what fails in undoing it is told with it."""
    hooked.before, hooked.after = f"rm {hooked.shop.repository}/locks/*", "exit 9"
    with pytest.raises(Locked) as caught:
        hooked.backup()
    assert "; and source web1: hook after: sh ended with code 9" in str(caught.value)
    assert hooked.ran == ["before full", "after full failed"]


def test_a_stop_during_before_is_undone(hooked: Hooked) -> None:
    """SIGTERM ends it, then `after` runs."""
    hooked.before = f"kill -TERM {os.getpid()}; sleep 600"
    with pytest.raises(Interrupted):
        hooked.backup()
    assert hooked.ran == ["before full", "after full interrupted"]


KILLED = """
import sys
from pathlib import Path
from tests.integration.test_backup_hooks import Hooked
hooked = Hooked(Path(sys.argv[1]))
hooked.before, program = sys.argv[2:]
hooked.backup(program=program)
"""


def start(hooked: Hooked, *, before: str = "true", program: str = "") -> subprocess.Popen[bytes]:
    """An engine of its own, in a group of its own, once it has made the mark."""
    mark = hooked.base / "reached"
    command = [sys.executable, "-c", KILLED, str(hooked.base), before.format(mark=mark), program.format(mark=mark)]
    engine = subprocess.Popen(command, start_new_session=True)
    until(lambda: mark.exists() or None)
    return engine


def kill(engine: subprocess.Popen[bytes]) -> None:
    """As a supervisor or a power cut does."""
    os.killpg(engine.pid, signal.SIGKILL)
    engine.wait()


def test_after_a_kill_in_before_the_next_run_undoes_it_first(hooked: Hooked) -> None:
    """What was begun is not left, though nobody was there to end it; and it does not go on beside the undoing."""
    pid = hooked.base / "pid"
    kill(start(hooked, before=f"sleep 600 & echo $! > {pid}; touch {{mark}}; wait"))
    until(lambda: True if not _runs(int(pid.read_text())) else None)
    hooked.backup()
    assert hooked.ran == ["before full", "after incremental killed", "before full", "after full succeeded"]


def test_after_a_kill_in_reading_the_next_run_undoes_it_first(hooked: Hooked) -> None:
    """As far as it had come; and the program that it read has ended with it."""
    pid = hooked.base / "pid"
    kill(start(hooked, program=f"echo $$ > {pid}; touch {{mark}}; exec sleep 600"))
    until(lambda: True if not _runs(int(pid.read_text())) else None)
    hooked.backup()
    assert hooked.ran == ["before full", "after incremental killed", "before full", "after full succeeded"]


def test_a_source_whose_hooks_are_gone_is_undone_too(hooked: Hooked) -> None:
    """The note knows how, though the configuration does not any more."""
    hooked.after = f"test -e {hooked.base}/repaired"
    hooked.backup()
    (hooked.base / "repaired").touch()
    spec = hooked.shop.spec()
    spec.state_dir = str(hooked.base / "state")
    spec.selection = Selection([hooked.shop.source])
    run_backup(spec, hooked.shop.events.append)
    assert hooked.ran == ["before full", "after full succeeded", "after incremental killed"]


def test_two_runs_of_a_source_do_not_undo_each_other(hooked: Hooked) -> None:
    """The second is refused while the first has the hooks."""
    engine = start(hooked, before="touch {mark}; sleep 600")
    with pytest.raises(BackupError, match="another run of it is under way here"):
        hooked.backup()
    assert hooked.ran == ["before full"]
    kill(engine)


def _runs(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
