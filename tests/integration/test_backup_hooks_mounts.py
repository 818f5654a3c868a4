"""Hooks that mount a snapshot of the source's disk over the source, for the run alone."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.backups import Shop
from tests.support.namespaces import run_mounted

# A disk of its own, below folders that nobody else changes: the source is empty there, but for a live file.
TOP = "/mnt"
DISK = f"mount -t tmpfs disk {TOP} && cd {TOP} && mkdir source empty other && echo live > source/live"

# What a run is: a process of its own, as an engine. The overlay stands for a snapshot: another device, the same inodes.
RUN = """
import json, sys
from pathlib import Path
from tests.integration.test_backup_hooks import Hooked
base, top, kind, then = sys.argv[1:]
hooked = Hooked(Path(base))
hooked.shop.source = f"{top}/source"
seen = f"stat -c %d {top}/source/file >> {base}/devices"
hooked.before = f"mount -t overlay -o lowerdir={top}/frozen:{top}/empty snapshot {top}/source; {seen}; {then}"
hooked.after = f"umount {top}/source"
hooked.private_mounts = True
result = hooked.backup(kind=kind)
print(json.dumps([result.complete, result.files_new, result.files_unmodified, result.packs_stored, result.tree]))
"""

THREE_RUNS = f"""
import os, subprocess, sys
from pathlib import Path
base, top = sys.argv[1:]
frozen = Path(top, "frozen")
(frozen / "below").mkdir(parents=True)
(frozen / "file").write_text("content")
(frozen / "below/one").write_text("linked")
os.link(frozen / "below/one", frozen / "below/two")
os.link(frozen / "below/one", frozen / "three")
subprocess.run(["touch", "-d", "2020-01-01", frozen / "file", frozen / "three", frozen / "below", frozen], check=True)
os.makedirs(base)
for kind in ("full", "incremental", "full"):
    sys.stdout.flush()
    subprocess.run([sys.executable, "-c", {RUN!r}, base, top, kind, "true"], check=True)
    # The next one is to be another device, as that of a new snapshot is.
    subprocess.run(["mount", "-t", "tmpfs", "other", top + "/other"], check=True)
print(sorted(os.listdir(top + "/source")))
"""

KILLED = f"""
import os, subprocess, sys, time
from pathlib import Path
base, top = sys.argv[1:]
os.makedirs(base)
Path(top, "frozen").mkdir()
Path(top, "frozen/file").touch()
run = [sys.executable, "-c", {RUN!r}, base, top, "full"]
engine = subprocess.Popen([*run, f"touch {{base}}/reached; sleep 600"])
while not os.path.exists(f"{{base}}/reached"):
    time.sleep(0.05)
engine.kill()
engine.wait()
print(sorted(os.listdir(top + "/source")))
"""


def test_fresh_mounts_of_unchanged_data_store_no_tree(tmp_path: Path) -> None:
    """Each run mounts a new snapshot over the source, another device each time, with hard links in it.

    All is recorded under the original paths: the second run stores nothing, nor does a full one, which reads it all and
    finds the same tree. Nobody else sees what is mounted.
    """
    base = tmp_path / "base"
    *runs, live = run_mounted(THREE_RUNS, str(base), TOP, mounts=DISK).splitlines()
    first, second, full = map(json.loads, runs)
    assert len(set((base / "devices").read_text().split())) == 3
    assert (first[:3], second, full) == (
        [True, 4, 0],
        [True, 0, 4, 0, first[4]],
        [True, 0, 4, 0, first[4]],
    )
    assert live == "['live']"
    listed = set(Shop(str(base)).restic("0.18", "ls", "latest").splitlines())
    names = {f"{TOP}/source/{name}" for name in ("file", "below", "below/one", "below/two", "three")}
    assert {line for line in listed if line.startswith(f"{TOP}/source/")} == names


def test_what_a_run_has_mounted_ends_with_it(tmp_path: Path) -> None:
    """However it ends: nothing is left mounted by one that was killed."""
    assert run_mounted(KILLED, str(tmp_path / "base"), TOP, mounts=DISK) == "['live']\n"
