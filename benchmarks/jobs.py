"""What the job system costs and how fast it is: `make bench-jobs`, or `python -m benchmarks.jobs [--json FILE]`.

On a Valkey of its own and real processes of Holdfast, some minutes in all. Each figure is printed with its aim, where
there is one, and stands in docs/benchmarks.md with `--publish`. Loaded machines give other figures: it says the load.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from functools import partial
from statistics import median

from benchmarks.figures import ROOT, Figure, publish, table
from benchmarks.ledger_memory import one_run, used
from scheduler.tick import Ticked, tick
from shared.config.fleet import Fleet
from shared.ledger import sweep
from shared.ledger.calls import HISTORY
from shared.ledger.ledger import Ledger
from shared.ledger.model import Evidence, Run, RunKind, RunState, slot_text
from shared.messaging import bell
from shared.messaging.client import find, open_and_ring
from shared.observability import logs
from tests.support.fleets import SmallFleet
from tests.support.ledgers import own_ledger, until

BEGIN, END = "<!-- jobs:begin -->", "<!-- jobs:end -->"
SOURCES = 10_000
NOW = datetime.now(UTC)
SERVED, MISSED = slot_text(NOW + timedelta(minutes=30)), slot_text(NOW - timedelta(days=3))


def fleet_of(directory: str, broker: str, *, hosts: bool) -> Fleet:
    """Ten thousand sources under one policy, each of a host of its own or all of the pool."""
    small = SmallFleet(directory, broker=broker, policy="full: 1d, rpo: 26h")
    with open(small.path) as file:
        head = file.read().rpartition("sources:")[0]
    with open(small.path, "w") as file:
        file.write(head + "sources:\n")
        for number in range(SOURCES):
            host = f"host: h{number:05}, " if hosts else ""
            file.write(f"  s{number:05}: {{{host}paths: [/srv]}}\n")
    return Fleet.load(small.path)


def note_evidence(ledger: Ledger, fleet: Fleet, slot: str) -> None:
    """Let each source have a full snapshot of this slot."""
    pipe = ledger.client.pipeline(transaction=False)
    for name, source in fleet.sources.items():
        pipe.hset(ledger.realm(source.host or "").keys.evidence(name), mapping={"a|last": slot, "a|full": slot})
    pipe.execute()


def ticks(ledger: Ledger, directory: str, broker: str, *, hosts: bool) -> Iterator[Figure]:
    """A tick with nothing due, one with everything due, and one with all of it under way."""
    where = "each of its own host" if hosts else "in one realm"
    ledger.client.flushall()
    fleet = fleet_of(directory, broker, hosts=hosts)
    one_tick = partial(tick, fleet, ledger, partial(bell.ring, ledger.client), _never, NOW)
    note_evidence(ledger, fleet, SERVED)
    one_tick()
    seconds, ticked = _timed(one_tick)
    assert not ticked.opened
    yield Figure(f"a tick, nothing due, {SOURCES:,} sources, {where}", 1000 * seconds, "ms")
    ledger.client.flushall()
    note_evidence(ledger, fleet, MISSED)
    seconds, ticked = _timed(one_tick)
    assert len(ticked.opened) == SOURCES
    yield Figure(f"runs opened and rung by one tick, {where}", SOURCES / seconds, "a second", "> 2000")
    seconds, ticked = _timed(one_tick)
    assert not ticked.opened
    yield Figure(f"a tick, all {SOURCES:,} under way, {where}", 1000 * seconds, "ms")


def _never(source: str, site: str) -> Evidence | None:
    raise AssertionError(f"the tick asked site {site} for {source}")


def _timed(work: Callable[[], Ticked]) -> tuple[float, Ticked]:
    began = time.perf_counter()
    done = work()
    return time.perf_counter() - began, done


@contextmanager
def worker(small: SmallFleet, *, slots: int = 2, module: str = "workers") -> Iterator[subprocess.Popen[bytes]]:
    """A worker, ready to take runs."""
    command = [sys.executable, "-m", module, "--config", small.path, "--concurrency", str(slots)]
    with open(os.path.join(small.directory, "worker.log"), "ab") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def small_runs(ledger: Ledger, small: SmallFleet, module: str, count: int) -> tuple[list[Run], float]:
    """Runs of as many sources, opened and rung at once, done by two workers of two slots; and the seconds it took."""
    ledger.client.flushall()
    fleet = small.fleet
    with worker(small, module=module), worker(small, module=module):
        until(lambda: len(ledger.client.zrange("hf:workers", 0, -1)) == 2, seconds=30)
        began = time.perf_counter()
        ids = [open_and_ring(fleet, RunKind.FULL, name) for name in list(fleet.sources)[:count]]
        until(lambda: not ledger.client.zcard("hf:open"), seconds=300)
        seconds = time.perf_counter() - began
    runs = sweep.load(ledger, [("", run_id) for run_id in ids])
    assert {run.state for run in runs} == {RunState.SUCCEEDED}, {run.error for run in runs}
    return runs, seconds


def many_small(directory: str, broker: str, count: int) -> SmallFleet:
    """As many sources of one file each, that share no repository."""
    small = SmallFleet(directory, broker=broker, policy="full: 365d, select: none=yes")
    with open(small.path) as file:
        head = file.read().rpartition("sources:")[0]
    with open(small.path, "w") as file:
        file.write(head + "sources:\n" + "".join(f"  s{n:05}: {{paths: [{small.source_dir}]}}\n" for n in range(count)))
    return small


def rates(ledger: Ledger, directory: str, broker: str) -> Iterator[Figure]:
    """How many runs two workers of two slots get done."""
    for name, module, count in (("null", "tests.support.fake_worker", 200), ("real", "workers", 100)):
        small = many_small(os.path.join(directory, name), broker, count)
        runs, seconds = small_runs(ledger, small, module, count)
        what = "empty runs (an engine that does nothing)" if name == "null" else "first backups of one small file"
        yield Figure(f"{what}, two workers of two slots", len(runs) / seconds, "a second")


def latency(ledger: Ledger, directory: str, broker: str) -> Iterator[Figure]:
    """From a ring to the claim, of an idle worker that has been there for a while; and the whole of a small run."""
    ledger.client.flushall()
    small = SmallFleet(directory, broker=broker)
    fleet, waits, wholes = small.fleet, [], []
    with worker(small):
        for number in range(21):
            began = time.perf_counter()
            run_id = open_and_ring(fleet, RunKind.FULL, "web1")
            run = until(partial(_ended, fleet, run_id), seconds=60)
            if number:  # the first one starts the child's connection
                wholes.append(time.perf_counter() - began)
                waits.append(run.attempts[-1].started - run.opened)
    yield Figure(
        "from a ring to its claim, median of 20", 1000 * median(waits), "ms", "< 50", f"worst {_ms(max(waits))}"
    )
    note = "0.2 s of it are the wait that restic's locks ask for"
    yield Figure(
        "a backup of one small file through a worker, from the command's ring on", median(wholes), "s", "", note
    )


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms"


def _ended(fleet: Fleet, run_id: str) -> Run | None:
    _, run = find(fleet, run_id)
    return run if run.state.is_final else None


def idle(ledger: Ledger, directory: str, broker: str) -> Iterator[Figure]:
    """What a worker takes that has nothing to do."""
    for slots in (1, 2):
        ledger.client.flushall()
        before = len(ledger.client.client_list())
        with worker(SmallFleet(os.path.join(directory, str(slots)), broker=broker), slots=slots) as process:
            until(lambda: ledger.client.zcard("hf:workers"), seconds=30)
            time.sleep(3)
            connections = len(ledger.client.client_list()) - before
            commands = _commands(ledger)
            time.sleep(10)
            commands = (_commands(ledger) - commands) / 10
            memory = _pss(process.pid) / 1e6
        aim = "< 70" if slots == 1 else ""
        yield Figure(f"memory of an idle worker with {slots} slot{'s' * (slots > 1)} (PSS)", memory, "MB", aim)
    yield Figure("connections of an idle worker", connections, "", "< 5", f"{commands:.1f} commands a second")


def _commands(ledger: Ledger) -> float:
    return float(ledger.client.info("stats")["total_commands_processed"])


def _pss(group: int) -> int:
    """Bytes of a process group, shared pages in parts."""
    total = 0
    for pid in (int(entry) for entry in os.listdir("/proc") if entry.isdecimal()):
        with suppress(ProcessLookupError, FileNotFoundError):
            if os.getpgid(pid) == group:
                with open(f"/proc/{pid}/smaps_rollup") as file:
                    total += sum(int(line.split()[1]) for line in file if line.startswith("Pss:")) << 10
    return total


def memory(ledger: Ledger) -> Iterator[Figure]:
    """A ledger with 10,000 sources of 100 runs each: one source by its scripts, the others as copies of it."""
    ledger.client.flushall()
    ledger.client.config_set("hash-max-listpack-value", 2048)
    ids = [one_run(ledger, "s00000", RunState.SUCCEEDED) for _ in range(HISTORY)]
    copy = """
    for number = ARGV[2], ARGV[3] do
      local source = string.format('s%05d', number)
      for at, id in ipairs(KEYS) do
        local fresh = string.format('%032x', number * 1000 + at)
        redis.call('COPY', ARGV[1] .. 'run:' .. id, ARGV[1] .. 'run:' .. fresh)
        redis.call('HSET', ARGV[1] .. 'run:' .. fresh, 'id', fresh, 'source', source)
        redis.call('RPUSH', ARGV[1] .. 'history:' .. source, fresh)
      end
      redis.call('COPY', ARGV[1] .. 'evidence:s00000', ARGV[1] .. 'evidence:' .. source)
    end
    """
    for start in range(1, SOURCES, 100):
        ledger.client.eval(copy, len(ids), *ids, ledger.keys.prefix, start, min(start + 99, SOURCES - 1))
    note = "with hash-max-listpack-value 2048, as `holdfast up` sets it"
    yield Figure(f"ledger of {SOURCES:,} sources with {HISTORY} runs each", used(ledger) / 1e9, "GB", "", note)


def status(ledger: Ledger, directory: str, broker: str) -> Iterator[Figure]:
    """`holdfast status` as a person runs it, with 100 runs of each source in the ledger (left by `memory`)."""
    for hosts in (False, True):
        if hosts:
            ledger.client.flushall()
        fleet = fleet_of(os.path.join(directory, str(hosts)), broker, hosts=hosts)
        note_evidence(ledger, fleet, SERVED)
        command = [sys.executable, "-m", "cli.main", "-c", fleet.path, "status"]
        seconds = []
        for _ in range(5):
            began = time.perf_counter()
            code = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False).returncode
            seconds.append(time.perf_counter() - began)
            assert code in {1, 2}, code  # no worker runs
        where = "each of its own host" if hosts else "in one realm"
        yield Figure(f"`holdfast status`, {SOURCES:,} sources, {where}", median(seconds), "s", "< 1")


def _kill_to_claim(ledger: Ledger, small: SmallFleet) -> float:
    with worker(small, slots=1) as first:
        run_id = open_and_ring(small.fleet, RunKind.FULL, "web1")
        holder = until(partial(_other_holder, ledger, run_id, ""), seconds=30)
        with worker(small, slots=1):
            time.sleep(4)  # the second is there, and the first in the midst of its work
            os.killpg(first.pid, signal.SIGKILL)
            began = time.perf_counter()
            until(partial(_other_holder, ledger, run_id, holder), seconds=60)
            seconds = time.perf_counter() - began
            ledger.cancel(run_id, "the bench")
            until(partial(_ended, small.fleet, run_id), seconds=60)
    return seconds


def _other_holder(ledger: Ledger, run_id: str, holder: str) -> str:
    run = ledger.get(run_id)
    return run.owner if run and run.owner != holder else ""


def failover(ledger: Ledger, directory: str, broker: str) -> Iterator[Figure]:
    """From the SIGKILL of a worker in mid-run until another has claimed its run."""
    ledger.client.flushall()
    small = SmallFleet(directory, broker=broker, policy="full: 365d, select: none=yes")
    with open(os.path.join(small.source_dir, "huge"), "wb") as file:
        file.truncate(1 << 40)  # all of it a hole: reading it takes longer than the bench does
    beat = [sys.executable, "-m", "scheduler", "beat", "--config", small.path]
    tick_worker = [sys.executable, "-m", "scheduler", "worker", "--config", small.path]
    null = subprocess.DEVNULL
    both = [
        subprocess.Popen(one, cwd=ROOT, stdout=null, stderr=null, start_new_session=True) for one in (beat, tick_worker)
    ]
    try:
        seconds = [_kill_to_claim(ledger, small) for _ in range(3)]
    finally:
        for process in both:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
    note = "a lease of 15 s has to run out, and a tick of 2 s to come"
    yield Figure("from a worker's SIGKILL to its run going on elsewhere, median of 3", median(seconds), "s", "", note)


def measure(only: Sequence[str] = ()) -> Iterator[Figure]:
    """All of it, or the parts that are named."""
    parts = ("ticks", "latency", "rates", "idle", "memory", "status", "failover")
    with ExitStack() as stack:
        base = stack.enter_context(tempfile.TemporaryDirectory())
        ledger, server = stack.enter_context(own_ledger(os.path.join(base, "valkey")))
        ledger.client.connection_pool.connection_kwargs["socket_timeout"] = 60.0
        logs.set_up(stream=stack.enter_context(open(os.path.join(base, "log"), "w")))
        for part in [one for one in parts if not only or one in only]:
            place = os.path.join(base, part)
            if part == "ticks":
                for hosts in (False, True):
                    yield from ticks(ledger, f"{place}-{hosts}", server.url, hosts=hosts)
            elif part == "memory":
                yield from memory(ledger)
            else:
                work = {"latency": latency, "rates": rates, "idle": idle, "status": status, "failover": failover}[part]
                yield from work(ledger, place, server.url)


def main() -> int:
    """Measure, print, and write where asked; 1 where an aim was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.jobs", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "parts", nargs="*", help="ticks, latency, rates, idle, memory, status, failover; all by default"
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    parser.add_argument("--publish", action="store_true", help="write the table into docs/benchmarks.md")
    options = parser.parse_args()
    figures = []
    for figure in measure(options.parts):
        figures.append(figure)
        print(table([figure]).splitlines()[-1], flush=True)
    load = f"load {os.getloadavg()[0]:.1f} at the end, {os.cpu_count()} cores, {datetime.now(UTC):%Y-%m-%d}"
    print(load)
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"machine": load, "figures": [asdict(figure) for figure in figures]}, file, indent=1)
    if options.publish:
        publish(figures, load, BEGIN, END)
    return 0 if all(figure.met for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
