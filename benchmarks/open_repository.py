"""Time and memory to open repositories of 10^5, 10^6 and 10^7 blobs, and to look blobs up in them.

    python benchmarks/open_repository.py [--blobs 1e5,1e6,1e7] [--json FILE] [--keep DIRECTORY]

The repositories are synthetic: no packs, but real sealed index files of 50,000 blobs in a directory store. Each step
runs in a process of its own, whose memory is the sampled sum of PSS of its process tree:

    cold     open with an empty cache: every index file is read, unsealed, decoded, sorted, merged
    warm     open again
    lookups  open, then look up 60,000 blobs that are there and 60,000 that are not, in random order
    batches  the same in batches of 200, as an engine asks
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import measure  # noqa: E402 -- found by the path above

from shared.repository.index import FLUSH_BLOBS, encode_index  # noqa: E402
from shared.repository.indexcache import IndexCache  # noqa: E402
from shared.repository.pack import Blob, BlobType  # noqa: E402
from shared.repository.repository import Repository  # noqa: E402
from shared.storage import open_store  # noqa: E402

BLOBS_PER_PACK = 400  # some 40 KB each, as small files have
LOOKUPS = 60_000
BATCH = 200
PASSWORD = "benchmark"  # noqa: S105 -- guards nothing


def packs_of(number: int, blobs: int) -> Iterator[tuple[bytes, list[Blob]]]:
    """The packs of the index file of that number; the same ones each time."""
    source = random.Random(f"index file {number}")
    for first in range(0, blobs, BLOBS_PER_PACK):
        kind = BlobType.TREE if source.random() < 0.05 else BlobType.DATA
        pack, offset, listed = source.randbytes(32), 0, []
        for _ in range(min(BLOBS_PER_PACK, blobs - first)):
            length = source.randrange(500, 80_000)
            listed.append(Blob(source.randbytes(32), kind, offset, length, 2 * length))
            offset += length
        yield pack, listed


def index_files(blobs: int) -> Iterator[int]:
    """How many blobs each index file lists."""
    while blobs > 0:
        yield min(blobs, FLUSH_BLOBS)
        blobs -= FLUSH_BLOBS


def open_repository(directory: str) -> Repository:
    """The synthetic repository in `directory`, made where there is none."""
    store = open_store(directory).below("repos/benchmark")
    return Repository.create(
        store, repository_id="benchmark", fleet_secret=bytes(range(32)), recovery_password=PASSWORD
    )


def open_cache(repository: Repository, directory: str) -> IndexCache:
    """The index cache of the synthetic repository."""
    return IndexCache.open(
        os.path.join(directory, "cache"),
        store=repository.store,
        repository_id="benchmark",
        site="benchmark",
        load=repository.load_index,
    )


def make(directory: str, blobs: int) -> None:
    """Write the repository's index files."""
    repository = open_repository(directory)
    for number, count in enumerate(index_files(blobs)):
        repository.save("index", *encode_index(packs_of(number, count)))


def question(blobs: int) -> list[bytes]:
    """Ids to look up in random order: LOOKUPS that are there, from some index files, and as many that are not."""
    source = random.Random("question")
    counts = list(index_files(blobs))
    chosen = source.sample(range(len(counts)), min(len(counts), 8))
    there = [
        blob.id
        for number in chosen
        for _, listed in packs_of(number, counts[number])
        for blob in listed
        if blob.type == BlobType.DATA
    ]
    ids = source.sample(there, LOOKUPS) + [source.randbytes(32) for _ in range(LOOKUPS)]
    source.shuffle(ids)
    return ids


def step(name: str, directory: str, blobs: int) -> dict[str, float]:
    """Do one step in this process; what it took, in seconds."""
    ids = question(blobs) if name in {"lookups", "batches"} else []
    repository = open_repository(directory)
    began = time.perf_counter()
    cache = open_cache(repository, directory)
    took = {"open": time.perf_counter() - began}
    assert cache.blob_count == blobs
    if ids:
        size = BATCH if name == "batches" else len(ids)
        began = time.perf_counter()
        missing = 0
        for at in range(0, len(ids), size):
            missing += sum(cache.missing(BlobType.DATA, ids[at : at + size]))
        took[name] = time.perf_counter() - began
        assert missing == LOOKUPS
    cache.close()
    return took


def measured(name: str, directory: str, blobs: int) -> dict[str, float]:
    """Do one step in a process of its own; seconds, and bytes of memory."""
    command = [sys.executable, __file__, "--step", name, "--keep", directory, "--blobs", str(blobs)]
    cost = measure.run(command, env=dict(os.environ), cwd=str(ROOT))
    return {**json.loads(cost.output.splitlines()[-1]), "memory": cost.pss, "process": cost.wall}


def report(directory: str, blobs: int) -> dict[str, object]:
    """Make a repository where it is not there yet, measure all steps, print a line."""
    marker = os.path.join(directory, "made")
    if not os.path.exists(marker):
        began = time.perf_counter()
        make(directory, blobs)
        Path(marker).touch()
        print(f"made {blobs:,} blobs in {time.perf_counter() - began:.0f} s", file=sys.stderr)
    shutil.rmtree(os.path.join(directory, "cache"), ignore_errors=True)
    steps = {name: measured(name, directory, blobs) for name in ("cold", "warm", "lookups", "batches")}
    size = sum(path.stat().st_size for path in Path(directory, "cache").rglob("*") if path.is_file())
    print(
        f"{blobs:>12,} {size >> 20:>6} MiB {steps['cold']['open']:>8.2f} s {int(steps['cold']['memory']) >> 20:>5} MiB"
        f" {1000 * steps['warm']['open']:>8.2f} ms {int(steps['warm']['memory']) >> 20:>5} MiB"
        f" {steps['lookups']['lookups']:>8.2f} s {steps['batches']['batches']:>8.2f} s"
        f" {int(steps['batches']['memory']) >> 20:>5} MiB",
        flush=True,
    )
    return {"blobs": blobs, "cache_bytes": size, "steps": steps}


def main() -> None:
    """Read the command line, and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blobs", default="1e5,1e6,1e7", help="sizes, separated by commas")
    parser.add_argument("--json", help="write the figures to this file, too")
    parser.add_argument("--keep", help="make the repositories here, and leave them for the next time")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    args = parser.parse_args()
    sizes = [int(float(size)) for size in args.blobs.split(",")]
    if args.step:
        print(json.dumps(step(args.step, args.keep, sizes[0])))
        return
    print(f"{'blobs':>12} {'cache':>10} {'cold open':>10} {'memory':>9} {'warm open':>11} {'memory':>9}"
          f" {'lookups':>10} {'batches':>10} {'memory':>9}")  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        results = []
        for blobs in sizes:
            directory = os.path.join(args.keep or temporary, str(blobs))
            os.makedirs(directory, exist_ok=True)
            results.append(report(directory, blobs))
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
