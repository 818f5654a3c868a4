"""One per cent of the small files changed, and put back.

Of every 100 files (drawn by a hash of their names, so always the same ones) one changes: of ten such, eight are written
anew with some bytes in the middle replaced, one is deleted, and one gets a new neighbour. The originals are moved
aside, not copied, and moved back afterwards; what a killed run left aside is put back by the next one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
from typing import TYPE_CHECKING

from corpus import walk_files

if TYPE_CHECKING:
    from collections.abc import Iterator

JOURNAL = "undo.json"


@contextlib.contextmanager
def one_percent(folder: str) -> Iterator[int]:
    """Change the tree for the time of the block; yields how many files were touched."""
    put_back(folder)
    aside = folder + ".aside"
    os.makedirs(aside)
    edits = [(path, draw) for path in walk_files(folder) if (draw := _draw(path, folder)) is not None]
    times = {os.path.dirname(path): os.stat(os.path.dirname(path)).st_mtime_ns for path, _ in edits}
    moves = {str(number): path for number, (path, draw) in enumerate(edits) if draw < 9}
    added = [path + ".added" for path, draw in edits if draw == 9]
    with open(os.path.join(aside, JOURNAL), "w", encoding="utf-8") as file:
        json.dump({"moves": moves, "added": added, "times": times}, file)
    try:
        for number, (path, draw) in enumerate(edits):
            _change(path, draw, os.path.join(aside, str(number)))
        yield len(edits)
    finally:
        put_back(folder)


def put_back(folder: str) -> None:
    """Undo `one_percent`, as far as it came; nothing to do where no change is pending."""
    aside = folder + ".aside"
    try:
        with open(os.path.join(aside, JOURNAL), encoding="utf-8") as file:
            journal = json.load(file)
    except (FileNotFoundError, ValueError):  # no change pending, or killed before the first one
        journal = {"moves": {}, "added": [], "times": {}}
    for number, path in journal["moves"].items():
        with contextlib.suppress(FileNotFoundError):
            os.replace(os.path.join(aside, number), path)
    for path in journal["added"]:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    for directory, when in journal["times"].items():
        os.utime(directory, ns=(when, when))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(aside, JOURNAL))
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(aside)


def _draw(path: str, folder: str) -> int | None:
    """0 to 9 for a file that changes, None for the 99 of 100 that don't."""
    number = int.from_bytes(hashlib.sha256(os.path.relpath(path, folder).encode()).digest()[:8], "big")
    return number // 100 % 10 if number % 100 == 0 else None


def _change(path: str, draw: int, original: str) -> None:
    """Move the file aside and write a changed one (0 to 7) or none (8); or write a neighbour (9)."""
    with open(path, "rb") as file:
        data = bytearray(file.read())
    noise = random.Random(path.rpartition("/")[2]).randbytes(64)
    middle = len(data) // 2
    data[middle : middle + 64] = noise
    if draw == 9:
        path += ".added"
    else:
        os.replace(path, original)
    if draw != 8:
        with open(path, "wb") as file:
            file.write(data)
        os.chmod(path, 0o644)
