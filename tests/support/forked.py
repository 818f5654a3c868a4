"""Processes of Holdfast that need not wait for imports: forked from one that has imported all there is.

`Popen` and `run` are as in `subprocess`, for a command `[sys.executable, "-m", module, ...]`. What they start is a
process of its own, with its own arguments, environment, folder, streams and session, in which the module runs as
`__main__`; /proc shows it so, too. A test whose subject is how a program starts, what it imports or how large it is
uses `subprocess`. So does this module where a fork could not be what was asked for: under another clock, with other
settings of Python, or with a limit or a user of its own.

The server (`python -m tests.support.forked FD`) has one thread, forks and reaps as it is asked, and ends with whoever
started it. What has ended is a zombie until it is waited for, as a child of one's own would be.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import gc
import importlib
import inspect
import io
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, AnyStr

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
SERVER = "HOLDFAST_TEST_FORKS"  # the address of a server that is there already, for who is started in turn
ASKED_BY = "HOLDFAST_TEST_ASKED_BY"  # an engine's supervisor, which is no longer its parent
PACKAGES = ("cli", "scheduler", "shared", "workers")
_MORE = (  # what those import when they need it
    *("celery.apps.beat", "celery.apps.worker", "celery.concurrency.prefork", "celery.fixups.django"),
    *("celery.worker.autoscale", "celery.worker.components", "celery.worker.consumer", "celery.worker.strategy"),
    *("cryptography.hazmat.primitives.ciphers.aead", "kombu.transport.redis", "redbeat.schedulers", "rich.live"),
    *("rich.progress", "rich.table", "structlog", "yaml"),
)
_FROM_THE_START = ("PYTHON", "LC_", "LANG", "LD_", "OPENSSL_", "GLIBC_", "MALLOC_")  # what counts before any code runs
_PADDING = 1 << 15  # bytes, for the arguments that /proc shows, and as many for the environment
_MESSAGE = 1 << 17  # bytes
_STDERR = 2
_WHERE = slice(45, 49)  # of what follows the name in /proc/PID/stat: begin and end of the arguments, of the environment


class Popen(subprocess.Popen[AnyStr]):
    """As that of `subprocess`."""

    _forks: _Server | None = None

    def __init__(self, command: Sequence[str], *, changed: Mapping[str, object] | None = None, **options: Any) -> None:
        """`changed`: module attributes that differ in what is forked, as "package.module:NAME"."""
        self._changed = changed or {}
        super().__init__(command, **options)

    def _execute_child(self, *given: Any, **named: Any) -> None:
        asked = _SIGNATURE.bind(self, *given, **named).arguments
        server = _server_for(asked)
        if server is None:
            super()._execute_child(*given, **named)
            return
        job = {
            "module": asked["args"][2],
            "arguments": asked["args"][3:],
            "environment": dict(os.environ if asked["env"] is None else asked["env"]),
            "directory": os.path.abspath(asked["cwd"] or os.getcwd()),
            "session": asked["start_new_session"],
            "owner": os.getpid(),
            "changed": self._changed,
        }
        streams = [
            own if asked[name] == -1 else asked[name] for own, name in enumerate(("p2cread", "c2pwrite", "errwrite"))
        ]
        self._forks = server
        self.pid = server.ask(job, streams)
        self._child_created = True
        self._close_pipe_fds(*(asked[name] for name in _ENDS))

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if self._forks is None:
            return super()._try_wait(wait_flags)
        ended = os.pidfd_open(self.pid)  # a zombie at least: its number is nobody else's yet
        try:
            if not select.select([ended], [], [], 0 if wait_flags & os.WNOHANG else None)[0]:
                return 0, 0
        finally:
            os.close(ended)
        return self.pid, self._forks.ask({"reap": self.pid})

    def _internal_poll(self, *given: Any, **named: Any) -> int | None:
        if self._forks is None:
            return super()._internal_poll(*given, **named)
        if self.returncode is None and self._waitpid_lock.acquire(blocking=False):
            try:
                if self.returncode is None and (found := self._try_wait(os.WNOHANG))[0]:
                    self._handle_exitstatus(found[1])
            finally:
                self._waitpid_lock.release()
        return self.returncode


_SIGNATURE = inspect.signature(subprocess.Popen._execute_child)
_ENDS = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")


def run(
    command: list[str],
    *,
    input: Any = None,  # noqa: A002 - as there
    timeout: float | None = None,
    check: bool = False,
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """As that of `subprocess`."""
    if options.pop("capture_output", False):
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    if input is not None:
        options["stdin"] = subprocess.PIPE
    with Popen(command, **options) as process:
        try:
            out, err = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(command, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


class _Server:
    """The client's side: one connection a request, so that any thread or process may ask."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.at_start = _at_start({**os.environ, "PYTHONPATH": ROOT})

    def ask(self, job: dict[str, Any], streams: list[int] | None = None) -> int:
        """The process id, or the status of one that has ended."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.connect(f"\0{self.address}")  # an abstract one: no file is left
            socket.send_fds(connection, [json.dumps(job).encode()], streams or [])
            answer = connection.recv(_MESSAGE)
        assert answer, f"nothing was forked for {job}"
        return int(answer)


@functools.cache
def _server(_process: int) -> _Server:
    """The one that was there already, or one of this process's own."""
    address = os.environ.get(SERVER, "")
    if address:
        return _Server(address)
    address = f"holdfast-{os.getpid()}-{os.urandom(8).hex()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(f"\0{address}")
        listener.listen(128)
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.forked", str(listener.fileno()), "-" * _PADDING],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": ROOT, "PADDING": "-" * _PADDING},
            stdin=subprocess.PIPE,
            pass_fds=[listener.fileno()],
        )
    assert process.stdin is not None
    mine = os.getpid()

    def end() -> None:
        if os.getpid() == mine:
            process.stdin.close()
            process.wait()

    atexit.register(end)
    return _Server(address)


