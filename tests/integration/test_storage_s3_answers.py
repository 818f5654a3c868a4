"""What an S3 server answers, or does not, as the kind of error that says what to do about it."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Iterator

import pytest

from shared.storage import Denied, ObjectStore, Permanent, StoreFull, Transient, open_store
from shared.storage.credentials import CredentialsSpec
from tests.support.answers import AnswerServer, Scripted, s3_error
from tests.support.stores import make_bucket, open_bucket
from tests.support.tools import MinioServer, free_port

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
