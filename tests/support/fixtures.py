"""Fixtures of real servers; tests/conftest.py imports them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.tools import MinioServer, ValkeyServer


@pytest.fixture(scope="session")
def minio_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MinioServer]:
    """One MinIO for all tests: each makes buckets of its own, and one that kills starts its own server."""
    with MinioServer(str(tmp_path_factory.mktemp("minio") / "data")) as server:
        yield server


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """One Valkey for all tests: who kills it or wipes it starts a server of their own."""
    with ValkeyServer(str(tmp_path_factory.mktemp("valkey"))) as server:
        yield server
