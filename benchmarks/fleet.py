"""What a large fleet costs: `make bench-fleet`, or `python -m benchmarks.fleet [PART ...]`.

sources  10,000, each of a host of its own, under 200 policies by label, with a year of evidence: what they cost a
         scheduler and an exporter, on a Valkey of its own
agents   200 idle ones, real, and what that comes to for 10,000 (`benchmarks.agents`)
workers  how backups by 1, 2, 4 and 8 of them scale on a site 20 ms away (`benchmarks.scale`)
alike    what 20 similar hosts take, apart and in one repository (`benchmarks.alike`)

Each figure is printed with its aim, and stands in docs/benchmarks.md with `--publish`.
"""

from __future__ import annotations

import gc
import gzip
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from statistics import median
from typing import TypeVar
from urllib.request import Request, urlopen

from benchmarks import agents, alike, scale
from benchmarks.figures import ROOT, Figure, run_parts
from scheduler.evidence import SiteEvidence
from scheduler.tick import tick
from shared.config.fleet import Fleet
from shared.ledger.ledger import Ledger
from shared.ledger.model import Evidence, RunState, slot_text
from shared.messaging import bell
from shared.observability import logs
from tests.support.fleets import SmallFleet
from tests.support.ledgers import own_ledger, until
from tests.support.many import store_snapshots

Answer = TypeVar("Answer")
SOURCES, POLICIES = 10_000, 200
NOW = datetime.now(UTC)
_PROMETHEUS = {  # as one asks
    "Accept": "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
    "Accept-Encoding": "gzip",
}
_FORMS = (
    "full: '{minute} 2 * * 0', incremental: '{minute} {hour} * * *', timezone: Europe/Berlin, rpo: 26h",
    "full: '{minute} 3 1 * *', incremental: 1h, jitter: 30m, rpo: 2h",
    "full: 7d, incremental: '*/15 * * * *', timezone: America/New_York, blackout: [{{hours: 03:00-03:30}}]",
)


def fleet_file(directory: str, broker: str) -> SmallFleet:
    """The configuration: a policy for each of 200 teams, and sources with five labels."""
    small = SmallFleet(directory, broker=broker)
    with open(small.path) as file:
        head = file.read().partition("policies:")[0]
    with open(small.path, "w") as file:
        file.write(head + "policies:\n")
        for number in range(POLICIES):
            form = _FORMS[number % len(_FORMS)].format(minute=number % 60, hour=number % 24)
            file.write(f"  p{number:03}: {{select: 'team=t{number:03}, !retired', {form}}}\n")
        file.write("sources:\n")
        for number in range(SOURCES):
            labels = f"team: t{number % POLICIES:03}, tier: {number % 3}, room: r{number % 40}, os: linux, nr: {number}"
            file.write(f"  s{number:05}: {{host: h{number:05}, labels: {{{labels}}}, paths: [/srv]}}\n")
    return small


def note_evidence(ledger: Ledger, fleet: Fleet, slot: datetime) -> None:
    """Let each source have snapshots up to this slot."""
    text = slot_text(slot)
    pipe = ledger.client.pipeline(transaction=False)
    for name, source in fleet.sources.items():
        pipe.hset(ledger.realm(source.host or "").keys.evidence(name), mapping={"a|last": text, "a|full": text})
    pipe.execute()


def configuration(small: SmallFleet) -> Iterator[Figure]:
    """`config check`, and how long it takes until a scheduler has its fleet."""
    command = [sys.executable, "-m", "cli.main", "-c", small.path, "config", "check"]
    seconds = [_timed_command(command) for _ in range(3)]
    yield Figure(f"`config check`, {SOURCES:,} sources, {POLICIES} policies", median(seconds), "s")
    load = "import sys\nfrom scheduler.standing import table_of\nfrom shared.config.fleet import Fleet\n"
    start = [sys.executable, "-c", f"{load}table_of(Fleet.load(sys.argv[1]))", small.path]
    yield Figure("start-up of a process that schedules", _timed_command(start), "s")


