"""Programs of the user's around a change of primary: `before`, which may forbid it, and `after`, which is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from shared.config.programs import environment
from shared.observability.structured import structlog
from workers.programs.program import ProgramFailed, ProgramSpec, run_program

if TYPE_CHECKING:
    from shared.config.failover import FailoverHooks
    from workers.failover.machine import Make

_log = structlog.get_logger("holdfast.failover")


def run_before(hooks: FailoverHooks, act: Make, look: Callable[[], None]) -> None:
    """Raises ProgramFailed: then nothing is to be changed."""
    if hooks.before is not None:
        run_program(_spec(hooks.before, hooks.timeout), look, more=_told(act, ""))


def run_after(hooks: FailoverHooks, act: Make, look: Callable[[], None], *, made: bool) -> None:
    """Whatever came of it. One that fails changes nothing any more, so it is logged."""
    if hooks.after is None:
        return
    try:
        run_program(_spec(hooks.after, hooks.timeout), look, more=_told(act, "succeeded" if made else "failed"))
    except ProgramFailed as error:
        _log.warning("the hook after a change of primary failed", site=act.site, reason=str(error))


def _spec(argv: tuple[str, ...], timeout: float) -> ProgramSpec:
    kept, _ = environment({}, "failover.hooks")
    return ProgramSpec(list(argv), kept, timeout)


def _told(act: Make, result: str) -> dict[str, str]:
    return {
        "HOLDFAST_MOVE": act.what.value,
        "HOLDFAST_SITE": act.site,
        "HOLDFAST_TO": act.to,
        "HOLDFAST_WHY": act.why,
        "HOLDFAST_RESULT": result,
    }
