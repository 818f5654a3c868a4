"""What the sites say, asked between scrapes: whether they answer, and whether they have what the ledger claims.

An agent writes its own part of the ledger, so "backed up" is its claim. The proof lies at the site: a snapshot that
opens with the repository's key, bears the source's name, is complete, and was not begun before the run that is said to
have made it. A claim holds or is disproved only by a site that answered; what could not be asked changes nothing.

Each site is asked by a thread of its own, so that one which hangs holds up no other: a minute's pause between two looks
at whether it answers, each claim once a day, and one that was disproved again as soon as it has changed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.config.opening import open_repository
from shared.errors import ConfigError, HoldfastError
from shared.observability.structured import structlog
from shared.repository.errors import RepositoryMissing
from shared.storage.api import Denied

if TYPE_CHECKING:
    from shared.config.fleet import Fleet
    from shared.config.watch import FleetWatch
    from shared.repository.snapshot import Snapshot

PAUSE = 60.0  # seconds between two looks whether a site answers; a look that takes longer says that it does not
EVERY = 86400.0  # seconds after which a claim is looked at again
SLACK = 600.0  # seconds by which a source's clock may be behind Redis's
_AT_ONCE = 60  # claims between two looks whether the site answers, so that one is not put off by thousands
_SOMEWHERE = "holdfast/probe/"  # a listing of it says that a site answers, and costs nothing

_log = structlog.get_logger("holdfast.exporter")


@dataclass(frozen=True, slots=True)
class Claim:
    """What the ledger says that a site has: a complete snapshot of a source, begun then, of this id (empty: any)."""

    source: str
    start: float
    snapshot: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of asking: whether the claim holds, and when it was asked (seconds since 1970)."""

    claim: Claim
    holds: bool
    at: float


def holds(claim: Claim, snapshots: Iterable[Snapshot], tag: str = "") -> bool:
    """Whether these snapshots of a repository bear the claim out. `tag`: what they say of the source, else its name."""
    return any(
        one.source == (tag or claim.source)
        and one.complete
        and claim.snapshot in {"", one.id}
        and max(one.began or 0, one.time) / 1e9 >= claim.start - SLACK
        for one in snapshots
    )


def to_ask(claims: Sequence[Claim], known: dict[str, Verdict], now: float, every: float = EVERY) -> list[Claim]:
    """The claims that are to be looked at now, those that waited longest first."""
    waiting = [
        claim
        for claim in claims
        if (verdict := known.get(claim.source)) is None
        or now - verdict.at >= every
        or (not verdict.holds and verdict.claim != claim)
    ]
    return sorted(waiting, key=lambda claim: known[claim.source].at if claim.source in known else 0.0)


class SiteLooks:
    """Asks the sites of the newest configuration. `follow` may be called at any time; answers are read by any thread.

    `claims` gives what the ledger says of a site.
    """

    def __init__(self, watch: FleetWatch, claims: Callable[[str], list[Claim]], *, pause: float = PAUSE) -> None:
        self._watch = watch
        self._claims = claims
        self._pause = pause
        self._stop = threading.Event()
        self._looks: dict[str, _Look] = {}

    def follow(self) -> None:
        """Ask the sites that the configuration names now, and no other."""
        fleet = self._watch.fleet
        wanted = [name for name, site in fleet.sites.items() if not site.witness] if fleet.ask_sites else []
        self._looks = {name: look for name, look in self._looks.items() if name in wanted}
        for name in wanted:
            if name not in self._looks:
                self._looks[name] = _Look(name, self._pause)
                thread = threading.Thread(target=self._run, args=(self._looks[name],), daemon=True)
                thread.start()  # nobody waits for one that hangs at a site that is gone

    def stop(self) -> None:
        """Ask no more."""
        self._stop.set()

    def up(self) -> dict[str, bool]:
        """By site, whether it answered; without those that were never asked."""
        answers = {name: look.answers() for name, look in self._looks.items()}
        return {name: up for name, up in answers.items() if up is not None}

    def verdicts(self) -> dict[tuple[str, str], Verdict]:
        """By source and site, what came of asking."""
        sources = self._watch.fleet.sources
        return {
            (source, name): verdict
            for name, look in self._looks.items()
            for source, verdict in look.known.copy().items()
            if source in sources
        }

    def _run(self, look: _Look) -> None:
        while not self._stop.is_set() and self._looks.get(look.site) is look:
            fleet = self._watch.fleet
            if look.ask(fleet):
                for claim in to_ask(self._claims(look.site), look.known, time.time())[:_AT_ONCE]:
                    if self._stop.is_set():
                        break
                    look.check(fleet, claim)
            self._stop.wait(self._pause)


class _Look:
    """What is known of one site. One thread asks; others read."""

    def __init__(self, site: str, patience: float) -> None:
        self.site = site
        self.known: dict[str, Verdict] = {}  # by source
        self._patience = patience
        self._up: bool | None = None
        self._since = 0.0  # when the question was put that is not answered yet; 0: none
        self._said = ""

    def answers(self) -> bool | None:
        """Whether it answered the last question; None before the first. One that takes long is no answer."""
        since = self._since
        return False if since and time.monotonic() - since > self._patience else self._up

    def ask(self, fleet: Fleet) -> bool:
        """Whether it answers."""
        self._since = time.monotonic()
        error = ""
        down = True
        try:
            store = fleet.open_site(self.site)
            try:
                next(iter(store.list(_SOMEWHERE)), None)
            finally:
                store.close()
        except (ConfigError, Denied) as found:
            error, down = str(found), False  # this exporter may not ask, which says nothing of the site
        except HoldfastError as found:
            error = str(found)
        self._up, self._since = (None if error and not down else not error), 0.0
        if error and error != self._said and not down:
            _log.warning("a site can't be asked", site=self.site, reason=error)
        elif error and error != self._said:
            _log.warning("a site does not answer", site=self.site, reason=error)
        elif self._said and not error:
            _log.info("a site answers again", site=self.site)
        self._said = error
        return not error

    def check(self, fleet: Fleet, claim: Claim) -> None:
        """Look whether a claim holds. Where that can't be known, nothing changes."""
        try:
            tag = fleet.source(claim.source).first_name
            repository = open_repository(fleet, fleet.repository_of(claim.source), self.site).repository
            try:
                true = holds(claim, repository.snapshots(lambda *_: None), tag)
            finally:
                repository.store.close()
        except RepositoryMissing:
            true = False
        except HoldfastError as error:
            _log.warning("a claim can't be checked", source=claim.source, site=self.site, reason=str(error))
            return
        if not true:
            _log.error(
                "the site does not have what the ledger claims",
                source=claim.source,
                site=self.site,
                snapshot=claim.snapshot,
            )
        self.known[claim.source] = Verdict(claim, true, time.time())