def _timed_command(command: Sequence[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def ticks(ledger: Ledger, fleet: Fleet) -> Iterator[Figure]:
    """Nothing due, all due, all under way; and what this process has taken by then."""
    one_tick = partial(tick, fleet, ledger, partial(bell.ring, ledger.client), _never, NOW)
    note_evidence(ledger, fleet, NOW + timedelta(minutes=30))
    first, _ = _timed(one_tick)
    idle = [_timed(one_tick) for _ in range(9)]
    assert not any(ticked.opened for _, ticked in idle)
    yield Figure("the first tick of a process", 1000 * first, "ms")
    yield Figure("a tick, nothing due", 1000 * median(seconds for seconds, _ in idle), "ms", "< 100")
    ledger.client.flushall()
    note_evidence(ledger, fleet, NOW - timedelta(days=365))
    seconds, ticked = _timed(one_tick)
    held = sum("blackout" in reason for reason in ticked.held.values())
    assert len(ticked.opened) + held == SOURCES, len(ticked.opened)
    yield Figure("a tick, all due", seconds, "s", "< 1")
    seconds, ticked = _timed(one_tick)
    assert not ticked.opened
    yield Figure("a tick, all under way", 1000 * seconds, "ms")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    yield Figure("memory of the process that ticks, at its peak", peak, "MB", "< 300", "without Celery, some 40 MB")


def wiped(ledger: Ledger, fleet: Fleet) -> Iterator[Figure]:
    """Redis is emptied; each source has a repository of its own at the site, and nothing is due."""
    store_snapshots(fleet, dict.fromkeys(fleet.sources, slot_text(NOW + timedelta(minutes=30))))
    ledger.client.flushall()
    sites, opened, longest, began = SiteEvidence(fleet), 0, 0.0, time.perf_counter()
    asking = True
    while asking:
        seconds, ticked = _timed(
            partial(tick, fleet, ledger, partial(bell.ring, ledger.client), sites, NOW, ask=sites.ask)
        )
        longest, opened = max(longest, seconds), opened + len(ticked.opened)
        asking = any("is being asked" in reason for reason in ticked.held.values())
    sites.close()
    yield Figure(f"Redis emptied: until {SOURCES:,} repositories were asked", time.perf_counter() - began, "s")
    yield Figure("the longest tick meanwhile", longest, "s", "", "a tick waits a second for answers")
    yield Figure("runs opened by that, where nothing was due", opened, "", "< 1")


def _never(source: str, site: str) -> Evidence | None:
    raise AssertionError(f"the tick asked site {site} for {source}")


def _timed(work: partial[Answer]) -> tuple[float, Answer]:
    began = time.perf_counter()
    done = work()
    return time.perf_counter() - began, done


def scrape(small: SmallFleet, ledger: Ledger, fleet: Fleet, directory: str) -> Iterator[Figure]:
    """What Prometheus waits for and gets, of an exporter that has read the ledger: all under way; then all ended."""
    command = [sys.executable, "-m", "cli.main", "-c", small.path, "exporter", "--listen", "127.0.0.1:0", "--json"]
    log = os.path.join(directory, "exporter.out")
    with open(log, "wb") as out:
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.DEVNULL)
    try:
        until(lambda: "}" in _text(log), seconds=60)
        url = _text(log).split('"url": "')[1].split('"')[0]
        url += "" if url.endswith("/metrics") else "/metrics"
        for when in ("a backup of each source open", "a last run of each source"):
            if "last" in when:
                end_all(ledger, fleet)
            _get(url)
            took = [_timed(partial(_get, url)) for _ in range(5)]
            seconds = [one for one, _ in took]
            yield Figure(f"a scrape, {when}", median(seconds), "s", "< 1", f"worst {max(seconds):.2f} s")
            yield Figure(f"size of `/metrics`, {when}", len(took[-1][1]) / 1e6, "MB", "", "compressed on the way")
    finally:
        process.terminate()
        process.wait()


def end_all(ledger: Ledger, fleet: Fleet) -> None:
    """Let every open run succeed."""
    for name, source in fleet.sources.items():
        realm = ledger.realm(source.host or "")
        for run in realm.open_runs():
            lease = realm.claim(run.id, "bench").lease
            assert lease is not None
            result = {"site": "a", "bytes_read": 10**9, "bytes_added": 10**6 + len(name), "bytes_stored": 10**5}
            realm.finish(lease, RunState.SUCCEEDED, result=result)


def _text(path: str) -> str:
    with open(path) as file:
        return file.read()


def _get(url: str) -> bytes:
    with urlopen(Request(url, headers=_PROMETHEUS), timeout=60) as answer:  # noqa: S310 - our own exporter
        body: bytes = answer.read()
    return gzip.decompress(body)


def measure() -> Iterator[Figure]:
    """What many sources cost."""
    with tempfile.TemporaryDirectory() as base, own_ledger(os.path.join(base, "valkey")) as (ledger, server):
        ledger.client.connection_pool.connection_kwargs["socket_timeout"] = 60.0
        with open(os.path.join(base, "log"), "w") as log:
            logs.set_up(stream=log)
            small = fleet_file(base, server.url)
            fleet = small.fleet
            gc.collect()
            gc.freeze()  # as a scheduler does before it forks
            yield from configuration(small)
            yield from ticks(ledger, fleet)
            yield from scrape(small, ledger, fleet, base)
            yield from wiped(ledger, fleet)


PARTS = {"sources": measure, "agents": agents.figures, "workers": scale.measure, "alike": alike.measure}


if __name__ == "__main__":
    sys.exit(run_parts("fleet", __doc__, PARTS))
