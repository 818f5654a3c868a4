"""What all observers have seen lately: the newest observation of each site and observer.

`newest` waits for nothing. A thread drains the events as they come, and looks every so often at what lies beside them
(`events.look`), so that neither a lost event nor another listener on the same queue keeps anything back for long. Where
Redis is away nothing new is heard, and what was grows old: an observation counts for as long as the configuration says
from when it was made, by the observer's clock, and no longer than that from when it was heard.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from shared.errors import LedgerError
from shared.health.events import look, observation_of
from shared.ledger.connect import connect
from shared.messaging.broker import broker_url
from shared.messaging.events import HEALTH, Ear
from shared.messaging.ignored import count_ignored
from shared.messaging.signed import Judge
from shared.observability.structured import structlog

if TYPE_CHECKING:
    from shared.config.fleet import Fleet
    from shared.health.observation import Observation
    from shared.ledger.ledger import Ledger

_PACE = 0.5  # seconds between two looks at the queue
_LOOK_EVERY = 10.0  # seconds between two looks at what lies beside it
_TIMEOUT = 2.0  # seconds

_log = structlog.get_logger("holdfast.health")


class Heard:
    """The memory alone. Safe for several threads."""

    def __init__(self, expires: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`expires`: seconds for which an observation counts."""
        self.expires = expires
        self._clock = clock
        self._lock = threading.Lock()
        self._newest: dict[tuple[str, str], tuple[Observation, float]] = {}

    def hear(self, observations: Iterable[Observation], now: float) -> None:
        """Take what is newer than what is known. `now`: POSIX seconds, by our clock on the wall."""
        with self._lock:
            for one in observations:
                known = self._newest.get((one.site, one.observer))
                if known is None or one.at > known[0].at:
                    self._newest[one.site, one.observer] = (one, self._clock() - max(0.0, now - one.at))

    def newest(self) -> dict[tuple[str, str], Observation]:
        """By site and observer, what counts now."""
        with self._lock:
            oldest = self._clock() - self.expires
            self._newest = {key: held for key, held in self._newest.items() if held[1] >= oldest}
            return {key: one for key, (one, _) in self._newest.items()}


class Listening:
    """Hears in a thread of its own, from `start` to `stop`. One to a process, made or started after its forks."""

    def __init__(self, fleet: Fleet, *, pace: float = _PACE) -> None:
        """Raises ConfigError: an agent's file has no secret, and can't tell a forged event."""
        self.heard = Heard(fleet.health.expires)
        url, self._key = broker_url(fleet), fleet.event_key
        self._max_age, self._ahead = fleet.health.expires, fleet.health.clock_tolerance
        self._ear = Ear(url, HEALTH, Judge(self._key, max_age=self._max_age, ahead=self._ahead))
        self._ledger: Ledger = connect(url, timeout=_TIMEOUT)
        self._pace = pace
        self._look_at = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="health-events", daemon=True)

    def start(self) -> None:
        """Hear from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Hear no more."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_TIMEOUT + self._pace)
        self._ledger.client.close()

    def newest(self) -> dict[tuple[str, str], Observation]:
        """See `Heard`. Waits for nothing."""
        return self.heard.newest()

    def listen(self) -> None:
        """Take what has come by now; where Redis is away that is nothing. What the thread does again and again."""
        events, now = self._ear.drain(), time.time()
        self.heard.hear((one for event in events if (one := observation_of(event)) is not None), now)
        try:
            if time.monotonic() >= self._look_at:
                self._look_at = time.monotonic() + _LOOK_EVERY
                client, max_age, ahead = self._ledger.client, self._max_age, self._ahead
                self.heard.hear(look(client, self._key, now=now, max_age=max_age, ahead=ahead).values(), now)
            count_ignored(self._ledger, self._ear.judge)
        except LedgerError:
            return  # nothing new, then

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.listen()
            except Exception:  # noqa: BLE001 - a thread's end is seen by nobody
                _log.exception("health events can't be heard")
            self._stop.wait(self._pace)
        self._ear.close()
