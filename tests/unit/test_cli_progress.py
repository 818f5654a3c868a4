"""How a run shows how far it is: cli.progress."""

from __future__ import annotations

import threading

import pytest

from cli import progress
from cli.app import App

EVENT = {"event": "progress", "files": 1204, "files_total": 5000, "bytes": 92_000_000, "bytes_total": 1_200_000_000}


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (EVENT, "1,204 of 5,000 files, 92 MB of 1.2 GB"),
        ({"files": 1, "bytes": 512}, "1 file, 512 B"),
        ({"phase": "create"}, ""),
    ],
)
def test_what_an_event_says(event: dict[str, object], said: str) -> None:
    """What is known, and no more."""
    assert progress.describe(event) == said


def test_without_a_terminal_there_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log does not fill with bars; what is no progress is no line."""
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    with progress.Reporter(App(), "web1") as report:
        report(EVENT)
        report({"event": "packed", "pack": "3f"})
    monkeypatch.setattr(progress, "LINE_EVERY", 100.0)
    with progress.Reporter(App(), "web1") as report:
        report(EVENT)
    assert capsys.readouterr().err == "web1: 1,204 of 5,000 files, 92 MB of 1.2 GB\n"


@pytest.mark.parametrize("app", [App(json=True), App(quiet=True)])
def test_json_and_quiet_show_nothing(
    app: App, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stdout and stderr belong to the result and to errors."""
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    with progress.Reporter(app, "web1") as report:
        report(EVENT)
    assert capsys.readouterr() == ("", "")


def test_a_bar_starts_no_thread_and_escapes_control_characters() -> None:
    """The process may still fork, and a file's name must not steer the terminal."""
    before = threading.active_count()
    bar = progress.BarView("[web1]", color=False)
    bar.update({**EVENT, "current": "evil\x1b[2J\udcff.txt"})
    assert bar._bar is not None
    task = bar._bar.tasks[0]
    got = (threading.active_count(), task.completed, task.total, task.fields["current"])
    bar.close()
    assert got == (before, 92_000_000, 1_200_000_000, "evil\\x1b[2J\\udcff.txt")
