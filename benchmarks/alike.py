"""What 20 hosts that are much alike take: `python -m benchmarks.alike`, or as a part of `make bench-fleet`.

Each has a copy of one tree of real files, without one file in fifty and with one in fifty changed, and 200 files of its
own. Holdfast backs them up into a repository each, and into one that they share (`repository:`); stock restic backs
them up into one. Told are bytes and objects of all that lies at the site, and how long all of it took.
"""

from __future__ import annotations

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

import contenders  # noqa: E402 -- found by the path above
import corpus  # noqa: E402
import measure as costs  # noqa: E402

from benchmarks.figures import Figure, table  # noqa: E402
from tests.support.fleets import SmallFleet  # noqa: E402

HOSTS = 20
OWN, OWN_MIB = 200, 4  # files, and their size together
APART = 50  # of as many files one is left out, and one is changed
LIMIT = 1.02  # times restic's bytes: what is allowed, as in the other benchmarks


def measure(hosts: int = HOSTS) -> Iterator[Figure]:
    """Objects and bytes of each way."""
    data = corpus.prepare("small", quick=True, say=lambda text: print(text, file=sys.stderr))
    with tempfile.TemporaryDirectory() as base:
        trees = [os.path.join(base, f"h{number:02}") for number in range(hosts)]
        size = sum(make(tree, data.path, number) for number, tree in enumerate(trees))
        theirs = by_restic(os.path.join(base, "restic"), trees)
        apart = by_holdfast(os.path.join(base, "apart"), trees, shared=False)
        ours = by_holdfast(os.path.join(base, "shared"), trees, shared=True)
        yield Figure(f"files of {hosts} hosts that are much alike", size / 1e6, "MB")
        for what, (where, seconds), aim in (
            ("restic, one repository", theirs, ""),
            ("Holdfast, a repository each", apart, ""),
            ("Holdfast, one that they share", ours, f"< {LIMIT * stored(theirs[0])[0] / 1e6:.1f}"),
        ):
            taken, objects = stored(where)
            yield Figure(what, taken / 1e6, "MB", aim, f"{objects:,} objects, {seconds:.0f} s")


def make(tree: str, data: str, number: int) -> int:
    """Make one host's files; their bytes."""
    draw, total = random.Random(number), 0
    shutil.copytree(data, tree, symlinks=True)
    for path in sorted(corpus.walk_files(tree)):
        fate = draw.randrange(APART)
        if fate == 0:
            os.unlink(path)
            continue
        if fate == 1:
            with open(path, "ab") as file:
                file.write(b"changed on host %d\n" % number)
        total += os.lstat(path).st_size
    os.makedirs(os.path.join(tree, "own"))
    text = b"".join(corpus.log_part(OWN_MIB * number + part) for part in range(OWN_MIB))
    piece = len(text) // OWN
    for one in range(OWN):
        with open(os.path.join(tree, "own", str(one)), "wb") as file:
            total += file.write(text[one * piece : (one + 1) * piece])
    return total


def by_restic(place: str, trees: list[str]) -> tuple[str, float]:
    """Where it put them, and the seconds it took."""
    binary = contenders.find("restic")
    assert binary
    env = {"PATH": os.environ["PATH"], "RESTIC_PASSWORD": "a password for the bench", "RESTIC_REPOSITORY": place}
    command = [binary, "--cache-dir", f"{place}-cache"]
    costs.run([*command, "init"], env=env, cwd=str(ROOT), sample=False)
    began = time.perf_counter()
    for tree in trees:
        costs.run([*command, "backup", "--host", os.path.basename(tree), tree], env=env, cwd=str(ROOT), sample=False)
    return place, time.perf_counter() - began


def by_holdfast(place: str, trees: list[str], *, shared: bool) -> tuple[str, float]:
    """The same with a repository each, or with one for all."""
    small = SmallFleet(place, policy="full: 365d")
    own = {"repository": "all"} if shared else {}
    with open(small.path) as file:
        head = file.read().rpartition("sources:")[0]
    with open(small.path, "w") as file:
        file.write(
            f"{head}sources: {json.dumps({os.path.basename(tree): {'paths': [tree], **own} for tree in trees})}\n"
        )
    began = time.perf_counter()
    for tree in trees:
        command = [sys.executable, "-m", "cli.main", "-c", small.path, "backup", os.path.basename(tree), "--direct"]
        costs.run(command, env=dict(os.environ), cwd=str(ROOT), sample=False)
    return os.path.join(place, "site"), time.perf_counter() - began


def stored(place: str) -> tuple[int, int]:
    """Bytes and objects of a site."""
    sizes = [os.lstat(os.path.join(folder, name)).st_size for folder, _, names in os.walk(place) for name in names]
    return sum(sizes), len(sizes)


if __name__ == "__main__":
    for one in measure():
        print(table([one]).splitlines()[-1], flush=True)
