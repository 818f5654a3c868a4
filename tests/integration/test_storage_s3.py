"""An S3 site on a real MinIO: what a put costs, broken connections, lost answers, a server that is killed."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.storage import ObjectStore, Transient, open_store, s3
from tests.support.proxy import FaultProxy
from tests.support.stores import credentials_of, make_bucket, open_bucket, versions_in
from tests.support.tools import MinioServer


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


@pytest.fixture
def proxy(minio_server: MinioServer) -> Iterator[FaultProxy]:
    """A proxy in front of the server."""
    with FaultProxy(("127.0.0.1", minio_server.port)) as running:
        yield running


@pytest.fixture
def proxied(minio_server: MinioServer, bucket: str, proxy: FaultProxy) -> Iterator[ObjectStore]:
    """The same bucket as `store`, through the proxy."""
    opened = open_bucket(minio_server, bucket, port=proxy.port)
    yield opened
    opened.close()


class _Counted:
    """A hash of hashlib that counts what it is given; hmac takes it too."""

    total = 0

    def __init__(self, real: Any) -> None:
        self._real = real
        self.digest_size, self.block_size = real.digest_size, real.block_size

    def update(self, data: bytes) -> None:
        """Count and hash."""
        _Counted.total += len(data)
        self._real.update(data)

    def copy(self) -> _Counted:
        """As hashlib's."""
        return _Counted(self._real.copy())

    def digest(self) -> bytes:
        """As hashlib's."""
        return bytes(self._real.digest())

    def hexdigest(self) -> str:
        """As hashlib's."""
        return str(self._real.hexdigest())


def _count_hashed_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    def counting(real: Callable[..., Any]) -> Callable[..., _Counted]:
        def new(data: bytes = b"", **kwargs: bool) -> _Counted:
            counted = _Counted(real(**kwargs))
            counted.update(data)
            return counted

        return new

    _Counted.total = 0
    for name in ("sha256", "md5"):
        monkeypatch.setattr(hashlib, name, counting(getattr(hashlib, name)))


