"""The one task of a worker: somebody rang for a run. Claim it, supervise its engine, tell what came of it.

A ring says nothing but an id. It may be forged, late or doubled: what is to be done stands in the ledger, and whoever
does not get the lease leaves at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from shared import topology
from shared.errors import ConfigError, HoldfastError, RestoreError
from shared.ledger.errors import LedgerAway
from shared.ledger.model import UPKEEP, Evidence, RunKind, RunState, Word, slot_text
from shared.messaging.bell import ring
from shared.messaging.names import TASK_RUN
from shared.observability import logs
from shared.observability.structured import structlog
from workers import presence, sharding, specs, telling
from workers.engine_process import EngineProcess
from workers.supervise import Supervisor

if TYPE_CHECKING:
    from celery import Celery

    from shared.config.fleet import Fleet
    from shared.ledger.lease import Lease
    from shared.ledger.ledger import Ledger
    from shared.ledger.model import Run
    from workers.context import WorkerContext

_RUN_ID = re.compile(r"[0-9a-f]{32}")
_COMMITTED = {RunState.SUCCEEDED, RunState.INCOMPLETE}
_log = structlog.get_logger("holdfast.worker")


def register(app: Celery, context: WorkerContext) -> None:
    """Give the app its task, and its worker a place on the roll."""
    presence.connect(context)

    @app.task(name=TASK_RUN)  # type: ignore[untyped-decorator] # Celery has no types
    def run(run_id: object = None, *_: object) -> None:
        execute(app, context, run_id)


def execute(app: Celery | None, context: WorkerContext, run_id: object) -> Word | None:
    """Follow one ring. None where there was nothing to do: no such run, held, done. An agent needs no `app`."""
    if not isinstance(run_id, str) or not _RUN_ID.fullmatch(run_id):
        _log.warning("a ring without a run's id", given=repr(run_id)[:100])
        return None
    if context.stopping():
        return None  # the reaper rings again
    return _unless_away(lambda: _answer(app, context, run_id))


def _unless_away(work: Callable[[], Word | None]) -> Word | None:
    try:
        return work()
    except LedgerAway as error:
        _log.warning("Redis is away; the reaper rings again", reason=str(error))
        return None


def _answer(app: Celery | None, context: WorkerContext, run_id: str) -> Word | None:
    for ledger in context.ledgers:
        run = ledger.get(run_id)
        if run is None:
            continue
        if run.request.kind not in specs.ENGINES:
            # Not failed: workers of the newer release that opened it will do it. The reaper rings for them.
            _log.warning("a run of a kind that this release does not know", run=run_id, kind=run.request.kind.value)
            return None
        claim = ledger.claim(run_id, context.owner)
        if claim.lease is not None:
            return _about(app, context, ledger, claim.lease, run)
        if claim.word is not Word.UNKNOWN:
            return None
    _log.warning("a ring for a run that the ledger does not know", run=run_id)
    return None


def _about(app: Celery | None, context: WorkerContext, ledger: Ledger, lease: Lease, run: Run) -> Word | None:
    """`run` as it was before the claim: what it is to do never changes."""
    request, fleet = run.request, context.newest_fleet()
    site = topology.site_of(fleet, request)
    about = {"run": run.id, "source": request.source, "kind": request.kind.value, "site": site}
    with logs.about_run(**about, attempt=lease.attempt):
        return _unless_away(lambda: _work(app, context, fleet, ledger, run, lease))


def _work(app: Celery | None, context: WorkerContext, fleet: Fleet, ledger: Ledger, run: Run, lease: Lease) -> Word:
    try:
        _require_here(fleet, run)
        _require_first(run, lease)
        turn = sharding.turn_of(fleet, ledger, run)
        if isinstance(turn, sharding.ShardFailed):
            return ledger.finish(lease, RunState.FAILED, error=turn.error, exit_code=turn.exit_code)
        journal = ledger.journal(run.id)
        spec = specs.spec_for(fleet, run.request, slot=_slot(run), journal=journal, agent=context.agent, shards=turn)
        engine = EngineProcess(specs.command_for(run.request.kind), spec)
    except LedgerAway:  # no fault of the run's: tried again soon, or when its lease has run out
        return ledger.release(lease)
    except HoldfastError as error:
        _log.error("run failed", error=str(error))
        return ledger.finish(lease, RunState.FAILED, error=str(error), exit_code=error.exit_code)
    except Exception as error:  # noqa: BLE001 - else the reaper would ring for it for ever
        _log.exception("run failed before its engine started")
        return ledger.finish(lease, RunState.FAILED, error=f"it could not be started: {error!r}", exit_code=1)
    _log.info("run started", engine=engine.pid)
    supervisor = Supervisor(
        ledger,
        run.request,
        lease,
        engine,
        owner=context.owner,
        stopping=lambda: context.stopping() or _has_moved(context, run, str(spec["site"]["id"])),
        note=lambda result: _note(ledger, run, result),
        site=str(spec["site"]["id"]),
    )
    outcome = supervisor.run()
    _log.info("run ended", word=outcome.word.value, state=outcome.state.value, error=outcome.error)
    with suppress(LedgerAway):  # then the reaper rings
        if outcome.word is Word.RELEASED and not outcome.error:
            ring(ledger.client, [(run.id, run.request.queue)])
    if outcome.word is Word.CUT or run.request.kind is RunKind.SHARD:
        _ring_for(ledger, run)
    committed = outcome.word is Word.FINISHED and run.request.kind.is_backup and outcome.state in _COMMITTED
    if app is not None and not context.agent:  # an agent reaches no key but its own, and can't seal an event
        telling.tell_of_run(app, fleet, run, outcome, str(spec["site"]["id"]), committed=committed)
    return outcome.word


def _has_moved(context: WorkerContext, run: Run, site: str) -> bool:
    """Whether another site has taken the place of the one that a backup goes to: given back, it goes there."""
    if not run.request.kind.is_backup:
        return False
    try:
        return context.primary_now(run.request.source) != site
    except HoldfastError:
        return False  # the source, or its primary, is no longer known: it goes on where it is


def _ring_for(ledger: Ledger, run: Run) -> None:
    """For the shards of a run that was cut, or for the run whose last shard is over."""
    with suppress(LedgerAway):  # then the reaper rings
        ring(ledger.client, sharding.to_ring(ledger, run.request))


def _require_here(fleet: Fleet, run: Run) -> None:
    """Never take one machine's files for those of another. Raises ConfigError.

    A source may have been moved to another host, or to a pool, since the run was opened; or the run is forged.
    """
    if not run.request.kind.reads_source:
        return
    host = fleet.source(run.request.source).host or ""
    if host != run.host:
        there = f"on host {host}" if host else "by a pool"
        raise ConfigError(
            f"source {run.request.source} is read {there}, and this run was opened for "
            f"{f'host {run.host}' if run.host else 'a pool'}",
            hint=f"Was it moved? Ask again: holdfast backup {run.request.source}",
        )


def _require_first(run: Run, lease: Lease) -> None:
    """A program that was given a part of a dump by an attempt before may have kept it. Raises RestoreError."""
    into = run.request.options.get("into")
    if into and lease.attempt > 1:
        raise RestoreError(
            f"an attempt before this one was broken off, and program {into} may have kept a part of what it got",
            hint=f"Undo what it has done, then: holdfast runs retry {run.id[:12]}",
        )


def _slot(run: Run) -> str:
    """A run by hand serves the slots up to the time at which it was opened (by Redis's clock)."""
    return run.request.slot or slot_text(datetime.fromtimestamp(run.opened, UTC))


def _note(ledger: Ledger, run: Run, result: Mapping[str, object]) -> None:
    site = result.get("site")
    if not isinstance(site, str):
        return
    kind = run.request.kind
    if kind in UPKEEP and "snapshots" not in run.request.options:
        code, rate, healed = (
            value if isinstance(value := result.get(key), int | float) else 0
            for key in ("exit_code", "rate", "healed_objects")
        )
        ledger.note_upkeep(run.request.source, site, kind, _slot(run), code=int(code), figure=rate or healed)
        if healed:
            _log.warning("damaged objects were healed", objects=healed, by=result.get("healed_from"))
    if kind is RunKind.REPLICATE and result.get("last"):
        evidence = Evidence(str(result["last"]), str(result.get("last_full", "")))
        ledger.note_evidence(run.request.source, site, evidence)
    if not kind.is_backup:
        return
    slot = _slot(run)
    full = result.get("kind", kind.value.removeprefix("backup-")) == "full"
    ledger.note_evidence(run.request.source, site, Evidence(slot, slot if full else ""))