_PLAIN = {
    **dict.fromkeys(("executable", "preexec_fn", "gid", "gids", "uid")),
    "shell": False,
    "pass_fds": (),
    "umask": -1,
    "process_group": -1,
}


def _server_for(asked: dict[str, Any]) -> _Server | None:
    """Who can fork what was asked for; None where it must be started."""
    command = asked["args"]
    if not isinstance(command, list | tuple) or not all(isinstance(word, str) for word in command):
        return None
    if list(command[:2]) != [sys.executable, "-m"] or command[2].partition(".")[0] not in {*PACKAGES, "tests"}:
        return None
    if any(asked[name] != value for name, value in _PLAIN.items()):
        return None
    environment = os.environ if asked["env"] is None else asked["env"]
    server = _server(os.getpid())
    return server if _at_start(environment) == server.at_start else None


def _at_start(environment: Mapping[str, str]) -> dict[str, str]:
    found = {name: value for name, value in environment.items() if name.startswith(_FROM_THE_START)}
    return {"PYTHONPATH": ROOT, **found}


def fork_engines(**changed: object) -> None:
    """From here on a worker's engines are forked, too: with `SERVER` in its environment, and `ASKED_BY` in theirs."""
    from workers import engine_process

    def start(command: list[str], **options: Any) -> Popen[bytes]:
        return Popen(command, env={**os.environ, ASKED_BY: str(os.getpid())}, changed=changed, **options)

    engine_process.subprocess = SimpleNamespace(Popen=start, PIPE=subprocess.PIPE)


def address() -> str:
    """Of this process's server, for the environment of who shall have what it starts forked, too: see `SERVER`."""
    return _server(os.getpid()).address


def _serve(listener: socket.socket) -> dict[str, Any] | None:
    """Answer until stdin ends: None. In each fork: what it is to be."""
    owners: dict[int, int] = {}
    while 0 not in (ready := select.select([listener, 0], [], [], 1.0)[0]):
        if not ready:
            _reap_orphans(owners)
            continue
        connection = listener.accept()[0]
        with connection, suppress(BrokenPipeError):  # whoever asked may have been killed
            raw, streams, _, _ = socket.recv_fds(connection, _MESSAGE, 3)
            job = json.loads(raw or "{}")
            if "reap" in job:
                connection.send(str(os.waitpid(job["reap"], 0)[1]).encode())
                del owners[job["reap"]]
            elif job:
                pid = os.fork()
                if pid == 0:
                    listener.close()
                    _become(job, streams)
                    with suppress(BrokenPipeError):
                        connection.send(str(os.getpid()).encode())
                    return job
                owners[pid] = job["owner"]
            for stream in streams:
                os.close(stream)
    return None


def _reap_orphans(owners: dict[int, int]) -> None:
    """As init does: a zombie would count as alive for whoever asks whether the holder of a lock is."""
    for pid, owner in list(owners.items()):
        if not os.path.exists(f"/proc/{owner}") and os.waitpid(pid, os.WNOHANG)[0]:
            del owners[pid]


def _become(job: dict[str, Any], streams: list[int]) -> None:
    """Take over the streams, the session, the folder and the environment."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    if job["session"]:
        os.setsid()
    os.chdir(job["directory"])
    os.environ.clear()
    os.environ.update(job["environment"])
    _show([sys.executable, "-m", job["module"], *job["arguments"]], job["environment"])
    time.tzset()
    tempfile.tempdir = None
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.path[0] = job["directory"]
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        stream = _stream(fd, getattr(sys, name))
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _stream(fd: int, old: Any) -> io.TextIOWrapper:
    """As Python opens it at its start. `old`: the server's own, by the same settings."""
    at_once = old.write_through  # PYTHONUNBUFFERED
    raw = open(fd, "rb" if fd == 0 else "wb", buffering=0 if at_once and fd else -1, closefd=False)  # noqa: SIM115 - for good
    lines = not at_once and (os.isatty(fd) or fd == _STDERR)
    return io.TextIOWrapper(raw, old.encoding, old.errors, line_buffering=lines, write_through=at_once)


def _show(arguments: list[str], environment: dict[str, str]) -> None:
    """Have /proc tell of these: written over what the server was started with."""
    with open("/proc/self/stat") as file:
        places = [int(word) for word in file.read().rpartition(")")[2].split()[_WHERE]]
    variables = [f"{name}={value}" for name, value in environment.items()]
    for words, begin, end in ((arguments, *places[:2]), (variables, *places[2:])):
        raw = b"".join(os.fsencode(word) + b"\0" for word in words)[: end - begin]
        ctypes.memmove(begin, raw.ljust(end - begin, b"\0"), end - begin)


def main() -> None:
    """Import everything, serve, and in each fork run what was asked for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for who started this
    for package in PACKAGES:
        for found in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if not found.name.endswith((".__main__", "cli.main")):
                importlib.import_module(found.name)
    for name in _MORE:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    job = _serve(socket.socket(fileno=int(sys.argv[1])))
    if job is None:
        return
    if not hasattr(sys.modules.get(job["module"]), "__path__"):
        sys.modules.pop(job["module"], None)  # as at a start, nobody has imported it before
    for name, value in job["changed"].items():
        module, _, attribute = name.partition(":")
        assert hasattr(sys.modules[module], attribute), name
        setattr(sys.modules[module], attribute, value)
    sys.argv = ["-m", *job["arguments"]]
    runpy.run_module(job["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
