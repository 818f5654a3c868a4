"""The bench: what is made of its runs, what the pages say, and that changed files are put back."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"


class Bench:
    """The bench's scripts, which are no package and find each other beside themselves."""

    def __getattr__(self, name: str) -> ModuleType:
        return importlib.import_module(name)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """The scripts, for one test; no other module is found by their names afterwards."""
    names = {path.stem for path in BENCHMARKS.glob("*.py")}
    before = {name: sys.modules.pop(name) for name in names & sys.modules.keys()}
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield Bench()
    for name in names:
        sys.modules.pop(name, None)
    sys.modules.update(before)


def run(
    case: str, tool: str, wall: float, *, where: str = "local-warm", number: int = 0, **more: Any
) -> dict[str, Any]:
    """A run as it stands in the JSON file; like restic's in all but what is said."""
    fixed = {"position": 0, "server_cpu": 0.0, "samples": 1, "sampler_cpu": 0.0, "left_behind": 0}
    costs = {"user": wall, "system": 0.0, "pss": 100 * 10**6, "stored": 1000, **more}
    return {"where": where, "case": case, "round": number, "tool": tool, "wall": wall, **fixed, **costs}


def result(*runs: dict[str, Any], **facts: object) -> dict[str, Any]:
    """What `run.py` writes."""
    machine = {"cpu": "A processor", "virtual": False, "cores": 4, "memory": 2**33, "file_system": "ext4"}
    machine |= {"kernel": "Linux 6.1", "python": "3.11.2", "load_at_start": 0.0, "time": "2026-01-02T03:04:05Z"}
    data = {
        "small": {"name": "small", "files": 1000, "size": 2 * 10**6, "duplicate": 10**6, "zstd3": 250_000},
        "text": {"name": "text", "files": 1, "size": 2**30, "duplicate": 0, "zstd3": 2**29},
    }
    versions = {"restic": "restic 0.18.0 compiled with go", "holdfast": "holdfast 0.1.0"}
    fixed = {"machine": machine, "versions": versions, "data": data, "quick": False, "minutes": 12.3}
    return {"facts": {**fixed, **facts}, "runs": list(runs)}


def test_ratios_are_taken_round_by_round(bench: Bench) -> None:
    """A round in which the machine was slow for both does not count as slow for one."""
    runs = [
        *(run("small-full", "restic", wall, number=number) for number, wall in enumerate((10.0, 100.0, 10.0))),
        *(run("small-full", "holdfast", wall, number=number) for number, wall in enumerate((5.0, 50.0, 4.0))),
    ]
    (line,) = bench.report.lines([bench.report.Run(**one) for one in runs])
    spread = line.ratios["holdfast"]["wall"]
    assert (spread.median, spread.low, spread.high, line.rounds) == (0.5, 0.4, 0.5, 3)


@pytest.mark.parametrize(
    ("wall", "stored", "pss", "marks"),
    [
        (5.0, 1020, 100, ["aim met"]),
        (5.1, 1020, 100, ["AIM MISSED"]),
        (4.0, 1021, 100, ["DOES NOT COUNT: stores more than 1.02 x", "AIM MISSED"]),
        (4.0, 1000, 101, ["aim met", "MEMORY ABOVE"]),
    ],
)
def test_a_line_is_judged_by_the_rules(bench: Bench, wall: float, stored: int, pss: int, marks: list[str]) -> None:
    """An aim is met by a figure that counts, and it counts up to 1.02 x restic's bytes; memory is judged apart."""
    runs = [
        run("small-full", "restic", 10.0, pss=100),
        run("small-full", "holdfast", wall, pss=pss, stored=stored),
    ]
    (line,) = bench.report.lines([bench.report.Run(**one) for one in runs])
    assert bench.report.marks(line) == marks
    assert bench.report.table([line]).splitlines()[-1].endswith("  ".join(marks))


def test_a_tool_that_ran_alone_has_a_line_without_ratios(bench: Bench) -> None:
    """`--tools holdfast` is for looking; there is nothing to judge."""
    (line,) = bench.report.lines([bench.report.Run(**run("small-full", "holdfast", 5.0))])
    assert (line.ratios, line.aim_met, line.counts, line.memory_met) == ({}, None, True, True)
    assert "5.00" in bench.report.table([line])


