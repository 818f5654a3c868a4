"""Where Redis is: named in the configuration, or `holdfast up`'s own, on a socket below the state directory.

The embedded Valkey listens on no port: the modes of the socket and of its directory keep other users out.
"""

from __future__ import annotations

import hashlib
import os
import ssl
from typing import TYPE_CHECKING, Any

from shared.errors import ConfigError

if TYPE_CHECKING:
    from shared.config.fleet import Fleet

_SOCKET_PATH_AT_MOST = 100  # bytes; the kernel takes 107


def embedded_socket(state_dir: str) -> str:
    """The path of the embedded Valkey's socket; always the same for a state directory."""
    path = os.path.join(os.path.abspath(state_dir), "valkey", "valkey.sock")
    if len(os.fsencode(path)) <= _SOCKET_PATH_AT_MOST:
        return path
    short = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return f"/tmp/holdfast-{os.getuid()}-{short}/valkey.sock"  # noqa: S108 - `up` makes the directory and checks its owner


def broker_url(fleet: Fleet) -> str:
    """The URL of the fleet's Redis, as redis-py reads it. It may hold a password. Raises ConfigError."""
    return fleet.broker_url() or f"unix://{embedded_socket(fleet.state_dir)}"


def has_moved(fleet: Fleet, url: str) -> bool:
    """Whether the configuration names another Redis than the one at `url`, which a process uses since its start."""
    try:
        return broker_url(fleet) != url
    except ConfigError:
        return False  # the secret that holds it can't be read now: no news of a move


def celery_broker(url: str) -> dict[str, Any]:
    """The settings by which Celery reaches the Redis at `url`."""
    if url.startswith("unix://"):
        path, _, query = url.removeprefix("unix://").partition("?")
        numbers = [part.partition("=")[2] for part in query.split("&") if part.startswith("db=")]
        return {"broker_url": f"redis+socket://{path}?virtual_host={numbers[-1] if numbers else 0}"}
    if url.startswith("rediss://"):
        return {"broker_url": url, "broker_use_ssl": {"ssl_cert_reqs": ssl.CERT_REQUIRED}}
    return {"broker_url": url}
