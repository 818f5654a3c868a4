"""A run that is cut in shards, as the worker sees it that got its lease: what is to be done now.

Nobody holds a slot while he waits for shards. So each time that such a run is claimed it is looked at anew, by what the
ledger has of its shards: its engine cuts it, says which are to be done again, or finishes it; or it fails with a shard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.errors import ConfigError
from shared.ledger.model import RunKind, RunRequest, RunState, Word, shard_run_id
from workers.backup.shards.plan import Plan
from workers.backup.spec import ShardsSpec

if TYPE_CHECKING:
    from shared.config.fleet import Fleet
    from shared.ledger.lease import Lease
    from shared.ledger.ledger import Ledger
    from shared.ledger.model import Run

_DONE = (RunState.SUCCEEDED, RunState.INCOMPLETE)
_LOST_AT_MOST = 5  # times; something deletes what is stored as fast as that, without respecting locks


@dataclass(frozen=True, slots=True)
class HandOut:
    """Shards are to be done first; those in `again` anew."""

    plan: str
    again: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ShardFailed:
    """A shard has failed, and with it this attempt at the run."""

    error: str
    exit_code: int


def turn_of(fleet: Fleet, ledger: Ledger, run: Run) -> ShardsSpec | ShardFailed | None:
    """What an engine is to do of a run now, or why it fails; None: it has to do with no shards.

    `run` as it was before it was claimed. Raises ConfigError, LedgerAway.
    """
    request = run.request
    if request.kind is RunKind.SHARD:
        return _shard(request)
    if not request.kind.is_backup or run.host:
        return None
    wanted = fleet.source(request.source).shards
    shards = {_number(shard.request, "shard"): shard for shard in ledger.children(run.id)}
    if not shards:
        return ShardsSpec(run.id, wanted) if wanted else None
    some = next(iter(shards.values())).request
    count = _number(some, "of")
    lost = []
    for number, shard in sorted(shards.items()):
        if shard.is_over and shard.state not in _DONE:
            # After an attempt that has failed it is done again; else it is this attempt that fails with it.
            if not (run.attempts and run.attempts[-1].error):
                said = f"shard {number + 1} of {count}: {shard.error or shard.state.value}"
                return ShardFailed(said, shard.exit_code or 1)
            lost.append(number)
        if shard.lost >= _LOST_AT_MOST:
            return ShardFailed(f"shard {number + 1} of {count} was done and lost {shard.lost} times", 1)
    done = [dict(shards[n].result) if n in shards and shards[n].state in _DONE else None for n in range(count)]
    return ShardsSpec(run.id, wanted or count, str(some.options.get("plan", "")), done=done, lost=lost)


def cut(ledger: Ledger, request: RunRequest, lease: Lease, what: HandOut) -> Word:
    """Open the shards of a run; it waits for them. Raises LedgerAway."""
    shards = requests_of(request, what.plan)
    return ledger.cut(lease, shards, {shards[number].id for number in what.again})


def requests_of(run: RunRequest, text: str) -> list[RunRequest]:
    """The shards of a run by its plan: the same ones whoever asks."""
    plan = Plan.parse(text)
    return [
        RunRequest(
            id=shard_run_id(run.id, plan.digest, number),
            kind=RunKind.SHARD,
            source=run.source,
            policy=run.policy,
            slot=run.slot,
            queue=run.queue,
            options={"shard": number, "of": plan.count, "plan": text},
            parent=run.id,
            attempts=run.attempts,
        )
        for number in range(plan.count)
    ]


def handed_out(result: Mapping[str, object]) -> HandOut | None:
    """What an engine says that is to be done first; None: it is done with the run."""
    said = result.get("cut")
    if not isinstance(said, dict):
        return None
    return HandOut(str(said["plan"]), tuple(int(number) for number in said["again"]))


def to_ring(ledger: Ledger, request: RunRequest) -> Sequence[tuple[str, str]]:
    """Whom to ring for, now that a run was cut, or a shard is over. Raises LedgerAway."""
    found = [ledger.get(request.parent)] if request.kind is RunKind.SHARD else [*ledger.children(request.id)]
    return [(run.id, run.request.queue) for run in found if run is not None and run.state is RunState.QUEUED]


def _shard(request: RunRequest) -> ShardsSpec:
    text = request.options.get("plan")
    number = _number(request, "shard")
    try:
        plan = Plan.parse(str(text))
    except ValueError as error:
        raise ConfigError(f"shard {request.id} has no plan ({error})") from error
    if not 0 <= number < plan.count or not request.parent:
        raise ConfigError(f"shard {request.id} is none of its plan")
    return ShardsSpec(request.parent, plan.count, str(text), number)


def _number(request: RunRequest, name: str) -> int:
    value = request.options.get(name)
    return value if isinstance(value, int) else -1
