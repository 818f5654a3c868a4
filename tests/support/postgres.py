"""A real PostgreSQL: a server on a socket of its own, under a load of writes, and what is in it row by row.

PostgreSQL refuses to be root's, so as root all of it is nobody's, in a directory that nobody can reach.
"""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from typing import Self

from tests.support.tools import Server, postgresql

NOBODY = 65534
SUPERUSER = "postgres"


def new_home() -> str:
    """A directory for servers, which pytest's own, that only root may enter, can't be; for `forget_home`."""
    home = tempfile.mkdtemp(prefix="holdfast-pg-")
    if os.geteuid() == 0:
        os.chown(home, NOBODY, NOBODY)
    return home


def forget_home(home: str) -> None:
    """Remove it with all that is in it."""
    shutil.rmtree(home, ignore_errors=True)


class Postgres(Server):
    """A server in a directory below `home`. Its data directory is made by `start`, unless it is there."""

    name = "postgres"

    def __init__(self, home: str, name: str) -> None:
        super().__init__(os.path.join(home, name))
        self.data = os.path.join(self.directory, "data")
        self._programs = _reachable(home)

    @property
    def options(self) -> dict[str, str]:
        """What a preset wants to know to reach it."""
        return {"host": self.directory, "port": str(self.port), "user": SUPERUSER}

    @property
    def variables(self) -> dict[str, str]:
        """The environment in which clients find it, and themselves."""
        path = f"{self._programs}:{os.environ['PATH']}"
        variables = {"PATH": path, "PGHOST": self.directory, "PGPORT": str(self.port), "PGUSER": SUPERUSER}
        libraries = glob.glob(os.path.join(self._programs, "../../../*-linux-gnu*"))
        return variables if self._programs.startswith("/usr/") else {**variables, "LD_LIBRARY_PATH": libraries[0]}

    def start(self) -> None:
        """As `Server.start`, with a new cluster where there is none yet."""
        os.makedirs(self.directory, exist_ok=True)
        if os.geteuid() == 0:
            os.chown(self.directory, NOBODY, NOBODY)
        if not os.path.exists(self.data):
            self.as_owner("initdb", "-D", self.data, "-U", SUPERUSER, "--auth=trust", "--no-sync", "-E", "UTF8")
        super().start()

    def take(self, folder: str) -> None:
        """Make a restored data directory this server's own."""
        shutil.move(folder, self.data)
        os.chmod(self.data, 0o700)
        if os.geteuid() == 0:
            for above, folders, files in os.walk(self.data):
                for name in (".", *folders, *files):
                    os.chown(os.path.join(above, name), NOBODY, NOBODY, follow_symlinks=False)

    def destroy(self) -> None:
        """Kill it, and remove its data."""
        self.kill()
        shutil.rmtree(self.data)

    def sql(self, text: str, *, database: str = "postgres") -> str:
        """What psql prints, a row a line, without decoration."""
        command = ["psql", "-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", text]
        return self.client(*command)

    def client(self, *command: str) -> str:
        """The output of a client of it."""
        done = subprocess.run(
            command, env={**os.environ, **self.variables}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def as_owner(self, *command: str) -> None:
        """Run a program of PostgreSQL as the one that the data belong to."""
        done = subprocess.run(
            [*_owner(), os.path.join(self._programs, command[0]), *command[1:]],
            env={**os.environ, **self.variables},
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def _command(self) -> list[str]:
        settings = {"listen_addresses": "", "unix_socket_directories": self.directory, "fsync": "off", "jit": "off"}
        options = [f"--{name}={value}" for name, value in settings.items()]
        return [*_owner(), f"{self._programs}/postgres", "-D", self.data, "-p", str(self.port), *options]

    def _environment(self) -> dict[str, str]:
        return self.variables

    def _answers(self) -> bool:
        done = subprocess.run(
            ["psql", "-X", "-At", "-c", "select 1"],
            env={**os.environ, **self.variables, "PGDATABASE": "postgres"},
            capture_output=True,
            check=False,
        )
        return done.returncode == 0


class WriteLoad:
    """pgbench on a database: several clients, each a transaction after the other, from `with` to its end."""

    def __init__(self, server: Postgres, database: str) -> None:
        self._server = server
        self._database = database
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            ["pgbench", "-n", "-c", "3", "-T", "600", self._database],
            env={**os.environ, **self._server.variables},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        assert self._process.poll() is None, "the load ended before the test did"
        self._process.kill()
        self._process.wait()

    def count(self) -> int:
        """How many transactions are done."""
        return int(self._server.sql("select count(*) from pgbench_history", database=self._database))


def _owner() -> list[str]:
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if os.geteuid() == 0 else []


def _reachable(home: str) -> str:
    """The programs where nobody can run them: a cache in root's home is copied."""
    programs = postgresql()
    if os.geteuid() != 0 or programs.startswith("/usr/"):
        return programs
    copy = os.path.join(home, "postgresql")
    with suppress(FileExistsError):
        shutil.copytree(os.path.join(programs, "../../../../.."), copy, symlinks=True)
        os.chmod(copy, 0o755)  # noqa: S103 - programs, for nobody to run
    return os.path.join(copy, os.path.relpath(programs, os.path.join(programs, "../../../../..")))
