"""Who an agent is to Redis and to S3: names and passwords that derive from the fleet's secret.

So nothing of it has to be kept: a Redis that lost its users, or another region's, gets the same ones again, and no
agent notices. A password changes with the host's `generation`, which a revocation raises, so a stolen one never works
again.
"""

from __future__ import annotations

import hashlib
import hmac

REDIS_USERS = "hf-agent-"  # what their names begin with
_S3_SECRET = 40  # characters: the most that MinIO takes


def redis_user(host: str) -> str:
    """The user of a host's agent in the fleet's Redis."""
    return f"{REDIS_USERS}{host}"


def redis_password(fleet_secret: bytes, host: str, generation: int) -> str:
    """Its password there: 64 hex characters."""
    return _derive(fleet_secret, "redis", host, generation)


def s3_user(fleet_secret: bytes, host: str, generation: int) -> str:
    """The access key of a host's agent. It names the fleet, too: several may share a server.

    And the generation: what a user of MinIO has borrowed for a while counts again once there is a user of that name.
    """
    fleet = hmac.new(fleet_secret, b"holdfast fleet 1", hashlib.sha256).hexdigest()[:8]
    return f"hf-{fleet}-{host}-{generation}"


def s3_secret(fleet_secret: bytes, site: str, host: str, generation: int) -> str:
    """The secret key that belongs to it at one site: 40 hex characters."""
    return _derive(fleet_secret, f"s3|{site}", host, generation)[:_S3_SECRET]


def _derive(fleet_secret: bytes, what: str, host: str, generation: int) -> str:
    text = f"holdfast agent 1|{what}|{host}|{generation}"
    return hmac.new(fleet_secret, text.encode(), hashlib.sha256).hexdigest()
