"""How a command gets its work done: by an engine in this process (`--direct`), or by a worker that is rung for it."""

from __future__ import annotations

import getpass
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from cli.app import RunFailed
from cli.progress import Reporter
from shared.errors import EXIT_INCOMPLETE, EXIT_OK, HoldfastError, Interrupted, UsageError

if TYPE_CHECKING:
    from cli.app import App
    from shared.ledger.model import Run, RunKind

Result = TypeVar("Result")
PATIENCE = 60.0  # seconds for which who follows a run waits for Redis to come back
_AGAIN = 0.5
EXIT_CANCELLED = 130  # a run that somebody cancelled ends as one that Ctrl-C ended
OnEvent = Callable[[dict[str, Any]], None]


def run_direct(app: App, title: str, work: Callable[[OnEvent], Result]) -> Result:
    """Run an engine's function in this process, showing its progress."""
    with Reporter(app, title) as report:
        return work(report)


def ring(app: App, kind: RunKind, source: str, options: Mapping[str, object], *, host: str = "") -> str:
    """Open a run by hand and ring for a worker; the run's id. A restore may be for another `host` than its source's.

    Raises ConfigError, LedgerError.
    """
    from shared.messaging.client import open_and_ring

    with with_way_out("With --direct the work is done in this process, without Redis"):
        return open_and_ring(app.fleet, kind, source, options, host=host)


@contextmanager
def with_way_out(also: str = "") -> Iterator[None]:
    """Where Redis is away, say what to do; `also` is one way more. Raises LedgerAway."""
    from shared.ledger.errors import LedgerAway

    try:
        yield
    except LedgerAway as error:
        first = f"{error.hint}." if error.hint else "Is `holdfast up` running? `holdfast up --status` tells."
        hint = f"{first} {also}".rstrip()
        raise LedgerAway(str(error.args[0]), hint=hint) from error


def follow(app: App, run_id: str, title: str) -> Run:
    """Show a run's progress until it has ended; Ctrl-C stops the showing and not the run.

    Raises RunFailed, Interrupted, LedgerError.
    """
    from shared.ledger.model import RunState

    run: Run | None = None
    said: tuple[object, ...] = ()
    try:
        again = f"A run under way goes on without Redis; to follow it again: holdfast runs follow {run_id[:12]}"
        with with_way_out(again), Reporter(app, title) as report:
            for view in _patiently(app, run_id):
                if run is None and not view.state.is_final:
                    app.say(f"run {run_id}: a worker does it; Ctrl-C stops following, and not the run")
                run = view
                cut = bool(run.began) and not run.error  # that it is claimed again after its shards is its way
                if run.attempt > 1 and not cut and said != (run.attempt, run.error):
                    said = run.attempt, run.error
                    app.warn(f"attempt {run.attempt}; the one before: {run.error or 'given back by its worker'}")
                report(run.progress)
    except KeyboardInterrupt:
        raise Interrupted(f"no longer following; run {run_id} goes on") from None
    if run is None:
        raise HoldfastError(f"run {run_id} was not seen")
    if not run.state.is_known:
        raise HoldfastError(
            f"run {run_id} ended as {run.state.value}, which this release does not know",
            hint="`holdfast version`: the workers are of a newer one",
        )
    if run.state is RunState.FAILED:
        raise RunFailed(f"run {run_id} failed: {run.error}", run.exit_code)
    if run.state is RunState.CANCELLED:
        raise RunFailed(f"run {run_id} was {run.error or 'cancelled'}", run.exit_code or EXIT_CANCELLED)
    return run


def _patiently(app: App, run_id: str) -> Iterator[Run]:
    """A run's views; where Redis goes away in between, wait for it for a while: the run goes on without it."""
    from shared.ledger.errors import LedgerAway
    from shared.messaging.client import follow as views

    give_up = 0.0  # nothing has been seen yet: there is nothing to wait for
    away = False
    while True:
        try:
            for view in views(app.fleet, run_id):
                give_up, away = time.monotonic() + PATIENCE, False
                yield view
        except LedgerAway as error:
            if not give_up or (away and time.monotonic() > give_up):
                raise
            if not away:
                app.warn(f"{error.args[0]} The run goes on without Redis; waiting for it")
                give_up, away = time.monotonic() + PATIENCE, True
            time.sleep(_AGAIN)
        else:
            return


def exit_code_of(run: Run) -> int:
    """What a command that followed this run to its good end returns."""
    from shared.ledger.model import RunState

    code = run.result.get("exit_code", EXIT_OK)
    if isinstance(code, int) and code != EXIT_OK:
        return code
    return EXIT_INCOMPLETE if run.state is RunState.INCOMPLETE else EXIT_OK


def require_local(app: App, source: str, doing: str) -> None:
    """Refuse to take this machine's files for those of another. Raises UsageError."""
    host = app.fleet.source(source).host
    if host and not is_here(host):
        raise UsageError(
            f"source {source} is read on host {host}, and this is {socket.gethostname()}",
            hint=f"{doing} there, or without --direct",
        )


def is_here(host: str) -> bool:
    """Whether a host is this machine, by the names that `holdfast up` serves too."""
    name = socket.gethostname()
    return host in {name, name.partition(".")[0], "localhost"}


def who_asks() -> str:
    """Who is at the command line, for people: user and machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as in a container
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
