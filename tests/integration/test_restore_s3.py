"""Restore and verification from a real MinIO."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from shared.storage import open_store
from shared.storage.credentials import CredentialsSpec
from tests.support.backups import PASSWORD, REPOSITORY, Shop
from tests.support.compare import compare_trees
from tests.support.kinds import make_every_kind
from tests.support.restores import restore, target_of
from tests.support.tools import MinioServer
from workers.backup.spec import SiteSpec
from workers.maintenance.spec import VerifySpec
from workers.maintenance.verify import run_verify


def test_restore_from_s3(tmp_path: Path, minio_server: MinioServer) -> None:
    """The same repository in a bucket restores the same, and verifies."""
    shop = Shop(str(tmp_path))
    shutil.rmtree(shop.source)
    make_every_kind(shop.source, sockets=False, deep=False)
    assert shop.backup().complete
    site = SiteSpec(
        "s3",
        f"s3:{minio_server.url}/restores",
        access_key=minio_server.access_key,
        secret_key=minio_server.secret_key,
    )
    _copy(shop, site, minio_server)
    result = restore(shop, site=site, base=shop.source, verify=True)
    assert (result.exit_code, result.problems) == (0, [])
    assert compare_trees(shop.source, target_of(shop), top=False) == []
    spec = VerifySpec(site=site, repository=REPOSITORY, passwords=[PASSWORD], share=100, helpers=2)
    report = run_verify(spec, lambda _: None)
    assert (report.exit_code, report.packs_read) == (0, report.packs)


def _copy(shop: Shop, site: SiteSpec, server: MinioServer) -> None:
    from minio import Minio

    client: Any = Minio(server.endpoint, server.access_key, server.secret_key, secure=False, region=server.region)
    client.make_bucket("restores")
    store = open_store(site.url, credentials=CredentialsSpec(site.access_key, site.secret_key))
    try:
        for folder, _, names in os.walk(shop.repository):
            for name in names:
                path = Path(folder, name)
                store.put(f"repos/{REPOSITORY}/{path.relative_to(shop.repository)}", path.read_bytes())
    finally:
        store.close()
