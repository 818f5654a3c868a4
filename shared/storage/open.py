"""From a site's URL to its store. Imports what a kind of store needs only when one is opened."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from shared.storage.api import ObjectStore, Permanent
from shared.storage.failures import Place, check_key
from shared.storage.retry import DEFAULT_DEADLINE, RetryPolicy

if TYPE_CHECKING:
    from shared.storage.credentials import CredentialsProvider, CredentialsSpec
    from shared.storage.throttled import Throttle

_FORMS = "Write /absolute/path, dir:/path, file:///path, or s3:https://host[:port]/bucket[/prefix]"


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """A parsed site URL: a directory (`path`), or an S3 `endpoint` (scheme://host[:port]), `bucket`, `prefix`."""

    path: str = ""
    endpoint: str = ""
    bucket: str = ""
    prefix: str = ""

    @property
    def is_s3(self) -> bool:
        """Whether the site is an S3 bucket."""
        return bool(self.bucket)


def parse_url(url: str, *, name: str = "") -> StoreUrl:
    """Take a site's URL apart. A relative path is made absolute now. Raises Permanent: says what was expected."""
    if url.startswith("s3:"):
        return _parse_s3(url, name)
    path = url
    if url.startswith("file:"):
        parts = urlsplit(url)
        if parts.netloc not in {"", "localhost"}:
            raise Place(name, url).fail(Permanent, "open", "", f"a file URL names host {parts.netloc!r}", _FORMS)
        path = unquote(parts.path)
    elif url.startswith("dir:"):
        path = url.removeprefix("dir:")
    elif "://" in url:
        raise Place(name, _without_secret(url)).fail(Permanent, "open", "", "no kind of site that is known", _FORMS)
    if not path or "\0" in path:
        raise Place(name, repr(url)).fail(Permanent, "open", "", "no path", _FORMS)
    return StoreUrl(path=os.path.abspath(path))


def restic_repository(url: str, below: str, *, name: str = "") -> str:
    """How stock restic is told of a repository that lies at `below` of a site. Raises Permanent."""
    place = parse_url(url, name=name)
    if not place.is_s3:
        return f"{place.path}/{below}"
    prefix = f"{place.prefix}/" if place.prefix else ""
    return f"s3:{place.endpoint}/{place.bucket}/{prefix}{below}"


def _parse_s3(url: str, name: str) -> StoreUrl:
    rest = url.removeprefix("s3:")
    if "://" not in rest:
        rest = "https://" + rest.removeprefix("//")  # restic's short form: s3:host/bucket
    place = Place(name, _without_secret(url))
    try:
        parts = urlsplit(rest)
        port = f":{parts.port}" if parts.port else ""
    except ValueError as error:
        raise place.fail(Permanent, "open", "", str(error), _FORMS) from error
    if "@" in parts.netloc:
        hint = "Name the credentials beside the URL: it is shown in messages"
        raise place.fail(Permanent, "open", "", "the URL holds credentials", hint)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise place.fail(Permanent, "open", "", "not an S3 URL", _FORMS)
    bucket, _, prefix = parts.path.strip("/").partition("/")
    if not bucket:
        raise place.fail(Permanent, "open", "", "the URL names no bucket", _FORMS)
    if prefix:
        check_key(place, prefix)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return StoreUrl(endpoint=f"{parts.scheme}://{host}{port}", bucket=bucket, prefix=prefix)


def _without_secret(url: str) -> str:
    head, at, tail = url.rpartition("@")
    return f"{head[: head.find('//') + 2]}...@{tail}" if at and "//" in head else url


def open_store(
    url: str,
    *,
    credentials: CredentialsProvider | CredentialsSpec | None = None,
    ca_file: str | None = None,
    connections: int = 4,
    deadline: float = DEFAULT_DEADLINE,
    tries: int = 0,
    name: str = "",
    create: bool = False,
    throttle: Throttle | None = None,
) -> ObjectStore:
    """Open a site. No request is made yet, so an S3 site that is away shows at the first operation.

    `credentials`: for S3, fixed ones or a provider that is asked again when they run out.
    `ca_file`: PEM file of the authorities to trust instead of the system's.
    `connections`: the most at once, which is to be the number of threads that use the store.
    `deadline`: seconds from an operation's first failure until it is given up; an endpoint that never
    answers is given up within twice that. `tries`: of each operation; 0 for any number until then.
    `name`: the site's, for messages.
    `create`: make a directory that is not there; a bucket is never made.
    `throttle`: at which rate content may pass; without it nothing is held up.
    Raises Permanent (a URL or directory that can't be), Denied (S3 without usable credentials).
    """
    parsed = parse_url(url, name=name)
    retry = RetryPolicy(deadline=deadline, tries=tries)
    if parsed.is_s3:
        # minio and TLS cost start-up time that a directory does not need.
        from shared.storage.s3 import S3Store

        return S3Store(
            parsed,
            credentials=credentials,
            ca_file=ca_file,
            connections=connections,
            name=name,
            retry=retry,
            throttle=throttle,
        )

    from shared.storage.directory import DirectoryStore
    from shared.storage.durable import make_directories

    if not os.path.isdir(parsed.path):
        place = Place(name, parsed.path)
        if not create or os.path.lexists(parsed.path):
            reason = "not a directory" if os.path.lexists(parsed.path) else "no such directory"
            hint = "Mount it, make it (mkdir), or correct the site's url"
            raise place.fail(Permanent, "open", "", reason, hint)
        try:
            make_directories(parsed.path)
        except OSError as error:
            raise place.from_os_error(error, "make directory", "") from error
    store = DirectoryStore(parsed.path, name=name, retry=retry)
    if throttle is None:
        return store
    from shared.storage.throttled import ThrottledStore

    return ThrottledStore(store, throttle)
