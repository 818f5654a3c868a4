"""What an agent may do in a bucket, as a policy of S3.

It reads and lists its own repositories, puts what a backup makes, and deletes its locks. It is a list of what is
allowed: keys, config, holds, tombstones and notes of doomed packs are not among it, nor is any version of anything.
S3 has no right to write that is none to overwrite: only a versioned bucket keeps what an agent overwrites.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shared.storage.open import StoreUrl

_PUT = ("data/*", "index/*", "snapshots/*", "locks/*", "holdfast/commits/*", "holdfast/status")
_DELETE = ("locks/*",)


def agent_policy(place: StoreUrl, repositories: Sequence[str]) -> dict[str, Any]:
    """The policy for these repositories at one site."""
    bucket = f"arn:aws:s3:::{place.bucket}"
    tops = [f"{place.prefix}/repos/{name}" if place.prefix else f"repos/{name}" for name in sorted(repositories)]

    def allow(action: str, parts: Sequence[str]) -> dict[str, Any]:
        return {
            "Effect": "Allow",
            "Action": [action],
            "Resource": [f"{bucket}/{top}/{part}" for top in tops for part in parts],
        }

    listing = {"StringLike": {"s3:prefix": [f"{top}/*" for top in tops]}}
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": [bucket], "Condition": listing},
            allow("s3:GetObject", ["*"]),
            allow("s3:PutObject", _PUT),
            allow("s3:DeleteObject", _DELETE),
            {"Effect": "Deny", "Action": ["admin:*"]},  # MinIO's: else a user may change his own secret, and make keys
        ],
    }
