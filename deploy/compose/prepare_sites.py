#!/usr/bin/env python3
"""Make the bucket of each MinIO, and the identity by which Holdfast uses it: `prepare_sites.py URL NAME ...`.

For a site NAME the folder /run/secrets (or $SECRETS) has NAME_root_user, NAME_root_password and NAME_credentials. The
bucket keeps versions, so that an overwrite hides and does not destroy. May be run again at any time.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import urllib.parse
from collections.abc import Sequence

from minio import Minio, MinioAdmin
from minio.commonconfig import ENABLED
from minio.credentials import StaticProvider
from minio.versioningconfig import VersioningConfig

BUCKET = "backups"
POLICY = "holdfast"
_BUCKET = f"arn:aws:s3:::{BUCKET}"


def policy() -> dict[str, object]:
    """What Holdfast needs on the bucket, forgetting and pruning included: see docs/sites.md, Rights.

    The workers here are all of one owner. An agent on another's server gets an identity that deletes locks alone.
    """
    repositories = f"{_BUCKET}/repos"
    deleted = [f"{repositories}/*/{part}/*" for part in ("locks", "snapshots", "holdfast", "data", "index")]
    listing = ["s3:ListBucket", "s3:GetBucketLocation", "s3:GetBucketVersioning", "s3:ListBucketVersions"]
    statements = [
        {"Effect": "Allow", "Action": listing, "Resource": [_BUCKET]},
        {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": [f"{_BUCKET}/*"]},
        {"Effect": "Allow", "Action": ["s3:PutObject"], "Resource": [f"{repositories}/*"]},
        {"Effect": "Allow", "Action": ["s3:DeleteObject", "s3:DeleteObjectVersion"], "Resource": deleted},
    ]
    return {"Version": "2012-10-17", "Statement": statements}


def prepare(url: str, name: str, folder: str) -> None:
    """Bring one site to what Holdfast needs."""
    place = urllib.parse.urlsplit(url)
    root, password = _read(folder, f"{name}_root_user"), _read(folder, f"{name}_root_password")
    secure = place.scheme == "https"
    client = Minio(endpoint=place.netloc, access_key=root, secret_key=password, secure=secure)
    if not client.bucket_exists(bucket_name=BUCKET):
        client.make_bucket(bucket_name=BUCKET)
    client.set_bucket_versioning(bucket_name=BUCKET, config=VersioningConfig(ENABLED))
    admin = MinioAdmin(endpoint=place.netloc, credentials=StaticProvider(root, password), secure=secure)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(policy(), file)
        file.flush()
        admin.policy_add(POLICY, file.name)
    own = dict(line.split(" = ") for line in _read(folder, f"{name}_credentials").splitlines())
    admin.user_add(own["access_key"], own["secret_key"])
    admin.policy_set(POLICY, own["access_key"])
    print(f"{url}: bucket {BUCKET} and its identity are ready")


def _read(folder: str, name: str) -> str:
    with open(os.path.join(folder, name), encoding="utf-8") as file:
        return file.read().strip()


def main(arguments: Sequence[str]) -> int:
    """Prepare each site; return the exit code."""
    folder = os.environ.get("SECRETS", "/run/secrets")
    for url, name in zip(arguments[::2], arguments[1::2], strict=True):
        prepare(url, name, folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
