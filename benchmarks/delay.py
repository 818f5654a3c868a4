"""A server as it is seen from afar: a TCP proxy, in a process of its own, that holds back each answer for a while."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator

PIECE = 1 << 16


async def _carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter, delay: float) -> None:
    """Pass on what comes, each piece `delay` seconds later, many at once under way as on a line."""
    loop = asyncio.get_running_loop()
    while data := await source.read(PIECE):
        loop.call_later(delay, sink.write, data)
    loop.call_later(delay, sink.close)


async def _serve(host: str, port: int, delay: float) -> None:
    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, port)
        await asyncio.gather(_carry(reader, far_writer, 0.0), _carry(far_reader, writer, delay), return_exceptions=True)

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextlib.contextmanager
def behind(address: str, milliseconds: float) -> Iterator[str]:
    """Yield the address of a proxy before `address`."""
    command = [sys.executable, __file__, address, str(milliseconds / 1000)]
    proxy = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert proxy.stdout is not None
        yield f"127.0.0.1:{int(proxy.stdout.readline())}"
    finally:
        proxy.kill()
        proxy.wait()


if __name__ == "__main__":
    _host, _, _port = sys.argv[1].partition(":")
    asyncio.run(_serve(_host, int(_port), float(sys.argv[2])))
