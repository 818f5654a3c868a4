"""A log file that another process may rename at any time, and whose disk may be full.

Invariant: a line is written whole, by one call, to the file that has the path then, or to the one that had it a moment
ago; so a rotation by rename loses none, however many processes write. What can't be written is counted, and the count
is told when there is room again: nothing that runs waits for a log or ends by it.
"""

from __future__ import annotations

import logging
import os

_OUT = (1, 2)  # what the process itself prints, and what a dying interpreter or an engine says, goes the same way


class LogFile(logging.Handler):
    """Appends to `path`, which is made if it is missing, and leads standard output and error there."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path
        self._lost = 0
        self._torn = False  # a line was cut short by a full disk

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record. Raises nothing."""
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - as every handler of the standard library does
            self.handleError(record)
            return
        try:
            self._follow()
            self._write(line)
            if self._lost:
                lost, self._lost = self._lost, 0
                self._write(self.format(_notice(lost)))
        except OSError:
            self._lost += 1

    def _follow(self) -> None:
        """Go over to the file that has the path now. Raises OSError."""
        ours = os.fstat(_OUT[1])
        try:
            now = os.stat(self._path)
        except FileNotFoundError:
            now = None
        if now is not None and (now.st_dev, now.st_ino) == (ours.st_dev, ours.st_ino):
            return
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        for target in _OUT:
            os.dup2(fd, target)
        os.close(fd)
        self._torn = False

    def _write(self, line: str) -> None:
        data = ("\n" if self._torn else "") + line + "\n"
        view = memoryview(data.encode(errors="backslashreplace"))
        self._torn = True
        while view:
            view = view[os.write(_OUT[1], view) :]
        self._torn = False


def _notice(lost: int) -> logging.LogRecord:
    text = f"{lost} lines before this one could not be written"
    return logging.makeLogRecord({"name": "holdfast.log", "levelno": 30, "levelname": "WARNING", "msg": text})
