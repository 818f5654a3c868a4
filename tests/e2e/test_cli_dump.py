"""`holdfast dump`: files and archives out of real repositories, ours and restic's."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import forked
from tests.support.backups import run_restic, write
from tests.support.browsing import Looker, look_into
from tests.support.command import environment
from tests.support.compare import compare_trees, tree_of
from tests.support.kinds import make_every_kind

BIG = 24 << 20  # bytes: more than is read at once


@pytest.fixture
def looker(tmp_path: Path) -> Looker:
    """A configured source."""
    return look_into(tmp_path)


def command(looker: Looker, *arguments: str) -> list[str]:
    """The command in a process of its own."""
    return [sys.executable, "-m", "cli.main", "dump", "--config", looker.config, *arguments]


def untar(archive: bytes, target: Path) -> None:
    """By GNU tar, with all attributes."""
    target.mkdir()
    done = subprocess.run(
        ["tar", "-x", "--xattrs", "--xattrs-include=*", "-p", "-C", str(target)],
        input=archive,
        capture_output=True,
        check=False,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")


@pytest.mark.parametrize("writer", ["holdfast", "restic"])
def test_an_archive_is_the_directory(looker: Looker, tmp_path: Path, writer: str) -> None:
    """GNU tar makes of it what was backed up: every kind of file, links, attributes, times to the nanosecond."""
    shutil.rmtree(looker.shop.source)
    make_every_kind(looker.shop.source, sockets=writer == "holdfast", deep=False)
    if writer == "holdfast":
        looker.shop.backup()
    else:
        shutil.rmtree(looker.shop.repository)
        run_restic("0.18", looker.shop.repository, "init")
        looker.shop.restic_backup("0.18")
    out, err = looker.run("dump", f"web1:{looker.shop.source}")
    untar(out, tmp_path / "out")
    if writer == "holdfast":
        assert "1 socket left out" in err
        os.unlink(f"{looker.shop.source}/socket")
    before, after = tree_of(looker.shop.source), tree_of(tmp_path / "out/source")
    different = compare_trees(before, after, top=False)
    assert [line for line in different if ": sparse " not in line] == []  # an archive writes holes as zeros


def test_a_file_comes_byte_for_byte(looker: Looker) -> None:
    """Large ones, empty ones, of an earlier snapshot; what was written is told on stderr."""
    path = f"{looker.shop.source}/big"
    content = os.urandom(BIG // 2) + bytes(BIG // 2) + b"end"
    write(path, content)
    write(f"{looker.shop.source}/empty")
    looker.shop.backup()
    write(path, b"later", mtime=1)
    looker.shop.backup()
    assert looker.run("dump", f"web1:{path}")[0] == b"later"
    out, err = looker.run("dump", f"web1:{path}", "--snapshot", "latest~1", "--json")
    assert (out == content, json.loads(err)["bytes"], json.loads(err)["problems"]) == (True, len(content), [])
    assert looker.run("dump", f"web1:{looker.shop.source}/empty")[0] == b""
    untar(looker.run("dump", f"web1:{path}", "--archive", "tar")[0], Path(looker.shop.base, "out"))
    assert Path(looker.shop.base, "out/big").read_bytes() == b"later"


def test_what_can_not_be_dumped_is_refused(looker: Looker) -> None:
    """With the way out."""
    os.symlink("x", f"{looker.shop.source}/link")
    looker.shop.backup()
    for arguments, code, said in (
        ([f"web1:{looker.shop.source}/link"], 2, "is a symlink"),
        (["web1:/absent"], 26, "holds no /absent"),
        (["web1"], 2, "names no path"),
        (["web1:/x", "--archive", "zip"], 2, "zip"),
    ):
        assert said in looker.run("dump", *arguments, code=code)[1]


def test_damage_is_never_written(looker: Looker, tmp_path: Path) -> None:
    """Of a damaged file nothing behind the damage; an archive leaves a small one out, and ends within a large one."""
    source = looker.shop.source
    small, big = b"small content", os.urandom(BIG)
    write(f"{source}/a-small", small)
    write(f"{source}/b-whole", b"whole")
    looker.shop.backup()
    write(f"{source}/c-big", big)
    tree = looker.shop.open()
    done = looker.shop.backup()
    root = next(one.tree for one in tree.snapshots() if one.id == done.snapshot)
    nodes = looker.shop.nodes(root, source)
    looker.lose_content(nodes[b"a-small"])
    out, err = looker.run("dump", f"web1:{source}/a-small", code=24)
    assert (out, "nothing was written" in err) == (b"", True)
    out, err = looker.run("dump", f"web1:{source}", "--snapshot", "latest~1", code=3)
    untar(out, tmp_path / "out")
    assert (sorted(os.listdir(tmp_path / "out/source")), f"{source}/a-small: left out" in err) == (["b-whole"], True)
    looker.lose_content(nodes[b"c-big"], -1)
    out, err = looker.run("dump", f"web1:{source}/c-big", code=24)
    assert (0 < len(out) < BIG, big.startswith(out), "before are whole" in err) == (True, True, True)
    out, err = looker.run("dump", f"web1:{source}", code=24)
    assert ("the archive ends within this file" in err, "Traceback" in err, len(out) < BIG) == (True, False, True)


def test_a_terminal_gets_text_alone(looker: Looker) -> None:
    """Text is shown; what a terminal might obey, and archives, are refused before the first byte."""
    source = looker.shop.source
    write(f"{source}/text", "grüße\n".encode())
    write(f"{source}/binary", b"text \x1b[2J")
    looker.shop.backup()
    got = []
    for name, *options in (("text",), ("binary",), ("text", "--archive", "tar"), ("",)):
        ours, theirs = pty.openpty()
        done = forked.run(
            command(looker, f"web1:{source}/{name}", *options),
            stdin=subprocess.DEVNULL, stdout=theirs, stderr=subprocess.PIPE, env=environment(),
        )  # fmt: skip
        os.close(theirs)
        try:
            shown = os.read(ours, 1000)
        except OSError:  # nothing was written before it was closed
            shown = b""
        os.close(ours)
        got.append((done.returncode, shown.decode(), "to a terminal" in done.stderr.decode()))
    assert got == [(0, "grüße\r\n", False), (2, "", True), (2, "", True), (2, "", True)]


def test_a_reader_that_has_enough_is_no_error(looker: Looker) -> None:
    """`holdfast dump ... | head -c 1` ends quietly, with the code of a closed pipe."""
    write(f"{looker.shop.source}/big", os.urandom(BIG))
    looker.shop.backup()
    for what in ("/big", ""):
        process = forked.Popen(
            command(looker, "-q", f"web1:{looker.shop.source}{what}"),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(),
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        assert len(process.stdout.read(1)) == 1
        process.stdout.close()
        said = process.stderr.read()
        process.stderr.close()
        assert (process.wait(60), said) == (141, b"")


def test_memory_is_bounded(looker: Looker) -> None:
    """A file of 72 MB takes no more than one of 24 MB does, within what a window holds."""
    piece = os.urandom(1 << 20)
    peaks = []
    for size in (24, 72):
        with open(f"{looker.shop.source}/big", "wb") as file:
            for number in range(size):
                file.write(number.to_bytes(4, "little") + piece[4:])
                file.write(os.urandom(1 << 10))
        looker.shop.backup()
        program = (
            "import sys, resource; from cli.main import main; code = main(sys.argv[1:]);"
            "print(code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, *command(looker, "-q", f"web1:{looker.shop.source}/big")[3:]],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment(), check=True,
        )  # fmt: skip
        code, peak = done.stderr.split()
        assert code == b"0"
        peaks.append(int(peak))
    assert peaks[1] - peaks[0] < 16 << 10  # KiB
