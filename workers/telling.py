"""What a run that has ended tells others as events: a snapshot that was committed, how its site behaved.

Where Redis is away the event is missed, and nothing depends on it.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from shared.errors import ConfigError, StorageError
from shared.health.observation import Observation, Verdict
from shared.health.place import observer_of, place_of
from shared.ledger.model import RunState
from shared.storage.api import MissingObject, Permanent, Transient

if TYPE_CHECKING:
    from celery import Celery

    from shared.config.fleet import Fleet
    from shared.ledger.model import Run
    from shared.messaging.signed import Sealer
    from workers.supervise import Outcome

_MANY = 10  # requests made again in one run, after which its site counts as slow
_RING_KEPT = 60.0  # seconds for which a ring waits for a scheduler; each tick looks all the same
_STORE = range(StorageError.exit_code, 40)
_SAYS_NOTHING = (StorageError.exit_code, MissingObject.exit_code)  # of the site as a whole


def tell_of_run(app: Celery, fleet: Fleet, run: Run, outcome: Outcome, site: str, *, committed: bool) -> None:
    """Tell what came of one attempt. `site`: the one that it worked at."""
    from kombu.exceptions import OperationalError  # an agent has no need of it

    from shared.health.events import tell
    from shared.messaging.events import REPLICATION, SNAPSHOT_COMMITTED, publish
    from shared.messaging.names import SCHEDULER, TASK_HEAR

    seen = seen_by_run(fleet, run, outcome, site)
    if not committed and seen is None:
        return
    with suppress(OperationalError, ConfigError):
        key = fleet.event_key
        if committed:
            sealer = _sealer(key, f"{observer_of('runs')}:{os.getpid()}")  # its numbers are of this process alone
            message = sealer.seal(SNAPSHOT_COMMITTED, _committed(run, outcome))
            waiting = publish(app.producer_pool, message)
            if waiting[REPLICATION.name] <= 1:  # else somebody has rung already, or the next tick finds it
                app.send_task(TASK_HEAR, queue=SCHEDULER, expires=_RING_KEPT)
        if seen is not None:
            tell(app.producer_pool, _sealer(key, seen.observer), [seen])


def seen_by_run(fleet: Fleet, run: Run, outcome: Outcome, site: str) -> Observation | None:
    """What an attempt says of a site: that it failed there, or had to ask again and again; None for nothing."""
    name = outcome.site if outcome.site in fleet.sites else site
    if name not in fleet.sites:
        return None
    if outcome.state is RunState.FAILED and outcome.exit_code in _STORE and outcome.exit_code not in _SAYS_NOTHING:
        gone = Permanent.exit_code if not fleet.site(name).is_s3 else Transient.exit_code
        verdict = Verdict.DOWN if outcome.exit_code in {gone, Transient.exit_code} else Verdict.REFUSED
        why = f"{run.request.kind.value} of {run.request.source}: {outcome.error}"
    elif outcome.retries >= _MANY:
        verdict = Verdict.SLOW
        why = f"{run.request.kind.value} of {run.request.source}: {outcome.retries} requests had to be made again"
    else:
        return None
    return Observation(name, observer_of("runs"), place_of(fleet), time.time(), verdict, why)


@lru_cache(maxsize=4)
def _sealer(key: bytes, by: str) -> Sealer:
    from shared.messaging.signed import Sealer

    return Sealer(key, by)


def _committed(run: Run, outcome: Outcome) -> dict[str, Any]:
    result = outcome.result
    return {
        "run": run.id,
        "source": run.request.source,
        "repository": result.get("repository", ""),
        "site": result.get("site", ""),
        "snapshot": result.get("snapshot", ""),
    }
