"""A site that is an S3 bucket, or a part of one.

What holds: a put is one request, so an object is whole or not there. Conditions (If-None-Match,
If-Match) are checked by the server. A condition that fails may do so against one's own write whose
answer was lost, so it is believed only after the object's bytes have been compared; that is why the
data of a compare-and-swap carries a nonce.
"""

from __future__ import annotations

import copy
import functools
import hashlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote_plus
from xml.etree import ElementTree as ET

from shared.storage.api import (
    Buffer,
    Capabilities,
    Denied,
    MissingObject,
    ObjectInfo,
    ObjectVersion,
    Permanent,
    Staged,
    Transient,
)
from shared.storage.credentials import CredentialsCache, CredentialsProvider, CredentialsSpec
from shared.storage.failures import Place, check_key, check_prefix
from shared.storage.probe import run_probe
from shared.storage.retry import RetryPolicy
from shared.storage.s3http import EMPTY_SHA256, Answer, S3Http
from shared.storage.spool import Spool

if TYPE_CHECKING:
    from shared.storage.open import StoreUrl
    from shared.storage.throttled import Throttle

T = TypeVar("T")

_NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"
_VERSIONS = (f"{_NAMESPACE}Version", f"{_NAMESPACE}DeleteMarker")
_PAGE = "1000"  # the most that S3 gives at once
_PRECONDITION_FAILED = 412
_NOT_FOUND = 404
_UNSATISFIABLE = 416


