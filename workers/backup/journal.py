"""The journal of a run: which packs it has uploaded, kept locally until its snapshot is committed.

A line per pack, appended as it becomes durable at the site. It is a hint: the next attempt reads those
packs' headers before it believes that they are there. A half-written last line is dropped. A run that was
cancelled, or ended on another host, leaves its own behind: whoever commits removes those that are a week old.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

from workers.backup.engine.sources import cache_name

_LINE = 65  # 64 hex digits and a newline
KEPT = 7 * 86400.0  # seconds since it was last written to, as long as the ledger keeps its own


class Journal:
    """One run's journal in `<cache_dir>/journal/`."""

    def __init__(self, cache_dir: str, restic_id: str, site: str, run: str) -> None:
        folder = os.path.join(cache_dir, "journal")
        os.makedirs(folder, mode=0o700, exist_ok=True)
        self._folder = folder
        self._path = os.path.join(folder, cache_name(restic_id, site, run))

    def read(self) -> list[str]:
        """The packs (hex) that earlier attempts on this host uploaded."""
        try:
            with open(self._path, encoding="ascii", errors="replace") as file:
                lines = file.read()
        except FileNotFoundError:
            return []
        return [
            line
            for line in lines.split("\n")[:-1]
            if len(line) == _LINE - 1 and not set(line) - set("0123456789abcdef")
        ]

    def add(self, pack: str) -> None:
        """Note a pack that is durable at the site."""
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, f"{pack}\n".encode())
        finally:
            os.close(fd)

    def remove(self) -> None:
        """The run is committed: nothing is left to take up."""
        with suppress(FileNotFoundError):
            os.unlink(self._path)
        with suppress(OSError), os.scandir(self._folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # another was quicker
                    if entry.stat().st_mtime < time.time() - KEPT:
                        os.unlink(entry.path)
