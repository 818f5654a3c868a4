#!/usr/bin/env python3
"""Write the secrets of compose.yaml: `python3 make_secrets.py [FOLDER]`. What exists is left alone. Needs nothing else.

The files lie in a folder that its owner alone may enter. They themselves may be read by all, as compose mounts them as
they are, into containers whose users are others. Keep copies of fleet.secret and recovery.password elsewhere.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
from collections.abc import Sequence

HERE = os.path.dirname(os.path.abspath(__file__))
ACL = os.path.join(HERE, os.pardir, "redis", "users.acl")


def wanted() -> dict[str, str]:
    """The content of each file by its name, new each time."""
    redis = secrets.token_hex(24)
    files = {
        "fleet.secret": secrets.token_hex(32),
        "recovery.password": secrets.token_hex(16),
        "grafana.password": secrets.token_hex(16),
        "broker.url": f"redis://holdfast:{redis}@redis:6379/0",
        "users.acl": _users(redis),
    }
    for site in ("site-a", "site-b"):
        files[f"{site}.root-user"] = secrets.token_hex(8)
        files[f"{site}.root-password"] = secrets.token_hex(20)
        files[f"{site}.credentials"] = f"access_key = {secrets.token_hex(8)}\nsecret_key = {secrets.token_hex(20)}"
    return files


def _users(password: str) -> str:
    """deploy/redis/users.acl with this password for Holdfast; replicas and Sentinels are not there, and get none."""
    with open(ACL, encoding="utf-8") as file:
        lines = [line for line in file.read().splitlines() if "#REPLICA" not in line and "#SENTINEL" not in line]
    return "\n".join(lines).replace("#HOLDFAST", f"#{hashlib.sha256(password.encode()).hexdigest()}")


def main(arguments: Sequence[str]) -> int:
    """Write what is missing; return the exit code."""
    folder = arguments[0] if arguments else os.path.join(HERE, "secrets")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    files = wanted()
    # These two hold one password: of them both are written, or none.
    if any(os.path.exists(os.path.join(folder, name)) for name in ("broker.url", "users.acl")):
        missing = [name for name in ("broker.url", "users.acl") if not os.path.exists(os.path.join(folder, name))]
        if missing:
            print(f"{folder}: {missing[0]} is missing and its twin is there: delete both", file=sys.stderr)
            return 1
    for name, content in files.items():
        path = os.path.join(folder, name)
        if os.path.exists(path):
            print(f"{path} is left as it is")
            continue
        with open(f"{path}.new", "w", encoding="utf-8") as file:
            file.write(content + "\n")
        os.chmod(f"{path}.new", 0o444)
        os.replace(f"{path}.new", path)
        print(f"{path} written")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
