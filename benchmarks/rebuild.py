"""What `holdfast rebuild` costs: `python -m benchmarks.rebuild`, or as a part of `make bench-sites`.

Repositories of a snapshot a day, three of each, in two MinIO servers, each behind a proxy that holds back every answer
by 20 ms. First none has a `holdfast/status`: each is opened and read, and its status is written. Then Redis is emptied,
and the same command reads the status and a listing of each. It is the command itself, in a process of its own.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import contenders  # noqa: E402 -- found by the path above
import delay  # noqa: E402
import sites  # noqa: E402
from measure import cpu_seconds  # noqa: E402
from measure import run as run_measured  # noqa: E402

from benchmarks.figures import Figure, table  # noqa: E402
from shared.ledger import bulk  # noqa: E402
from shared.ledger.ledger import Ledger  # noqa: E402
from shared.ledger.model import slot_text  # noqa: E402
from tests.support.fleets import SmallFleet  # noqa: E402
from tests.support.ledgers import own_ledger  # noqa: E402
from tests.support.many import store_snapshots  # noqa: E402

REPOSITORIES = int(os.environ.get("REPOSITORIES", "1000"))
MILLISECONDS = 20
SNAPSHOTS = 3  # of each
AIM = 60.0  # seconds for `FOR` of them
FOR = 10_000
_COUNT = "HOLDFAST_BENCH_REQUESTS"


def measure(count: int = REPOSITORIES) -> Iterator[Figure]:
    """Figures for so many repositories, and what they come to for ten thousand."""
    minio = contenders.tools().get("minio")
    assert minio, "there is no MinIO: `make tools` fetches one"
    with ExitStack() as stack:
        base = stack.enter_context(tempfile.TemporaryDirectory())
        ledger, server = stack.enter_context(own_ledger(os.path.join(base, "valkey")))
        servers = []
        for name in ("one", "two"):
            os.makedirs(os.path.join(base, name))
            servers.append(stack.enter_context(sites.minio(minio, os.path.join(base, name))))
        small = _fleet(os.path.join(base, "fleet"), server.url, servers, count)
        slot = slot_text(datetime.now(UTC))
        store_snapshots(small.fleet, dict.fromkeys(small.fleet.sources, slot), ("a", "b"), count=SNAPSHOTS, threads=16)
        for one in servers:
            small.change(one.address, stack.enter_context(delay.behind(one.address, MILLISECONDS)))
        for what in ("no status yet: all read, and written", "by status and listing"):
            ledger.client.flushall()
            yield from _figures(small, ledger, servers, count, what, base)


def _fleet(directory: str, broker: str, servers: list[sites.Bucket], count: int) -> SmallFleet:
    """So many sources, each of a host of its own, at two sites."""
    small = SmallFleet(directory, broker=broker, policy="full: 1d, primary: a, copies: {sites: [b]}")
    places = []
    for name, one in zip("ab", servers, strict=True):
        os.environ.update({f"{name.upper()}_{key[4:]}": value for key, value in one.env.items()})
        places.append(f"{name}: {{url: '{one.url('site')}', credentials: {{env: {name.upper()}}}}}")
    small.change("sites: {a: {url: site}}", f"sites: {{{', '.join(places)}}}")
    with open(small.path) as file:
        head = file.read().rpartition("sources:")[0]
    with open(small.path, "w") as file:
        file.write(head + "sources:\n")
        file.writelines(f"  s{number:05}: {{host: h{number:05}, paths: [/srv]}}\n" for number in range(count))
    return small


def _figures(
    small: SmallFleet, ledger: Ledger, servers: list[sites.Bucket], count: int, what: str, base: str
) -> Iterator[Figure]:
    counted = os.path.join(base, "requests")
    theirs = sum(cpu_seconds(one.pid) for one in servers)
    cost = run_measured(
        [sys.executable, __file__, "-c", small.path, "rebuild", "--json"],
        env={**os.environ, _COUNT: counted},
        cwd=str(ROOT),
    )
    theirs = sum(cpu_seconds(one.pid) for one in servers) - theirs
    said = json.loads(cost.output)
    assert [(one["read"], one["snapshots"]) for one in said["sites"]] == [(count, count * SNAPSHOTS)] * 2, said
    hosts = tuple(ledger.realm(f"h{number:05}").keys.evidence(f"s{number:05}") for number in range(count))
    assert all(bulk.hashes(ledger, hosts)), "a source's evidence is missing"
    with open(counted) as file:
        requests = Counter(json.load(file))
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in sorted(requests.items()))
    each = f"{1000 * cost.cpu / sum(requests.values()):.2f} ms of CPU a request; MinIO took {theirs:.0f} s"
    aim = f"< {AIM:.0f}" if count == FOR and "listing" in what else ""
    of = f"{count:,} repositories at two sites, {MILLISECONDS} ms, {what}"
    yield Figure(of, cost.wall, "s", aim, f"{cost.wall * FOR / count:.0f} s for {FOR:,} at that rate")
    yield Figure("its requests", sum(requests.values()), "", "", kinds)
    yield Figure("its CPU time", cost.cpu, "s", "", each)
    yield Figure("its memory", cost.pss / 1e6, "MB")


def _counting(path: str) -> int:
    """The command itself, that counts its requests."""
    from cli.main import main
    from shared.storage.s3http import S3Http

    counts: Counter[str] = Counter()
    send = S3Http.send

    def counted(self: S3Http, method: str, key: str, **rest: object) -> object:
        counts["LIST" if not key else method] += 1
        return send(self, method, key, **rest)  # type: ignore[arg-type] # handed on as it came

    S3Http.send = counted  # type: ignore[method-assign, assignment] # in this process alone
    try:
        return main()
    finally:
        with open(path, "w") as file:
            json.dump(counts, file)


if __name__ == "__main__":
    if _COUNT in os.environ:
        sys.exit(_counting(os.environ[_COUNT]))
    for one in measure():
        print(table([one]).splitlines()[-1], flush=True)
