"""Replication between two MinIO servers, against rclone and `restic copy`: `python -m benchmarks.replication`.

large   one snapshot of 1 GiB that does not compress, in packs of 16 MiB
many    1,000 snapshots of a file each, every one with packs and an index file of its own, as many backups leave them

Each tool fills an empty place at the second server with what lies at the first, in turns, and then has nothing to do:
that is timed too. Without latency, and with each answer of both servers held back by 20 ms. rclone copies objects as
they are (index files too, which is no replication of repositories that are pruned by themselves); of several numbers of
`--transfers` its best one counts. restic decrypts and packs anew; it has as many connections as Holdfast.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import contenders  # noqa: E402
import delay  # noqa: E402
import measure as costs  # noqa: E402
import sites  # noqa: E402

from benchmarks.figures import Figure, table  # noqa: E402
from shared.config.fleet import Fleet  # noqa: E402
from shared.config.opening import open_repository  # noqa: E402
from tests.support.crafting import Crafted  # noqa: E402

MIB = 1 << 20
ENDS = ("first", "second")  # the sites, and the bucket of each
LARGE = 1024  # MiB
MANY = 1000  # snapshots
ROUNDS = 3
TRANSFERS = (8, 16, 32)  # of rclone
CONNECTIONS = 16  # of Holdfast and of restic
MILLISECONDS = (0, 20)
RESTIC_SHARE = 5.0  # times as fast as `restic copy`: the aim
_PASSWORD = "a recovery password for the bench"  # noqa: S105


@dataclass
class Ground:
    """Two servers, with or without latency before them, and the command lines of a case."""

    work: str
    origin: sites.Bucket
    target: sites.Bucket
    ends: tuple[str, str]  # addresses, of the proxies where there are some
    tools: dict[str, str]
    password: str = ""
    said: list[str] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """Of every tool."""
        more = {"PATH": os.environ.get("PATH", os.defpath), "HOME": self.work, "BENCH_PASSWORD": _PASSWORD}
        more |= {"RESTIC_PASSWORD": self.password, "RESTIC_FROM_PASSWORD": self.password}
        return {**more, **self.origin.env, "BENCH_SECRET": "5" * 64}

    def configure(self, *ends: str) -> str:
        """The configuration for servers at these addresses; its path."""
        path = os.path.join(self.work, "holdfast.yaml")
        places = {
            name: {
                "url": f"s3:http://{end}/{name}/site",
                "credentials": {"env": "AWS"},
                "connections": CONNECTIONS,
            }
            for name, end in zip(ENDS, ends, strict=True)
        }
        policy = {"full": "365d", "primary": ENDS[0]}
        fleet: dict[str, Any] = {
            "secret": {"env": "BENCH_SECRET"},
            "recovery_password": {"env": "BENCH_PASSWORD"},
            "state_dir": os.path.join(self.work, "state"),
            "cache_dir": os.path.join(self.work, "cache"),
            "sites": places,
            "policies": {"p": policy},
            "sources": {"bench": {"paths": [os.path.join(self.work, "data")]}},
        }
        Path(path).write_text(json.dumps(fleet))
        return path

    def run(self, command: Sequence[str]) -> costs.Cost:
        """Measure a command; its line is remembered."""
        line = shlex.join(command).replace(self.work, "$WORK")
        if line not in self.said:
            self.said.append(line)
        return costs.run(command, env=self.environment, cwd=str(ROOT))


def holdfast(ground: Ground) -> costs.Cost:
    """`holdfast replicate`."""
    binary = contenders.find("holdfast")
    assert binary
    config = ground.configure(*ground.ends)
    return ground.run([binary, "--config", config, "replicate", "bench", "--to", ENDS[1], "--direct"])


def rclone(ground: Ground, transfers: int) -> costs.Cost:
    """`rclone sync` of the repository's objects, without locks."""
    config = os.path.join(ground.work, "rclone.conf")
    keys = f"access_key_id = {ground.origin.access_key}\nsecret_access_key = {ground.origin.secret_key}\n"
    with open(config, "w") as file:
        for name, end in zip(ENDS, ground.ends, strict=True):
            print(f"[{name}]\ntype = s3\nprovider = Minio\nendpoint = http://{end}\n{keys}", file=file)
    places = [f"{name}:{name}/site/repos/bench" for name in ENDS]
    options = ["--transfers", str(transfers), "--checkers", str(transfers), "--s3-no-check-bucket", "--fast-list"]
    command = [ground.tools["rclone"], "--config", config, "sync", *places, *options, "--exclude", "locks/**"]
    return ground.run(command)


def restic(ground: Ground) -> costs.Cost:
    """`restic copy`, into a repository that was made with the same chunker."""
    first, second = (f"s3:http://{end}/{name}/site/repos/bench" for name, end in zip(ENDS, ground.ends, strict=True))
    start = [ground.tools["restic-0.18"], "-r", second, "--from-repo", first, "-o", f"s3.connections={CONNECTIONS}"]
    start += ["--cache-dir", os.path.join(ground.work, "restic-cache")]
    if not ground.target.has(ENDS[1], "site/repos/bench/config"):
        costs.run([*start[:5], "init", "--copy-chunker-params"], env=ground.environment, cwd=str(ROOT), sample=False)
    return ground.run([*start, "copy"])


