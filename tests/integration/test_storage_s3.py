"""An S3 site under real faults: refusals, silence, lost answers, a server that is killed; and what a put costs."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from minio.credentials import AssumeRoleProvider

from shared.storage import Denied, ObjectStore, Permanent, StoreFull, Transient, open_store
from shared.storage.credentials import CredentialsSpec
from tests.support.answers import AnswerServer, Scripted, s3_error
from tests.support.fixtures import minio_server
from tests.support.proxy import FaultProxy
from tests.support.stores import credentials_of, make_bucket, open_bucket, write_certificates
from tests.support.tools import MinioServer, free_port

__all__ = ["minio_server"]

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


def test_a_put_is_one_request_and_needs_no_other() -> None:
    """No region is asked for, nothing is looked up: one PUT, signed with the hash that was given."""
    known = hashlib.sha256(b"data").hexdigest()
    with AnswerServer(Scripted(200)) as server:
        store = open_store(f"s3:http://127.0.0.1:{server.port}/b/site", credentials=_FIXED)
        store.put("a/b", b"data", sha256=known)
        store.close()
    ((method, path, headers),) = server.requests
    assert (method, path, headers["x-amz-content-sha256"]) == ("PUT", "/b/site/a/b", known)
    assert "Content-MD5" not in headers


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
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": [f"arn:aws:s3:::{bucket}/*"]},
            {"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": [f"arn:aws:s3:::{bucket}"]},
            {
                "Effect": "Allow",
                "Action": ["s3:PutObject", "s3:DeleteObject"],
                "Resource": [f"arn:aws:s3:::{bucket}/locks/*"],
            },
        ],
    }
    provider = AssumeRoleProvider(
        sts_endpoint=server.url,
        access_key=server.access_key,
        secret_key=server.secret_key,
        duration_seconds=3600,
        region=server.region,
        policy=json.dumps(policy),
    )
    got = provider.retrieve()
    return CredentialsSpec(got.access_key, got.secret_key, got.session_token)


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


def test_no_credentials_are_a_clear_error() -> None:
    """An S3 site without any is denied when it is opened."""
    with pytest.raises(Denied, match=r"site fra: denied: open at s3:https://h/b .no credentials.. Name them"):
        open_store("s3:https://h/b", name="fra")


def test_a_closed_port_is_transient_after_the_deadline() -> None:
    """Nobody listens: tried again until the deadline, then the reason, the tries and the way out."""
    url = f"s3:http://127.0.0.1:{free_port()}/b"
    store = open_store(url, credentials=_FIXED, deadline=0.5, name="fra")
    started = time.monotonic()
    with pytest.raises(Transient) as failed:
        store.get("a")
    assert time.monotonic() - started < 2.0
    message = str(failed.value)
    assert message.startswith(f"site fra: unavailable: GET a at {url} (Connection refused), given up after ")
    assert message.endswith("Is the server running, and may this host reach it?")


def test_a_server_that_says_nothing_is_given_up_within_twice_the_deadline() -> None:
    """It accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"s3:http://127.0.0.1:{silent.getsockname()[1]}/b"
        store = open_store(url, credentials=_FIXED, deadline=0.4)
        started = time.monotonic()
        with pytest.raises(Transient, match="timed out"):
            store.get("a")
        assert 0.3 < time.monotonic() - started < 2.0
        store.close()


def test_a_host_name_that_does_not_resolve_is_transient() -> None:
    """A name server may be away for a while; the reason is in the message."""
    store = open_store("s3:http://nowhere.invalid/b", credentials=_FIXED, deadline=0.05)
    with pytest.raises(Transient, match=r"unavailable: GET a at s3:http://nowhere\.invalid/b \(.*[Nn]ame"):
        store.get("a")


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


def test_a_versioned_bucket_is_found_out(minio_server: MinioServer) -> None:
    """The probe says that overwritten objects are kept."""
    store = open_bucket(minio_server, make_bucket(minio_server, versioned=True))
    assert store.probe().versioned is True
    store.close()


@pytest.mark.parametrize(
    ("answer", "kind", "hint"),
    [
        (s3_error(507, "XMinioStorageFull"), StoreFull, "Add space"),
        (s3_error(400, "XMinioAdminBucketQuotaExceeded"), StoreFull, "Raise the bucket's quota"),
        (s3_error(403, "RequestTimeTooSkewed"), Permanent, "set it .NTP."),
        (s3_error(503, "SlowDown"), Transient, "503 SlowDown"),
        (s3_error(400, "RequestTimeout"), Transient, "400 RequestTimeout"),
        (s3_error(409, "ConditionalRequestConflict"), Transient, "409"),
        (Scripted(502, b"<html>bad gateway"), Transient, "502"),
        (Scripted(403), Denied, "may not do this"),
        (Scripted(501), Permanent, "501"),
        (Scripted(301), Permanent, "301"),
    ],
)
def test_answers_are_sorted(answer: Scripted, kind: type[Exception], hint: str) -> None:
    """What a server says becomes the kind of error that says what to do about it."""
    with AnswerServer(answer) as server:
        store = open_store(f"s3:http://127.0.0.1:{server.port}/b", credentials=_FIXED, deadline=0.05)
        with pytest.raises(kind, match=hint):
            store.put("a", b"data")
        store.close()


def test_a_server_that_slows_down_is_tried_again() -> None:
    """Two refusals that pass, then the answer."""
    with AnswerServer(s3_error(503, "SlowDown"), Scripted(500), Scripted(200, b"data")) as server:
        store = open_store(f"s3:http://127.0.0.1:{server.port}/b", credentials=_FIXED)
        assert store.get("a") == b"data"
        store.close()
    assert len(server.requests) == 3


def test_a_server_of_another_region_is_believed_once() -> None:
    """It names its region, and the request is signed for that; no region is ever asked for."""
    wrong = s3_error(400, "AuthorizationHeaderMalformed", "<Region>eu-west-9</Region>")
    with AnswerServer(wrong, Scripted(200, b"data")) as server:
        store = open_store(f"s3:http://127.0.0.1:{server.port}/b", credentials=_FIXED)
        assert store.get("a") == store.get("b") == b"data"
        store.close()
    regions = [headers["Authorization"].split("/")[2] for _, _, headers in server.requests]
    assert regions == ["us-east-1", "eu-west-9", "eu-west-9"]


def test_a_server_that_ignores_conditions_is_found_out() -> None:
    """The probe trusts no promise: a server that answers every conditional put with yes can't hold the register."""
    yes = Scripted(200, b"holdfast probe: second", {"ETag": "x", "Date": "Thu, 01 Jan 2026 00:00:00 GMT"})
    with AnswerServer(yes) as server:
        store = open_store(f"s3:http://127.0.0.1:{server.port}/b", credentials=_FIXED)
        found = store.probe()
        store.close()
    assert (found.put_if_absent, found.compare_and_swap) == (False, False)
    assert [note.partition(" (")[0] for note in found.notes[:2]] == ["no put-if-absent", "no compare-and-swap"]


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
