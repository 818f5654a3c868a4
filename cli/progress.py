"""How a run shows how far it is: a bar on a terminal, a line now and then elsewhere, nothing with --json or --quiet.

Events come from an engine in this process or, through the ledger, from one anywhere; both say the same things:
`files`, `files_total`, `bytes`, `bytes_total` and `current`, each where it is known. A rebuild counts `repositories`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from cli import format as show
from cli.terminal import echo

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from cli.app import App

LINE_EVERY = 10.0  # seconds between two lines where there is no terminal
_NAME_AT_MOST = 48  # characters of the file that is being read


class View(Protocol):
    """Something that shows progress."""

    def update(self, event: Mapping[str, Any]) -> None:
        """Take what a progress event says."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class Reporter:
    """Takes an engine's events and shows them. A context manager: what it drew is gone at the end."""

    def __init__(self, app: App, title: str) -> None:
        self._view: View | None = None
        if app.is_interactive:
            self._view = BarView(title, color=app.color)
        elif not app.json and not app.quiet:
            self._view = LineView(title)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._view is not None:
            self._view.close()

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Take one event of an engine; those that say no progress are left to whoever they are for."""
        if self._view is not None and event.get("event", "progress") == "progress":
            self._view.update(event)


def describe(event: Mapping[str, Any]) -> str:
    """What a progress event says, in a line: `1,204 of 5,000 files, 92 MB of 1.2 GB`."""
    parts = []
    files, total = event.get("files"), event.get("files_total")
    if files is not None:
        parts.append(f"{files:,} of {total:,} files" if total else show.count(files, "file"))
    count, size = event.get("bytes"), event.get("bytes_total")
    if count is not None:
        parts.append(f"{show.size(count)} of {show.size(size)}" if size else show.size(count))
    if "repositories" in event:
        parts.append(f"{event['repositories']:,} of {event['repositories_total']:,} repositories")
    if event.get("shards"):
        parts.append(f"{event.get('shards_done', 0)} of {event['shards']} shards done")
    return ", ".join(parts)


def pace(event: Mapping[str, Any], count: float, seconds: float) -> str:
    """Rate and time left, after `count` bytes in `seconds`: `104 MB/s, 2m 10s left`; empty where that can't be told."""
    if count <= 0 or seconds <= 0:
        return ""
    rate = show.rate(count, seconds)
    left = (event.get("bytes_total") or 0) - event.get("bytes", 0)
    return f"{rate}, {show.duration(left * seconds / count)} left" if left > 0 else rate


class LineView:
    """Plain lines on stderr, each 10 s, with the rate since the first event: a run elsewhere may be old already."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._next = time.monotonic() + LINE_EVERY
        self._first: tuple[float, float] | None = None  # when, and how many bytes there were

    def update(self, event: Mapping[str, Any]) -> None:
        """Print a line if it is time."""
        now = time.monotonic()
        said = describe(event)
        if self._first is None and "bytes" in event:
            self._first = now, event["bytes"]
        if now >= self._next and said:
            self._next = now + LINE_EVERY
            since, had = self._first or (now, 0)
            speed = pace(event, event.get("bytes", 0) - had, now - since)
            echo(f"{self._title}: {said}{', ' if speed else ''}{speed}", err=True)

    def close(self) -> None:
        """Nothing is left to do."""


class BarView:
    """A bar on the terminal, drawn by rich, with rate and, where the whole is known, the time left."""

    def __init__(self, title: str, *, color: bool) -> None:
        self._title = title
        self._color = color
        self._bar: RichProgress | None = None
        self._task: Any = None
        self._next = 0.0

    def update(self, event: Mapping[str, Any]) -> None:
        """Draw, at most five times a second."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + 0.2
        if self._bar is None:
            self._bar, self._task = self._start(counts_bytes="repositories" not in event)
        name = str(event.get("current", ""))
        # A terminal takes no bytes that are not UTF-8, and no control characters of a file's name.
        name = show.plain(name)[-_NAME_AT_MOST:]
        total = event.get("bytes_total") or event.get("repositories_total") or None
        done = event.get("bytes", event.get("repositories", 0))
        self._bar.update(self._task, completed=done, total=total, said=describe(event), current=name)
        self._bar.refresh()

    def _start(self, *, counts_bytes: bool) -> tuple[RichProgress, TaskID]:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

        bar = Progress(
            TextColumn(escape(self._title)),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[said]}", markup=False),
            *([TransferSpeedColumn()] if counts_bytes else []),
            TimeRemainingColumn(),
            TextColumn("{task.fields[current]}", markup=False),
            console=Console(stderr=True, no_color=not self._color),
            transient=True,
            auto_refresh=False,  # which needs a thread: this process may still fork
        )
        task = bar.add_task(self._title, total=None, said="", current="")
        bar.start()
        return bar, task

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
