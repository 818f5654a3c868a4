"""A child process with mounts of its own, which vanish with it: a tiny disk, a read-only one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys


def run_mounted(script: str, *arguments: str, mounts: str) -> str:
    """What a Python `script` prints that runs in a mount namespace of its own, after the shell commands `mounts`.

    Both get `arguments` ($1.. and sys.argv[1:]). As root it needs CAP_SYS_ADMIN, else user namespaces;
    where the machine gives neither, AssertionError says so.
    """
    unshare = shutil.which("unshare")
    assert unshare is not None, "unshare (util-linux) is not installed"
    maps = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    inner = f'set -e; {mounts}; exec "$0" -c "$SCRIPT" "$@"'
    command = [unshare, *maps, "--mount", "sh", "-c", inner, sys.executable, *arguments]
    environment = {**os.environ, "SCRIPT": script, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout
