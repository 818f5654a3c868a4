"""The `holdfast` command as a person runs it: a process of its own, with a configuration that `init` wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.repository.keys import MACHINE_N
from tests.support import forked
from tests.support.ledgers import until

ROOT = Path(__file__).parents[2]
# A recovery key takes 0.1 s to make, and stock restic 0.2 s to try: not in each test, but in test_repository_open.
CHEAP = {"shared.repository.keys:RECOVERY_N": MACHINE_N}


def environment() -> dict[str, str]:
    """This process's, without settings of Holdfast."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
    return {**clean, "PYTHONPATH": str(ROOT)}


@dataclass(slots=True)
class Shop:
    """A folder with `data` to back up, and `conf` where the configuration and the site lie."""

    base: Path
    changed: dict[str, object] = field(default_factory=lambda: dict(CHEAP))  # see `forked.Popen`

    @property
    def data(self) -> Path:
        """What is backed up, as source `data`."""
        return self.base / "data"

    @property
    def conf(self) -> Path:
        """Where commands run."""
        return self.base / "conf"

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command."""
        return forked.Popen(
            [sys.executable, "-m", "cli.main", *arguments],
            cwd=self.conf,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            changed=self.changed,
        )

    def run(self, *arguments: str, code: int = 0) -> str:
        """Run a command that ends with this exit code; what it said on stdout and then on stderr."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=120)
        assert process.returncode == code, f"{arguments}: exit code {process.returncode}\n{out}{err}"
        return out + err

    def ask(self, *arguments: str, code: int = 0) -> Any:
        """The same with --json, which leaves nothing but JSON."""
        return json.loads(self.run(*arguments, "--json", code=code))


def open_shop(base: Path, *, metrics: str = "off") -> Shop:
    """A configured shop with a few files."""
    shop = Shop(base)
    shop.conf.mkdir()
    (shop.data / "sub").mkdir(parents=True)
    for number in range(12):
        (shop.data / "sub" / f"file-{number}.txt").write_text(f"file {number}\n" * (100 + number))
    shop.run("init", "--source", str(shop.data))
    path = shop.conf / "holdfast.yaml"
    lines = path.read_text().splitlines(keepends=True)
    # Other shops are up at the same time; and upkeep is due in one hour of the day, in which no test may do otherwise.
    kept = [line for line in lines if not line.lstrip().startswith(("verify:", "restore_test:"))]
    assert len(kept) == len(lines) - 2
    path.write_text("".join(kept) + f"\nexporter: {{listen: '{metrics}'}}\n")
    return shop


def await_first_backup(shop: Shop) -> None:
    """Until the schedule's own first backup has been made: it comes by itself, and would stand between a test's own."""

    def states() -> list[str]:
        return [run["state"] for run in shop.ask("runs")["runs"]]

    until(lambda: states() == ["succeeded"], seconds=60, what="the first backup")
