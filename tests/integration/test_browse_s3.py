"""Looking into a repository in a bucket of a real MinIO."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from shared.storage import open_store
from shared.storage.credentials import CredentialsSpec
from tests.support.backups import REPOSITORY, write
from tests.support.browsing import look_into
from tests.support.tools import MinioServer


def test_a_bucket_is_looked_into_as_a_directory_is(
    tmp_path: Path, minio_server: MinioServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command gives the same from either site."""
    looker = look_into(tmp_path)
    source = looker.shop.source
    write(f"{source}/a", b"one")
    write(f"{source}/sub/b", os.urandom(3 << 20))
    looker.shop.backup()
    write(f"{source}/a", b"another", mtime=1)
    looker.shop.backup()
    from minio import Minio

    url = f"s3:{minio_server.url}/looking"
    client: Any = Minio(
        minio_server.endpoint,
        minio_server.access_key,
        minio_server.secret_key,
        secure=False,
        region=minio_server.region,
    )
    client.make_bucket("looking")
    store = open_store(url, credentials=CredentialsSpec(minio_server.access_key, minio_server.secret_key))
    for path in Path(looker.shop.repository).rglob("*"):
        if path.is_file():
            store.put(f"repos/{REPOSITORY}/{path.relative_to(looker.shop.repository)}", path.read_bytes())
    store.close()
    monkeypatch.setenv("LOOK_ACCESS_KEY_ID", minio_server.access_key)
    monkeypatch.setenv("LOOK_SECRET_ACCESS_KEY", minio_server.secret_key)
    config = Path(looker.config)
    text = config.read_text().replace("sites:\n", f"sites:\n  s3: {{url: {url!r}, credentials: {{env: LOOK}}}}\n")
    config.write_text(text + "policies:\n  all: {primary: a, full: 1d}\n")
    for arguments in (
        ["ls", "web1", "-r"],
        ["find", "web1", "*", "-q", "--json"],
        ["diff", "web1", "latest~1", "latest"],
        ["dump", f"web1:{source}"],
        ["dump", f"web1:{source}/a", "--snapshot", "latest~1"],
    ):
        here, there = looker.run(*arguments)[0], looker.run(*arguments, "--site", "s3")[0]
        assert here
        assert there.replace(b" --site s3", b"") == here
