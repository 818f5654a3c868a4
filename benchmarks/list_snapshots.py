"""Time to list 2,000 snapshots of one repository in a bucket: Holdfast with and without its cache, and stock restic.

    python benchmarks/list_snapshots.py [--snapshots 2000] [--rounds 5] [--delays 0,20] [--json FILE]

A MinIO is started for it on this machine. The snapshots are of one small tree and differ in time; the library writes
them. Each listing is a process of its own, whose memory is the sampled sum of PSS. A delay holds back each answer of
the server by so many milliseconds, as the line to a distant site does. A round takes the contenders in turn, each
first without its cache (cold), then at once again (warm). Both open the repository by its machine password; restic
is told which key file that is.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import contenders  # noqa: E402 -- found by the path above
import delay  # noqa: E402
import measure  # noqa: E402
import sites  # noqa: E402

from shared.config.fleet import Fleet  # noqa: E402
from shared.config.opening import open_repository  # noqa: E402
from shared.repository.snapshot import Snapshot, encode_snapshot, make_tags  # noqa: E402

DAY = 86_400 * 10**9  # nanoseconds
START = 1_600_000_000 * 10**9


@dataclasses.dataclass
class Ring:
    """One repository, and the two commands that list it."""

    holdfast: list[str]
    restic: list[str]
    env: dict[str, str]
    caches: dict[str, str]

    def measured(self, tool: str, *, cold: bool) -> measure.Cost:
        """List once with a tool."""
        if cold:
            shutil.rmtree(self.caches[tool], ignore_errors=True)
        command = self.holdfast if tool == "holdfast" else self.restic
        return measure.run(command, env=self.env, cwd=str(ROOT))


def prepare(bucket: sites.Bucket, address: str, work: str, count: int) -> Ring:
    """Make the repository with so many snapshots; the commands reach it by `address`."""
    data = os.path.join(work, "data")
    os.makedirs(data, exist_ok=True)
    Path(data, "file").write_text("the one file of it\n")
    binary, restic = contenders.find("holdfast"), contenders.find("restic")
    assert binary
    assert restic
    print(contenders.version(restic), file=sys.stderr)
    made = contenders.Holdfast(binary, bucket, "listing", data, work)
    config = os.path.join(work, "holdfast.yaml")
    os.environ.update({name: value for name, value in made.env().items() if name.startswith(("AWS_", "BENCH_"))})
    measure.run(made.backup(full=True), env=made.env(), cwd=work)
    opened = open_repository(Fleet.load(config), "bench", "bench")
    (first,) = opened.repository.snapshots()
    for number in range(1, count):
        moment = START + number * DAY // 4
        tags = make_tags(
            source="bench", run=f"{number:032x}", kind="incremental", slot="", last_full="", unreadable=0,
            began=moment, more=[],
        )  # fmt: skip
        again: Snapshot = dataclasses.replace(first, time=moment, tags=tags, id="")
        opened.repository.save("snapshots", encode_snapshot(again))
    store = opened.repository.store
    hint = next(
        info.key.rpartition("/")[2] for info in store.list("keys/") if json.loads(store.get(info.key))["N"] == 1024
    )
    far = Path(config).read_text(encoding="utf-8").replace(bucket.address, address)
    Path(work, "far.yaml").write_text(far, encoding="utf-8")
    url = f"{bucket.url('listing').replace(bucket.address, address)}/repos/bench"
    caches = {"holdfast": os.path.join(work, "holdfast-cache"), "restic": os.path.join(work, "restic-cache")}
    return Ring(
        [binary, "--config", os.path.join(work, "far.yaml"), "snapshots", "bench", "--json"],
        [restic, "--cache-dir", caches["restic"], "--key-hint", hint, "--no-lock", "-r", url, "snapshots", "--json"],
        {**made.env(), "RESTIC_PASSWORD": opened.password},
        caches,
    )


def listed(output: str) -> int:
    """How many snapshots a tool has listed."""
    found = json.loads(output[output.index("{") if output.lstrip().startswith("{") else output.index("[") :])
    return len(found["snapshots"] if isinstance(found, dict) else found)


def report(ring: Ring, count: int, rounds: int, milliseconds: float) -> dict[str, object]:
    """Run all rounds and print a line for each step."""
    costs: dict[tuple[str, str], list[measure.Cost]] = {}
    for _ in range(rounds):
        for tool in ("holdfast", "restic"):
            for step in ("cold", "warm"):
                cost = ring.measured(tool, cold=step == "cold")
                assert listed(cost.output) == count, f"{tool} listed {listed(cost.output)}"
                costs.setdefault((step, tool), []).append(cost)
    found: dict[str, object] = {"delay_ms": milliseconds, "snapshots": count, "rounds": rounds}
    for (step, tool), all_of in sorted(costs.items()):
        wall, cpu = (statistics.median(getattr(one, name) for one in all_of) for name in ("wall", "cpu"))
        pss = max(one.pss for one in all_of)
        print(f"{milliseconds:>5.0f} ms  {step}  {tool:<9} {wall:>7.2f} s  CPU {cpu:>6.2f} s  {pss >> 20:>4} MiB")
        found[f"{step} {tool}"] = {"wall": [one.wall for one in all_of], "cpu": cpu, "pss": pss}
    sys.stdout.flush()
    return found


def main() -> None:
    """Read the command line, and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--snapshots", type=int, default=2000, help="how many the repository has")
    parser.add_argument("--rounds", type=int, default=5, help="how often each step is measured")
    parser.add_argument("--delays", default="0,20", help="milliseconds before each answer, separated by commas")
    parser.add_argument("--json", help="write the figures to this file, too")
    args = parser.parse_args()
    minio = contenders.tools().get("minio")
    assert minio, "there is no MinIO: `make tools` fetches one"
    results = []
    for milliseconds in map(float, args.delays.split(",")):
        with (
            tempfile.TemporaryDirectory() as work,
            sites.minio(minio, work) as bucket,
            delay.behind(bucket.address, milliseconds) as far,
        ):
            ring = prepare(bucket, far if milliseconds else bucket.address, work, args.snapshots)
            results.append(report(ring, args.snapshots, args.rounds, milliseconds))
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
