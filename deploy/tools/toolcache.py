"""The cache of tools: a directory outside the checkout, where a tool is whole or not there at all.

A tool is built in a scratch directory inside the cache and published by renaming it, while one
lock is held; so two runs at once do the work once, and a run that dies leaves nothing but scratch,
which the next run removes.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

_SCRATCH = ".building-"
_TAIL_LINES = 12


class Unavailable(Exception):
    """A tool can't be had on this machine; the message says why, and what to install."""


def say(message: str) -> None:
    """Tell the person at the terminal; standard output is kept for `--print`."""
    print(message, file=sys.stderr, flush=True)


def cache_dir() -> str:
    """Return the cache: $HOLDFAST_TOOLS, or holdfast/tools below the user's cache directory."""
    named = os.environ.get("HOLDFAST_TOOLS")
    if named:
        return os.path.abspath(named)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "holdfast", "tools")


def tool_path(directory: str, program: str) -> str:
    """Return where the program of a tool's directory lies once it is published."""
    return os.path.join(cache_dir(), directory, program)


def run(command: Sequence[str], *, cwd: str | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run a command and return its standard output.

    Raises Unavailable, with the end of what it said, when it is missing or fails.
    """
    try:
        done = subprocess.run(
            command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise Unavailable(f"{command[0]} can't be run: {error.strerror}") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-_TAIL_LINES:]
        indented = "".join(f"\n    {line}" for line in said)
        raise Unavailable(f"{' '.join(command[:2])} ... failed with exit code {done.returncode}{indented}")
    return done.stdout


@contextmanager
def locked() -> Iterator[None]:
    """Hold the cache's lock, waiting for another run if there is one, and clear away what dead runs left."""
    directory = cache_dir()
    os.makedirs(directory, exist_ok=True)
    descriptor = os.open(os.path.join(directory, ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("tools: another run is installing; waiting for it")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        for name in os.listdir(directory):
            if name.startswith(_SCRATCH):
                shutil.rmtree(os.path.join(directory, name))
        yield
    finally:
        os.close(descriptor)


@contextmanager
def scratch() -> Iterator[str]:
    """Lend a directory on the cache's own file system, removed at the end. Call it with the lock held."""
    directory = tempfile.mkdtemp(prefix=_SCRATCH, dir=cache_dir())
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def publish(program: str, directory: str) -> None:
    """Move a program, that has been seen to run, into the cache under its tool's directory."""
    publish_all([program], directory)


def publish_all(files: Sequence[str], directory: str) -> None:
    """Move a program, that has been seen to run, and what belongs to it, all at once."""
    staged = tempfile.mkdtemp(prefix=_SCRATCH, dir=cache_dir())
    # mkdtemp makes directories that only their owner may enter, but a cache may be shared.
    for path in (staged, *files):
        os.chmod(path, 0o755)  # noqa: S103 - programs, for everyone to run
    for path in files:
        os.rename(path, os.path.join(staged, os.path.basename(path)))
    os.rename(staged, os.path.join(cache_dir(), directory))