def test_what_is_counted_less_than_restic_does_is_said(bench: Bench) -> None:
    """More fsyncs are no advantage, fewer would be; files opened are not part of the rule."""
    restic = {"step": "full", "tool": "restic", **dict.fromkeys(bench.parity.ROWS, 5)}
    ours = {**restic, "tool": "holdfast", "syncs": 7, "xattr lists": 4, "opens": 1}
    assert bench.parity.fewer([restic, ours]) == ["holdfast full: 4 xattr lists, restic 5"]
    assert "holdfast full: 4 xattr lists, restic 5" in bench.parity.table([restic, ours])


def test_the_readme_has_each_figure_from_the_result(bench: Bench) -> None:
    """Medians, the ratio with its span, the aim and the worker; what is missed is said in words."""
    runs = [
        *(run("small-full", "restic", 10.0, number=number) for number in range(2)),
        run("small-full", "holdfast", 4.0, number=0, pss=110 * 10**6),
        run("small-full", "holdfast", 5.0, number=1, pss=120 * 10**6),
        run("small-full", "worker", 6.0),
        run("text-restore", "restic", 2.0),
        run("text-restore", "holdfast", 1.8, stored=990),
    ]
    text = bench.publish.readme(bench.publish.Figures.of(result(*runs)))
    rows = [line for line in text.splitlines() if line.startswith("|")][2:]
    small = "10.00 s | 4.50 s | **0.45** (0.40-0.50) | 0.5 met | 0.45 | 1.15 (above) | 1.000 | 6.00 s"
    big = "2.00 s | 1.80 s | **0.90** | 0.8 missed | 0.90 | 1.00 | 0.990 | -"
    assert rows == [f"| 1,000 small files, 2 MB: full | {small} |", f"| 1 GiB that compresses: restore | {big} |"]
    assert "On A processor, 4 cores, 8 GiB, ext4, Linux 6.1, local directory, warm cache, against restic 0.18.0" in text
    assert "Aims missed: 1 GiB that compresses: restore (0.90, aim 0.8)." in text
    assert "More memory than restic: 1,000 small files, 2 MB: full (1.15)." in text


def test_the_page_has_each_place_and_what_was_counted(bench: Bench) -> None:
    """A table a place that was measured, the worker's own, and the counts with what is less."""
    counts = [
        {"step": "full", "tool": tool, **dict.fromkeys(bench.parity.ROWS, number)}
        for tool, number in (("restic", 3), ("holdfast", 2))
    ]
    runs = [run("small-full", tool, 4.0, where=where) for where in ("local-warm", "minio") for tool in TOOLS]
    text = bench.publish.page(bench.publish.Figures.of(result(*runs, parity=counts)))
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "### Local directory, warm cache",
        "### MinIO on the same machine, warm cache",
        "### The warm worker beside it",
        "### Counted, not timed",
    ]
    assert "| small | 1,000 | 2.0 | 50.0% | 4.00 |" in text
    assert "holdfast full: 2 syncs, restic 3" in text


TOOLS = ("restic", "holdfast", "worker")


def test_a_page_keeps_what_stands_outside_its_markers(bench: Bench) -> None:
    """The block is replaced whole; a page without markers, or with two pairs, is refused."""
    page = "above\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nbelow\n"
    new = bench.publish.replace(page, "new")
    assert new == page.replace("old", "new")
    assert bench.publish.between(new) == "new"
    for wrong in ("no markers", "<!-- bench:end --><!-- bench:begin -->", page + page):
        with pytest.raises(ValueError, match="once each"):
            bench.publish.replace(wrong, "new")


def test_a_quick_or_lone_run_is_not_published(bench: Bench) -> None:
    """A tenth of the data, another place alone and a tool without its opponent make no figures."""
    pair = [run("small-full", tool, 4.0) for tool in ("restic", "holdfast")]
    refusal = bench.publish.refusal
    assert refusal(result(*pair)) == ""
    assert "--quick" in refusal(result(*pair, quick=True))
    assert "warm cache" in refusal(result(*({**one, "where": "minio"} for one in pair)))
    assert "not measured in pairs" in refusal(result(pair[0]))


