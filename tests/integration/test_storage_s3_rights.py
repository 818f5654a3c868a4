"""Who may do what at an S3 site: credentials, rights by key, buckets, certificates."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.storage import Denied, ObjectStore, Permanent, open_store
from shared.storage.credentials import CredentialsSpec
from tests.support.stores import credentials_of, limited_credentials, make_bucket, open_bucket, write_certificates
from tests.support.tools import MinioServer

_FIXED = CredentialsSpec("access", "secret-of-forty-characters")


@pytest.fixture
def bucket(minio_server: MinioServer) -> str:
    """An empty bucket."""
    return make_bucket(minio_server)


@pytest.fixture
def store(minio_server: MinioServer, bucket: str) -> Iterator[ObjectStore]:
    """A store in it."""
    opened = open_bucket(minio_server, bucket)
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("credentials", "code", "hint"),
    [
        (CredentialsSpec("nobody", "x" * 40), "InvalidAccessKeyId", "The server does not know this access key"),
        ("wrong", "SignatureDoesNotMatch", "The secret key is wrong"),
    ],
)
def test_wrong_credentials_are_denied_at_once(
    minio_server: MinioServer, bucket: str, credentials: CredentialsSpec | str, code: str, hint: str
) -> None:
    """The message names site, operation, key, S3's code and the way out, also for a pack that is half sent."""
    if isinstance(credentials, str):
        credentials = CredentialsSpec(minio_server.access_key, credentials)
    url = f"s3:http://127.0.0.1:{minio_server.port}/{bucket}"
    store = open_store(url, credentials=credentials, name="fra", deadline=30)
    started = time.monotonic()
    with pytest.raises(Denied) as denied:
        store.put("repos/web1/data/3f/pack", bytes(32 << 20))
    assert str(denied.value).startswith(f"site fra: denied: PUT repos/web1/data/3f/pack at {url} (403 {code}). {hint}")
    for use in (lambda: store.get("a"), lambda: store.stat("a"), lambda: list(store.list("")), store.probe):
        with pytest.raises(Denied, match="403"):
            use()
    assert time.monotonic() - started < 5.0
    assert store.clock() == pytest.approx(time.time(), abs=2.0)
    store.close()


def _read_only(server: MinioServer, bucket: str) -> CredentialsSpec:
    """Temporary credentials that may list and read `bucket`, and write below locks/ alone."""
    return limited_credentials(
        server,
        (["s3:GetObject"], f"{bucket}/*"),
        (["s3:ListBucket"], bucket),
        (["s3:PutObject", "s3:DeleteObject"], f"{bucket}/locks/*"),
    )


def test_rights_are_told_apart_by_key(store: ObjectStore, minio_server: MinioServer, bucket: str) -> None:
    """Temporary credentials that may read all but write only locks: just the rest is denied, and nothing is changed."""
    store.put("data/1", b"1")
    url = f"s3:http://127.0.0.1:{minio_server.port}/{bucket}"
    limited = open_store(url, credentials=_read_only(minio_server, bucket), name="fra")
    assert limited.get("data/1") == b"1"
    assert [info.key for info in limited.list("data/")] == ["data/1"]
    limited.put("locks/1", b"1")
    limited.delete("locks/1")
    for use in (
        lambda: limited.put("data/1", bytes(8 << 20)),
        lambda: limited.put_if_absent("data/2", b"2"),
        lambda: limited.delete("data/1"),
    ):
        with pytest.raises(Denied, match=r"\(403 AccessDenied\)\. The key may not do this"):
            use()
    limited.close()
    assert [(info.key, info.size) for info in store.list("")] == [("data/1", 1)]


def test_credentials_are_asked_for_again_when_refused(minio_server: MinioServer, bucket: str) -> None:
    """A provider whose keys were rotated is asked once more, and the operation goes on; once only."""
    asked: list[str] = []

    def rotated() -> CredentialsSpec:
        asked.append("x")
        return credentials_of(minio_server) if len(asked) == 2 else CredentialsSpec(f"old{len(asked)}", "x" * 40)

    url = f"s3:http://127.0.0.1:{minio_server.port}/{bucket}"
    store = open_store(url, credentials=rotated)
    store.put("a", b"1")
    assert (store.get("a"), len(asked)) == (b"1", 2)
    store.close()
    asked[:] = ["x"] * 5
    store = open_store(url, credentials=rotated)
    with pytest.raises(Denied):
        store.put("a", b"2")
    assert len(asked) == 7
    store.close()


def test_a_missing_bucket_is_no_missing_object(minio_server: MinioServer) -> None:
    """Every operation says that the bucket is missing and what to do: it must not look like an empty site."""
    store = open_bucket(minio_server, "nothere")
    for use in (
        lambda: store.get("a"),
        lambda: store.stat("a"),
        lambda: list(store.list("")),
        lambda: store.put("a", b""),
        lambda: store.put_if_absent("a", b""),
        lambda: store.compare_and_swap("a", b"", version="x"),
        lambda: store.delete("a"),
    ):
        with pytest.raises(Permanent, match=r"404 NoSuchBucket\)\. Create the bucket"):
            use()
    store.close()


def test_tls_with_a_private_authority(tmp_path: Path) -> None:
    """With its ca_file a server is trusted; without it, Permanent at once, with the reason and the way out."""
    authority = write_certificates(str(tmp_path / "certs"))
    with MinioServer(str(tmp_path / "data"), certs_dir=str(tmp_path / "certs")) as server:
        os.mkdir(tmp_path / "data/bucket")
        url = f"s3:{server.url}/bucket"
        store = open_store(url, credentials=credentials_of(server), ca_file=authority)
        data = os.urandom(2 << 20)
        store.put("a", memoryview(data), sha256=hashlib.sha256(data).hexdigest())
        assert store.get("a") == data
        store.close()
        stranger = open_store(url, credentials=credentials_of(server))
        started = time.monotonic()
        with pytest.raises(Permanent, match=r"its certificate is not trusted: .*ca_file"):
            stranger.get("a")
        assert time.monotonic() - started < 5.0
        stranger.close()
    with pytest.raises(Permanent, match=r"ca_file .*No such file"):
        open_store(url, credentials=_FIXED, ca_file=str(tmp_path / "none.pem"))