def fill(ground: Ground, case: str, *, size: int, count: int) -> int:
    """Put the case at the first server; the bytes that lie there."""
    binary = contenders.find("holdfast")
    assert binary
    ground.origin.remove(ENDS[0])
    ground.origin.url(ENDS[0])
    data = os.path.join(ground.work, "data")
    shutil.rmtree(data, ignore_errors=True)
    os.makedirs(data)
    for number in range(size // 16 if case == "large" else 1):
        with open(os.path.join(data, f"{number}.bin"), "wb") as file:
            file.write(os.urandom(16 * MIB if case == "large" else 4096))
    config = ground.configure(ground.origin.address, ground.target.address)
    costs.run([binary, "--config", config, "backup", "bench", "--direct"], env=ground.environment, cwd=str(ROOT))
    os.environ.update(ground.environment)
    opened = open_repository(Fleet.load(config), "bench", ENDS[0])
    ground.password = opened.password
    if case == "many":
        shop = cast("Any", SimpleNamespace(open=lambda: opened.repository))
        for _ in range(count - 1):
            crafted = Crafted(shop)
            crafted.snapshot(crafted.file(b"f", os.urandom(4096)))
    return ground.origin.stored_bytes(ENDS[0])


def empty(ground: Ground) -> None:
    """Nothing at the second server, and nobody has a cache of it."""
    ground.target.remove(ENDS[1])
    ground.target.url(ENDS[1])
    for cache in ("cache", "restic-cache", "state"):
        shutil.rmtree(os.path.join(ground.work, cache), ignore_errors=True)


def compare(ground: Ground, what: str, bytes_: int, rounds: int) -> Iterator[Figure]:
    """Each tool in turn, `rounds` times: the first copy, and one with nothing to do."""
    ways: dict[str, Any] = {"Holdfast": holdfast, "restic copy": restic}
    ways |= {f"rclone, {number} transfers": lambda at, n=number: rclone(at, n) for number in TRANSFERS}
    took: dict[str, list[tuple[costs.Cost, costs.Cost]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            empty(ground)
            took[name].append((way(ground), way(ground)))
    walls = {name: statistics.median(first.wall for first, _ in pairs) for name, pairs in took.items()}
    best = min((name for name in walls if name.startswith("rclone")), key=lambda name: walls[name])
    for name in ("Holdfast", best, "restic copy"):
        pairs = took[name]
        cpu = statistics.median(first.cpu for first, _ in pairs)
        pss = max(first.pss for first, _ in pairs)
        again = statistics.median(second.wall for _, second in pairs)
        notes = [f"{bytes_ / walls[name] / MIB:,.0f} MiB/s", f"CPU {cpu:.1f} s", f"{pss >> 20} MiB of memory"]
        notes.append(f"again, with nothing to do: {again:.2f} s")
        aim = ""
        if name == "Holdfast":
            aim = f"< {min(walls[best], walls['restic copy'] / RESTIC_SHARE):.2f}"
            notes.insert(
                0,
                f"{walls['restic copy'] / walls[name]:.1f} times restic, {walls[best] / walls[name]:.2f} times rclone",
            )
        yield Figure(f"{what}: {name}", walls[name], "s", aim, "; ".join(notes))


@contextmanager
def grounds(milliseconds: int) -> Iterator[Ground]:
    """Two servers so far away."""
    tools = contenders.tools("minio", "restic-0.18", "rclone")
    for name in ("minio", "restic-0.18", "rclone"):
        assert name in tools, f"there is no {name}: `make tools`, and deploy/tools/fetch.py rclone"
    with ExitStack() as stack:
        work = stack.enter_context(tempfile.TemporaryDirectory())
        keys = secrets.token_hex(10), secrets.token_hex(20)
        ends = [stack.enter_context(sites.minio(tools["minio"], work, keys)) for _ in range(2)]
        near = [end.address for end in ends]
        far = [stack.enter_context(delay.behind(one, milliseconds)) for one in near] if milliseconds else near
        yield Ground(work, ends[0], ends[1], (far[0], far[1]), tools)


def measure(*, size: int = LARGE, count: int = MANY, rounds: int = ROUNDS) -> Iterator[Figure]:
    """All of it; the command lines are printed."""
    for milliseconds in MILLISECONDS:
        with grounds(milliseconds) as ground:
            away = f", {milliseconds} ms away" if milliseconds else ""
            for case, what in (("large", f"{size} MiB in one snapshot"), ("many", f"{count:,} small snapshots")):
                stored = fill(ground, case, size=size, count=count)
                yield from compare(ground, f"{what}{away}", stored, rounds)
            print(*ground.said, sep="\n", file=sys.stderr)


if __name__ == "__main__":
    for one in measure():
        print(table([one]).splitlines()[-1], flush=True)