def test_the_pages_say_what_was_published(bench: Bench) -> None:
    """README and docs/benchmarks.md hold what `publish.py` makes of the published run, to the letter."""
    assert bench.publish.stale() == []


def test_publishing_writes_both_pages(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a result to pages that say it; a page that was edited by hand since is found."""
    (tmp_path / "docs").mkdir()
    for name in bench.publish.PAGES:
        (tmp_path / name).write_text("above\n<!-- bench:begin -->\n<!-- bench:end -->\n")
    monkeypatch.setattr(bench.publish, "ROOT", str(tmp_path))
    monkeypatch.setattr(bench.publish, "PUBLISHED", str(tmp_path / "published.json"))
    assert bench.publish.stale() == []
    path = tmp_path / "result.json"
    path.write_text(json.dumps(result(*(run("small-full", tool, 4.0) for tool in TOOLS))))
    assert bench.publish.main([str(path)]) == 0
    assert bench.publish.stale() == []
    page = tmp_path / "README.md"
    page.write_text(page.read_text().replace("4.00 s", "3.00 s"))
    assert bench.publish.stale() == ["README.md"]


def test_rounds_are_given_for_all_places_or_each(bench: Bench) -> None:
    """A bare number is for everywhere; a place that is not named keeps its own."""
    default = bench.run.ROUNDS
    assert bench.run._rounds("2") == dict.fromkeys(default, 2)
    assert bench.run._rounds("minio=1,local-warm=5") == {**default, "minio": 1, "local-warm": 5}
    for wrong in ("", "minio", "mars=1", "minio=x"):
        with pytest.raises(bench.run.argparse.ArgumentTypeError):
            bench.run._rounds(wrong)


def test_changed_files_are_put_back(bench: Bench, tmp_path: Path) -> None:
    """One per cent is changed in the block; afterwards the tree is what it was, also when a run was killed within."""
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(600):
        (folder / f"file-{number}").write_bytes(b"%d" % number * 100)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with bench.changes.one_percent(str(folder)) as touched:
        changed = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert touched > 0
    assert changed != before
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    script = (
        "import changes, os, sys\nwith changes.one_percent(sys.argv[1]): os.kill(os.getpid(), 9)"  # as if pulled out
    )
    subprocess.run([sys.executable, "-c", script, str(folder)], cwd=BENCHMARKS, check=False)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == changed
    bench.changes.put_back(str(folder))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_cost_holds_the_process_beside(bench: Bench, tmp_path: Path) -> None:
    """CPU time and memory of what works for a command, and of its children, are part of the command's cost."""
    busy = "import time\nwhile time.process_time() < 0.2: pass\nprint('done', flush=True)\ntime.sleep(60)"
    parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {busy!r}])"
    log = tmp_path / "said"
    with log.open("wb") as file:
        beside = subprocess.Popen([sys.executable, "-c", parent], stdout=file, start_new_session=True)
    try:
        wait = "import sys, time\nwhile 'done' not in open(sys.argv[1]).read(): time.sleep(0.01)\ntime.sleep(0.1)"
        command = [sys.executable, "-c", wait, str(log)]
        cost = bench.measure.run(command, env=dict(os.environ), cwd=str(tmp_path), beside=beside.pid)
    finally:
        os.killpg(beside.pid, 9)
        beside.wait()
    assert cost.cpu >= 0.2
    assert cost.pss > 3 * 2**20  # three interpreters


def test_the_worker_is_told_of_no_schedule(bench: Bench, tmp_path: Path) -> None:
    """The scheduler of a measured `up` starts nothing by itself."""
    place = bench.sites.Directory(str(tmp_path / "repositories"))
    bench.contenders.Worker("holdfast", place, "bench", str(tmp_path), str(tmp_path))
    assert "policies" not in json.loads((tmp_path / "holdfast.yaml").read_text())
