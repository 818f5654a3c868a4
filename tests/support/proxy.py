"""A TCP proxy that breaks connections on purpose, between a client and a real server.

It knows nothing of what it carries. Faults are ordered ahead and used up by the connections that
come to them, so a test says "the next two uploads break after 100,000 bytes" and counts afterwards.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

_CHUNK = 65_536


@dataclass
class _Fault:
    """What happens to one connection: cut after so many bytes up or down, or in the middle of a certain request."""

    up: int | None = None
    down: int | None = None
    within: bytes = b""


@dataclass(eq=False)
class _Link:
    client: socket.socket
    server: socket.socket
    broken: threading.Event = field(default_factory=threading.Event)

    def cut(self) -> None:
        """Break it the hard way: both ends get a reset, not an orderly end."""
        self.broken.set()
        for end in (self.client, self.server):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


class FaultProxy:
    """Forwards 127.0.0.1:`port` to `target`, and breaks what it was told to break. A context manager."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.accepted = 0  # connections so far
        self.broken = 0  # faults used up so far
        self._faults: list[_Fault] = []
        self._pause = 0.0
        self._trickle = 0.0
        self._links: set[_Link] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def cut_uploads(self, times: int, *, after: int) -> None:
        """Break the next `times` requests once `after` bytes of one have gone to the server."""
        with self._lock:
            self._faults += [_Fault(up=after) for _ in range(times)]

    def cut_downloads(self, times: int, *, after: int) -> None:
        """Break the next `times` answers once `after` bytes of one have gone to the client."""
        with self._lock:
            self._faults += [_Fault(down=after) for _ in range(times)]

    def cut_within(self, times: int, content: bytes) -> None:
        """Break the next `times` requests that hold `content`, when the server has the half of one."""
        with self._lock:
            self._faults += [_Fault(within=content) for _ in range(times)]

    @property
    def open(self) -> int:
        """Connections that stand."""
        with self._lock:
            return len(self._links)

    def lose_answers(self, times: int) -> None:
        """Deliver the next `times` requests whole, and break the connection instead of bringing the answer."""
        self.cut_downloads(times, after=0)

    def forgive(self) -> None:
        """Drop the faults that nobody has come to."""
        with self._lock:
            self._faults.clear()

    def slow_down(self, seconds: float) -> None:
        """From now on hold back each answer, piece by piece, for so long: a site far away, under load."""
        self._pause = seconds

    def trickle(self, pause: float) -> None:
        """From now on bring answers byte by byte, with so many seconds after each; 0: as they come again."""
        self._trickle = pause

    def cut_all(self) -> None:
        """Break every connection now."""
        with self._lock:
            links = list(self._links)
        for link in links:
            link.cut()

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut_all()
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self.target, timeout=5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            link = _Link(client, server)
            with self._lock:
                self.accepted += 1
                self._links.add(link)
            for source, sink, up in ((client, server, True), (server, client, False)):
                thread = threading.Thread(target=self._carry, args=(link, source, sink, up), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _carry(self, link: _Link, source: socket.socket, sink: socket.socket, up: bool) -> None:
        carried = 0
        try:
            while data := source.recv(_CHUNK):
                limit = self._limit(up=up, carried=carried, data=data)
                if limit is not None:
                    sink.sendall(data[: max(0, limit - carried)])
                    link.cut()
                    break
                if self._pause and not up:
                    time.sleep(self._pause)
                while self._trickle and not up and data:
                    sink.sendall(data[:1])
                    data, carried = data[1:], carried + 1
                    if link.broken.wait(self._trickle):
                        return
                sink.sendall(data)
                carried += len(data)
        except OSError:
            pass
        if not link.broken.is_set():
            link.cut()
        with self._lock:
            self._links.discard(link)

    def _limit(self, *, up: bool, carried: int, data: bytes) -> int | None:
        """The bytes after which this connection breaks, if the first fault in line is one for it and is due."""
        with self._lock:
            if not self._faults:
                return None
            fault = self._faults[0]
            if fault.within:
                limit = carried + len(data) // 2 if up and fault.within in data else None
            else:
                limit = fault.up if up else fault.down
            if limit is None or carried + len(data) <= limit:
                return None
            self._faults.pop(0)
            self.broken += 1
            return limit