class S3Store:
    """An `ObjectStore` in an S3 bucket."""

    def __init__(
        self,
        parsed: StoreUrl,
        *,
        credentials: CredentialsProvider | CredentialsSpec | None,
        ca_file: str | None = None,
        connections: int = 4,
        name: str = "",
        retry: RetryPolicy | None = None,
        throttle: Throttle | None = None,
    ) -> None:
        self._place = Place(name, f"s3:{parsed.endpoint}/{parsed.bucket}")
        self._prefix = f"{parsed.prefix}/" if parsed.prefix else ""
        self._retry = retry or RetryPolicy()
        if credentials is None:
            hint = "Name them in the site's credentials: an environment variable, a file or a command"
            raise self._place.fail(Denied, "open", "", "no credentials", hint)
        self._http = S3Http(
            self._place,
            parsed.endpoint,
            parsed.bucket,
            CredentialsCache(credentials),
            ca_file=ca_file,
            connections=connections,
            deadline=self._retry.deadline,
            throttle=throttle,
        )
        self._versioned: list[bool] = []  # shared with what is below
        self._owner = True

    @property
    def url(self) -> str:
        """In restic's form: s3:http://host:port/bucket/prefix."""
        return f"{self._place.url}/{self._prefix}".rstrip("/")

    @property
    def connections(self) -> int:
        """See `ObjectStore`."""
        return self._http.connections

    def put(self, key: str, data: Buffer, *, sha256: str | None = None) -> None:
        """See `ObjectStore`. One request; the server refuses bytes that do not have the hash."""
        self._put(key, data, sha256 or _hash(data), {})

    def stage(self, prefix: str, *, spool: str = "") -> Staged:
        """See `ObjectStore`. A put is signed with its hash, so the bytes wait in the spool till that is known."""
        check_prefix(self._place, prefix)
        return _StagedPut(self, Spool(spool))

    def put_if_absent(self, key: str, data: Buffer) -> bool:
        """See `ObjectStore`."""
        if self._put(key, data, _hash(data), {"If-None-Match": "*"}).status != _PRECONDITION_FAILED:
            return True
        try:
            return self.get(key) == data
        except MissingObject:
            return False

    def compare_and_swap(self, key: str, data: Buffer, *, version: str) -> bool:
        """See `ObjectStore`. A version is an ETag, which hashes the bytes: they must carry a nonce against A-B-A."""
        try:
            answer = self._put(key, data, _hash(data), {"If-Match": version})
            return answer.status != _PRECONDITION_FAILED or self.get(key) == data
        except MissingObject:
            return False

    def get(self, key: str) -> bytes:
        """See `ObjectStore`."""
        return self._do(lambda: self._http.send("GET", self._key(key)).data)

    def get_versioned(self, key: str) -> tuple[bytes, str]:
        """See `ObjectStore`."""
        answer = self._do(lambda: self._http.send("GET", self._key(key)))
        return answer.data, answer.headers.get("ETag", "")

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """See `ObjectStore`."""
        if length == 0:
            self.stat(key)
            return b""
        headers = {"Range": f"bytes={offset}-{offset + length - 1}"}
        passing = frozenset({_UNSATISFIABLE})
        answer = self._do(lambda: self._http.send("GET", self._key(key), headers=headers, passing=passing))
        data = b"" if answer.status == _UNSATISFIABLE else answer.data
        if answer.status == 200:  # a server that ignores ranges sends everything
            data = data[offset : offset + length]
        if len(data) != length:
            reason = f"expected {length} bytes from {offset}, the object ends after {len(data)}"
            raise self._place.fail(Permanent, "GET", self._key(key), reason)
        return data

    def stat(self, key: str) -> ObjectInfo:
        """See `ObjectStore`. The time is in whole seconds, where that of a listing has milliseconds."""
        headers = self._do(lambda: self._http.send("HEAD", self._key(key))).headers
        modified = parsedate_to_datetime(headers["Last-Modified"]).timestamp()
        return ObjectInfo(key, int(headers["Content-Length"]), modified)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `ObjectStore`. Pages of 1,000, one held at a time."""
        check_prefix(self._place, prefix)
        return self._walk(self._prefix + prefix)

    def delete(self, key: str) -> None:
        """See `ObjectStore`. In a versioned bucket the bytes stay below a delete marker."""
        passing = frozenset({_NOT_FOUND})
        answer = self._do(lambda: self._http.send("DELETE", self._key(key), passing=passing))
        if answer.code == "NoSuchBucket":
            raise self._no_bucket("DELETE", key)

    def purge(self, key: str) -> None:
        """See `ObjectStore`. One request more for each key, and one for each version."""
        if not self.keeps_versions():
            self.delete(key)
            return
        whole = self._key(key)
        passing = frozenset({_NOT_FOUND})
        for one in reversed([one for one in self._walk_versions(whole) if one.key == key]):
            query = {"versionId": one.version}
            self._do(functools.partial(self._http.send, "DELETE", whole, query=query, passing=passing))

    def keeps_versions(self) -> bool:
        """See `VersionedStore`. Asked for once."""
        if not self._versioned:
            answer = self._do(lambda: self._http.send("GET", "", query={"versioning": ""}))
            self._versioned.append(b"<Status>" in answer.data)
        return self._versioned[0]

    def versions(self, prefix: str) -> Iterator[ObjectVersion]:
        """See `VersionedStore`. Pages of 1,000, one held at a time."""
        check_prefix(self._place, prefix)
        return self._walk_versions(self._prefix + prefix)

    def get_version(self, key: str, version: str) -> bytes:
        """See `VersionedStore`."""
        return self._do(lambda: self._http.send("GET", self._key(key), query={"versionId": version}).data)

    def clock(self) -> float:
        """See `ObjectStore`: the Date of an answer, in whole seconds, so up to one second behind."""
        # Any answer has a Date, a refusal too: this needs no right on the bucket.
        passing = frozenset(range(300, 500))
        answer = self._do(lambda: self._http.send("HEAD", "", passing=passing))
        date = answer.headers.get("Date")
        if not date:
            raise self._place.fail(Permanent, "HEAD", "", "the answer has no Date", "Is there a proxy in between?")
        return parsedate_to_datetime(date).timestamp()

    def probe(self) -> Capabilities:
        """See `ObjectStore`."""
        return run_probe(self, versioned=self._is_versioned)

    def below(self, prefix: str) -> S3Store:
        """See `ObjectStore`. Shares the connections, which only the store that was opened closes."""
        check_key(self._place, prefix)
        child = copy.copy(self)
        child._prefix = f"{self._prefix}{prefix}/"  # noqa: SLF001 - a copy of itself
        child._owner = False  # noqa: SLF001 - a copy of itself
        return child

    def close(self) -> None:
        """See `ObjectStore`."""
        if self._owner:
            self._http.close()

    def _key(self, key: str) -> str:
        check_key(self._place, key)
        return self._prefix + key

    def _do(self, attempt: Callable[[], T]) -> T:
        return self._retry.run(attempt)

    def _put(self, key: str, data: Buffer | Spool, sha256: str, condition: dict[str, str]) -> Answer:
        whole = self._key(key)
        passing = frozenset({_PRECONDITION_FAILED}) if condition else frozenset()
        return self._do(
            lambda: self._http.send("PUT", whole, headers=condition, body=data, sha256=sha256, passing=passing)
        )

    def _is_versioned(self) -> bool:
        answer = self._do(lambda: self._http.send("GET", "", query={"versioning": ""}))
        return b"<Status>Enabled</Status>" in answer.data

    def _walk_versions(self, whole: str) -> Iterator[ObjectVersion]:
        query = {"versions": "", "encoding-type": "url", "max-keys": _PAGE, "prefix": whole}
        while True:
            page = self._do(functools.partial(self._xml, dict(query), whole))
            for one in page:
                if one.tag in _VERSIONS:
                    key = unquote_plus(one.findtext(f"{_NAMESPACE}Key") or "").removeprefix(self._prefix)
                    version = one.findtext(f"{_NAMESPACE}VersionId") or "null"
                    is_latest = one.findtext(f"{_NAMESPACE}IsLatest") == "true"
                    etag = one.findtext(f"{_NAMESPACE}ETag") or ""  # a delete marker has none
                    yield ObjectVersion(key, version, etag, is_latest=is_latest)
            if page.findtext(f"{_NAMESPACE}IsTruncated") != "true":
                return
            for marker in ("key-marker", "version-id-marker"):
                tag = "Next" + "".join(word.capitalize() for word in marker.split("-"))
                query[marker] = unquote_plus(page.findtext(f"{_NAMESPACE}{tag}") or "")

    def _no_bucket(self, operation: str, key: str) -> Exception:
        hint = "Create the bucket, or correct the site's url"
        return self._place.fail(Permanent, operation, self._key(key), "404 NoSuchBucket", hint)

    def _walk(self, prefix: str) -> Iterator[ObjectInfo]:
        token: str | None = ""
        while token is not None:
            page = self._do(functools.partial(self._page, prefix, token))
            for found in page.iterfind(f"{_NAMESPACE}Contents"):
                key = unquote_plus(found.findtext(f"{_NAMESPACE}Key") or "")
                modified = datetime.fromisoformat(found.findtext(f"{_NAMESPACE}LastModified") or "")
                size = int(found.findtext(f"{_NAMESPACE}Size") or "0")
                yield ObjectInfo(key.removeprefix(self._prefix), size, modified.astimezone(UTC).timestamp())
            more = page.findtext(f"{_NAMESPACE}IsTruncated") == "true"
            token = page.findtext(f"{_NAMESPACE}NextContinuationToken") if more else None

    def _page(self, prefix: str, token: str) -> ET.Element:
        query = {"list-type": "2", "encoding-type": "url", "max-keys": _PAGE, "prefix": prefix}
        if token:
            query["continuation-token"] = token
        return self._xml(query, prefix)

    def _xml(self, query: dict[str, str], wanted: str) -> ET.Element:
        answer = self._http.send("GET", "", query=query, wanted=wanted)
        try:
            return ET.fromstring(answer.data)  # noqa: S314 - expat itself bounds entity expansion
        except ET.ParseError as error:
            # A proxy's page, or a page cut short: both pass.
            raise self._place.fail(Transient, "LIST", wanted, f"the listing is no XML: {error}") from error


class _StagedPut:
    """A `Staged` that is put in one request from a spool, which each try reads from its start."""

    def __init__(self, store: S3Store, spool: Spool) -> None:
        self._store = store
        self._spool = spool

    def write(self, data: Buffer) -> None:
        """See `Staged`."""
        self._spool.write(data)

    def publish(self, key: str, *, sha256: str) -> None:
        """See `Staged`. Tried again as any put; the server refuses bytes that do not have the hash."""
        self._store._put(key, self._spool, sha256, {})  # noqa: SLF001 - a part of it

    def discard(self) -> None:
        """See `Staged`."""
        self._spool.close()


def _hash(data: Buffer) -> str:
    return hashlib.sha256(data).hexdigest() if len(data) else EMPTY_SHA256
