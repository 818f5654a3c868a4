"""What an S3 server's answer, or the lack of one, means."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from shared.errors import StorageError
from shared.storage.api import Denied, MissingObject, Permanent, StoreFull, Transient

_FULL = frozenset({"XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "QuotaExceeded", "StorageFull"})
_MISSING = frozenset({"NoSuchKey", "NoSuchVersion"})
_DENIED = frozenset(
    {
        "AccessDenied",
        "AccountProblem",
        "AllAccessDisabled",
        "AuthorizationHeaderMalformed",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidTokenId",
        "InvalidToken",
        "SignatureDoesNotMatch",
        "XMinioAdminUserDisabled",
    }
)
_PERMANENT = frozenset({"NoSuchBucket", "RequestTimeTooSkewed", "InvalidBucketName", "MethodNotAllowed"})
_TRANSIENT = frozenset(
    {
        "ConditionalRequestConflict",
        "IncompleteBody",
        "InternalError",
        "OperationAborted",
        "RequestTimeout",
        "ServerBusy",
        "ServiceUnavailable",
        "SlowDown",
        "SlowDownRead",
        "SlowDownWrite",
        "ThrottlingException",
        "XMinioServerNotInitialized",
        "XAmzContentSHA256Mismatch",
        "BadDigest",
    }
)

_HINTS = {
    "AccessDenied": "The key may not do this: grant it (docs/sites.md#rights), or name credentials that may",
    "InvalidAccessKeyId": "The server does not know this access key: correct the site's credentials",
    "SignatureDoesNotMatch": "The secret key is wrong: correct the site's credentials",
    "ExpiredToken": "The credentials have run out: use a credentials file or command that renews them",
    "NoSuchBucket": "Create the bucket, or correct the site's url",
    "RequestTimeTooSkewed": "This host's clock is wrong by more than 15 minutes: set it (NTP)",
    "XMinioStorageFull": "Add space at the site; what was stored is whole, and the next run goes on from it",
    "XMinioAdminBucketQuotaExceeded": "Raise the bucket's quota; what was stored is whole",
}

HINT_UNREACHABLE = "Is the server running, and may this host reach it?"
HINT_CERTIFICATE = "Name the authority's certificate as the site's ca_file, or correct the server's certificate"


def parse_error(data: bytes) -> tuple[str, str]:
    """Code and region of an S3 error document; empty where it is none or does not say."""
    if not data.lstrip().startswith(b"<"):
        return "", ""
    try:
        root = ET.fromstring(data)  # noqa: S314 - expat itself bounds entity expansion; a site is no stranger
    except ET.ParseError:
        return "", ""
    return _text(root, "Code"), _text(root, "Region")


def _text(root: ET.Element, name: str) -> str:
    for child in root:
        if child.tag.rpartition("}")[2] == name:
            return child.text or ""
    return ""


def sort_answer(status: int, code: str) -> type[StorageError]:
    """The kind of error that an HTTP status and an S3 code are; the code, where there is one, decides."""
    if code in _FULL or status == 507:
        return StoreFull
    if code in _MISSING:
        return MissingObject
    if code in _DENIED:
        return Denied
    if code in _PERMANENT:
        return Permanent
    if code in _TRANSIENT or status in {408, 429} or (status >= 500 and status != 501):
        return Transient
    if status in {401, 403}:
        return Denied
    if status == 404:
        return MissingObject
    return Permanent


def hint_for(status: int, code: str) -> str:
    """The way out of an error, or nothing."""
    if not code and status in {401, 403}:
        code = "AccessDenied"
    return _HINTS.get(code, "")
