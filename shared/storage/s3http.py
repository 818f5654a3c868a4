"""One signed S3 request, without the copies and hashes that minio-py's own calls make.

minio-py hashes each upload again (SHA-256 over http, MD5 over https), retries by itself and asks
for a bucket's region first. So its signer is used, and the request is sent here: signed with the
hash that the caller knows, over a pool of urllib3 whose retries are off (`RetryPolicy` decides).
"""

from __future__ import annotations

import hashlib
import re
import ssl
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast
from urllib.parse import SplitResult, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, SSLError

from shared.storage.api import Buffer, Denied, Permanent, Transient
from shared.storage.certificates import trusting
from shared.storage.credentials import CredentialsCache, CredentialsSpec
from shared.storage.failures import Place
from shared.storage.s3errors import HINT_CERTIFICATE, HINT_UNREACHABLE, hint_for, parse_error, sort_answer
from shared.storage.signing import Credentials, queryencode, quote, sign_v4_s3, to_amz_date, utcnow

if TYPE_CHECKING:
    from shared.storage.throttled import Pacer, Throttle

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()

_CONNECT_TIMEOUT = 10.0  # seconds
_SOCKET_TIMEOUT = 60.0  # seconds without a byte in either direction
# Python's sendall counts its time-out over all that it is given: given a piece at a time, it counts per piece.
_PIECE = 256 * 1024
_PACED_READ = 64 * 1024  # bytes received between two waits, where a rate is set
# What urllib3 puts before a reason: the pool or connection, with host and port.
_WRAPPING = re.compile(r"^HTTPS?Connection(Pool)?\([^)]*\): ")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said. `data` is whole: urllib3 checks its length against Content-Length."""

    status: int
    headers: Mapping[str, str]
    data: bytes
    code: str  # S3's error code, empty on success


class Pieces(Protocol):
    """A body that is not in memory: `size` bytes, which `pieces` gives from the start at each try."""

    size: int

    def pieces(self) -> Iterator[memoryview]:
        """In pieces for which `_PIECE` is a good size; each is good until the next one is asked for."""


class S3Http:
    """Signed requests to one bucket. Safe for as many threads at once as `connections`; more wait."""

    def __init__(
        self,
        place: Place,
        endpoint: str,
        bucket: str,
        credentials: CredentialsCache,
        *,
        ca_file: str | None,
        connections: int,
        deadline: float,
        throttle: Throttle | None = None,
    ) -> None:
        self.connections = connections
        self._place = place
        self._endpoint = urlsplit(endpoint)
        self._bucket = bucket
        self._credentials = credentials
        self._upload = throttle.upload if throttle else None
        self._download = throttle.download if throttle else None
        # Named, so that nobody asks for it; a server that wants another says which, and is believed once.
        self._region = "us-east-1"
        timeout = urllib3.Timeout(
            connect=max(0.1, min(_CONNECT_TIMEOUT, deadline)), read=max(0.1, min(_SOCKET_TIMEOUT, deadline))
        )
        host = self._endpoint.hostname or ""
        if self._endpoint.scheme == "https":
            self._pool: urllib3.HTTPConnectionPool = urllib3.HTTPSConnectionPool(
                host,
                self._endpoint.port,
                maxsize=connections,
                block=True,
                retries=False,
                timeout=timeout,
                ssl_context=self._trust(ca_file),
            )
        else:
            self._pool = urllib3.HTTPConnectionPool(
                host, self._endpoint.port, maxsize=connections, block=True, retries=False, timeout=timeout
            )

    def send(
        self,
        method: str,
        key: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Buffer | Pieces | None = None,
        sha256: str = EMPTY_SHA256,
        passing: frozenset[int] = frozenset(),
        wanted: str = "",
    ) -> Answer:
        """One request, once more where credentials were renewed or the region was corrected.

        `key` is whole, below the bucket; "" is the bucket. `sha256`: of `body`. `passing`: the statuses
        besides 200, 204 and 206 that are answers and no errors. `wanted`: what messages name, if not `key`.
        Raises StorageError.
        """
        renewed = moved = False
        while True:
            credentials = self._credentials.current()
            answer, region = self._exchange(
                method, key, query=query or {}, extra=headers or {}, body=body, sha256=sha256, credentials=credentials
            )
            if answer.status in {200, 204, 206} or answer.status in passing:
                return answer
            if region and region != self._region and not moved:
                self._region, moved = region, True
                continue
            kind = sort_answer(answer.status, answer.code)
            if kind is Denied and not renewed and self._credentials.renew(credentials):
                renewed = True
                continue
            reason = f"{answer.status} {answer.code}".strip()
            raise self._place.fail(kind, method, wanted or key, reason, hint_for(answer.status, answer.code))

    def close(self) -> None:
        """Close the idle connections."""
        self._pool.close()

    def _exchange(
        self,
        method: str,
        key: str,
        *,
        query: Mapping[str, str],
        extra: Mapping[str, str],
        body: Buffer | Pieces | None,
        sha256: str,
        credentials: CredentialsSpec,
    ) -> tuple[Answer, str]:
        """Sign, send, read: the answer, and the region that the server names."""
        path = f"/{self._bucket}/{quote(key)}" if key else f"/{self._bucket}"
        url = SplitResult(
            self._endpoint.scheme,
            self._endpoint.netloc,
            path,
            "&".join(f"{queryencode(name)}={queryencode(value)}" for name, value in sorted(query.items())),
            "",
        )
        now = utcnow()
        headers: dict[str, str | list[str] | tuple[str]] = {
            "Host": url.netloc,
            "x-amz-content-sha256": sha256,
            "x-amz-date": to_amz_date(now),
            **extra,
        }
        if credentials.session_token:
            headers["X-Amz-Security-Token"] = credentials.session_token
        signed = sign_v4_s3(
            method=method,
            url=url,
            region=self._region,
            headers=headers,
            credentials=Credentials(credentials.access_key, credentials.secret_key, credentials.session_token),
            content_sha256=sha256,
            date=now,
        )
        sent = {name: str(value) for name, value in signed.items()}
        sent["User-Agent"] = "holdfast"
        pieces: Iterable[bytes] | None = None
        if body is not None:
            size, views = _in_pieces(body)
            if self._upload is not None:
                views = _paced(self._upload, views)
            sent["Content-Length"] = str(size)
            # Views and no copies: what a socket sends is any buffer, though urllib3's types say bytes.
            pieces = cast("Iterable[bytes]", views)
        try:
            response = self._pool.urlopen(
                method,
                f"{path}?{url.query}" if url.query else path,
                body=pieces,
                headers=sent,
                retries=False,
                redirect=False,
                assert_same_host=False,
                preload_content=self._download is None,
            )
            data = response.data if self._download is None else _read_paced(self._download, response)
        except SSLError as error:
            raise self._certificate_or_transient(error, method, key) from error
        except (HTTPError, OSError) as error:
            raise self._place.fail(Transient, method, key, _reason(error), HINT_UNREACHABLE) from error
        code, region = "", response.headers.get("x-amz-bucket-region", "")
        if response.status >= 300:
            code, named = parse_error(data)
            code = code or response.headers.get("x-minio-error-code", "")
            region = named or region
        return Answer(response.status, response.headers, data, code), region

    def _certificate_or_transient(self, error: SSLError, method: str, key: str) -> Exception:
        cause = error.args[0] if error.args else None
        if isinstance(cause, ssl.SSLCertVerificationError):
            reason = f"its certificate is not trusted: {cause.verify_message}"
            return self._place.fail(Permanent, method, key, reason, HINT_CERTIFICATE)
        return self._place.fail(Transient, method, key, _reason(error), HINT_UNREACHABLE)

    def _trust(self, ca_file: str | None) -> ssl.SSLContext:
        try:
            return trusting(ca_file)
        except (OSError, ssl.SSLError) as error:
            reason = f"ca_file {ca_file}: {error.strerror or error}"
            raise self._place.fail(Permanent, "open", "", reason, "Name a readable PEM file of certificates") from error


def _in_pieces(body: Buffer | Pieces) -> tuple[int, Iterator[memoryview]]:
    if not isinstance(body, (bytes, bytearray, memoryview)):
        return body.size, body.pieces()
    view = memoryview(body).cast("B")
    return view.nbytes, (view[at : at + _PIECE] for at in range(0, view.nbytes, _PIECE))


def _paced(pacer: Pacer, views: Iterator[memoryview]) -> Iterator[memoryview]:
    for view in views:
        yield from pacer.parts(view)


def _read_paced(pacer: Pacer, response: urllib3.BaseHTTPResponse) -> bytes:
    """The whole answer. One that is given up, by an error or who waits, takes its connection with it."""
    parts = []
    try:
        while part := response.read(_PACED_READ):
            parts.append(part)
            pacer.pay(len(part))
    except BaseException:
        response.close()
        raise
    finally:
        response.release_conn()
    return b"".join(parts)


def _reason(error: BaseException) -> str:
    """What the socket or the server did, in words, without what urllib3 wraps around it."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        error = inner
        wrapped = [part for part in inner.args if isinstance(part, BaseException)]
        inner = wrapped[0] if wrapped else inner.__cause__
    return _WRAPPING.sub("", str(error)) or type(error).__name__