def test_a_put_hashes_no_byte_that_was_hashed(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes hashed per byte stored: none where the caller gives the hash, one where not. Signing takes under 4 KiB."""
    data = os.urandom(4 << 20)
    known = hashlib.sha256(data).hexdigest()
    with monkeypatch.context() as patched:
        _count_hashed_bytes(patched)
        store.put("known", data, sha256=known)
        assert 0 < _Counted.total < 4096
        _Counted.total = 0
        store.put("unknown", data)
        assert len(data) < _Counted.total < len(data) + 4096
    assert store.get("known") == store.get("unknown") == data


def test_what_was_staged_is_hashed_no_more(store: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever staged it has hashed it as it was written; it is sent from its file, signed with that."""
    data = os.urandom(4 << 20)
    known = hashlib.sha256(data).hexdigest()
    with monkeypatch.context() as patched:
        _count_hashed_bytes(patched)
        staged = store.stage("data/", spool=str(tmp_path))
        staged.write(data)
        staged.publish("data/known", sha256=known)
        staged.discard()
        assert 0 < _Counted.total < 4096
    assert store.get("data/known") == data


def test_bytes_damaged_on_the_way_are_not_stored(store: ObjectStore, bucket: str, minio_server: MinioServer) -> None:
    """The server compares the signed hash with what arrived; a hash that is wrong stores nothing."""
    hasty = open_bucket(minio_server, bucket, deadline=0.05)
    with pytest.raises(Transient, match="XAmzContentSHA256Mismatch"):
        hasty.put("a", b"data", sha256="0" * 64)
    hasty.close()
    assert list(store.list("")) == []


def test_connections_are_kept_and_as_many_as_asked_for(
    minio_server: MinioServer, bucket: str, proxy: FaultProxy
) -> None:
    """Six threads over two connections make two connections, not one per request."""
    url = f"s3:http://127.0.0.1:{proxy.port}/{bucket}"
    store = open_store(url, credentials=credentials_of(minio_server), connections=2)
    threads = [
        threading.Thread(target=lambda n=n: [store.put(f"{n}/{m}", b"x" * 50_000) for m in range(4)]) for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(store.list(""))) == 24
    assert 1 <= proxy.accepted <= 2
    store.close()


def test_broken_uploads_and_downloads_are_done_again(
    store: ObjectStore, proxied: ObjectStore, proxy: FaultProxy
) -> None:
    """A connection that breaks in mid-body costs a try, not the operation; half an object is never seen."""
    data = os.urandom(3 << 20)
    proxy.cut_uploads(2, after=1_000_000)
    proxied.put("pack", data)
    assert store.get("pack") == data
    staged = proxied.stage("")
    staged.write(data)
    proxy.cut_uploads(2, after=1_000_000)
    staged.publish("pack", sha256=hashlib.sha256(data).hexdigest())
    staged.discard()
    assert store.get("pack") == data
    proxy.cut_downloads(2, after=1_000_000)
    assert proxied.get("pack") == data
    proxy.cut_downloads(1, after=200_000)
    assert proxied.get_range("pack", 1 << 20, 1 << 20) == data[1 << 20 : 2 << 20]
    proxy.cut_downloads(1, after=100)
    assert [info.key for info in proxied.list("")] == ["pack"]
    assert proxy.broken == 8


def test_a_lost_answer_does_not_turn_a_winner_into_a_loser(
    store: ObjectStore, proxied: ObjectStore, proxy: FaultProxy
) -> None:
    """The put arrived, its answer did not; the second try meets its own bytes, and says that they are there."""
    proxy.lose_answers(1)
    assert proxied.put_if_absent("commits/1", b"mine") is True
    _, version = store.get_versioned("commits/1")
    proxy.lose_answers(1)
    assert proxied.compare_and_swap("commits/1", b"mine, nonce 2", version=version) is True
    proxy.lose_answers(1)
    assert proxied.put_if_absent("commits/1", b"another's") is False
    proxy.lose_answers(1)
    proxied.delete("commits/1")
    assert proxy.broken == 4
    assert list(store.list("")) == []


def test_a_server_killed_in_mid_work_and_back_loses_nothing(tmp_path: Path) -> None:
    """SIGKILL between and during puts, back after half a second: every put that returned is there, whole."""
    with MinioServer(str(tmp_path / "data")) as server:
        bucket = make_bucket(server)
        store = open_bucket(server, bucket, deadline=30)
        stored: list[bytes] = []
        failures: list[BaseException] = []

        def work() -> None:
            try:
                while len(stored) < 40:
                    data = os.urandom(1 << 20)
                    store.put(f"data/{len(stored)}", data)
                    stored.append(data)
            except BaseException as error:  # noqa: BLE001 - told by the assertion below
                failures.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        for at in (5, 15):
            while len(stored) < at and thread.is_alive():
                time.sleep(0.001)
            server.kill()
            time.sleep(0.5)
            server.start()
        thread.join()
        assert failures == []
        assert [store.get(f"data/{n}") == data for n, data in enumerate(stored)] == [True] * 40
        store.close()


def test_a_versioned_bucket_is_found_out(minio_server: MinioServer) -> None:
    """The probe says that overwritten objects are kept."""
    store = open_bucket(minio_server, make_bucket(minio_server, versioned=True))
    assert store.probe().versioned is True
    store.close()


def test_purging_leaves_no_version(minio_server: MinioServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, and behind a delete marker; of other keys all stay."""
    monkeypatch.setattr(s3, "_PAGE", "2")
    bucket = make_bucket(minio_server, versioned=True)
    store = open_bucket(minio_server, bucket)
    for number in range(5):
        store.put("a/1", b"a" * number)
        store.put("a/12", b"other")
    store.delete("a/1")
    store.put("a/1", b"again")
    store.delete("a/1")
    store.delete("a/12")
    assert len(versions_in(minio_server, bucket)) == 14
    store.purge("a/1")
    assert {key for key, _, _ in versions_in(minio_server, bucket)} == {"a/12"}
    assert len(versions_in(minio_server, bucket)) == 6
    store.below("a").purge("12")
    assert versions_in(minio_server, bucket) == []
    store.close()


def test_a_purge_that_is_broken_off_brings_nothing_old_to_light(
    minio_server: MinioServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest version goes last."""
    bucket = make_bucket(minio_server, versioned=True)
    store = open_bucket(minio_server, bucket)
    for content in (b"oldest", b"older", b"newest"):
        store.put("a", content)
    seen = []
    real = s3.S3Http.send

    def send(self: Any, method: str, key: str, **more: Any) -> Any:
        if method == "DELETE":
            seen.append(store.get("a"))
        return real(self, method, key, **more)

    monkeypatch.setattr(s3.S3Http, "send", send)
    store.purge("a")
    assert seen == [b"newest"] * 3
    assert versions_in(minio_server, bucket) == []
    store.close()


def test_a_directory_site_imports_neither_minio_nor_tls(tmp_path: Path) -> None:
    """Start-up time: opening and using a directory loads no S3 library, and nor does the package itself."""
    script = (
        "import sys; from shared.storage import open_store; store = open_store(sys.argv[1]); store.put('a', b'1');"
        "print(sorted({'minio', 'urllib3', 'ssl', 'certifi'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True, cwd=os.getcwd()
    )
    assert done.stdout == "[]\n"
