"""Agents' users and policies in MinIO, by its admin API. Everything here may be repeated."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from shared.errors import StorageError
from shared.storage.api import Denied, Permanent, Transient
from shared.storage.failures import Place
from shared.storage.open import StoreUrl, parse_url

if TYPE_CHECKING:
    from collections.abc import Callable

    from minio.minioadmin import MinioAdmin

    from shared.storage.credentials import CredentialsSpec

_SECONDS = 20.0
_GONE = ("XMinioAdminNoSuchUser", "XMinioAdminNoSuchPolicy", "NoSuchPolicy")


class S3Users:
    """The admin API of one site's server. Every method may raise StorageError."""

    def __init__(self, site: str, url: str, credentials: CredentialsSpec, ca_file: str | None = None) -> None:
        import ssl

        import urllib3
        from minio.credentials.providers import StaticProvider
        from minio.minioadmin import MinioAdmin

        self._parsed: StoreUrl = parse_url(url, name=site)
        self._place = Place(site, f"s3:{self._parsed.endpoint}")
        endpoint = urlsplit(self._parsed.endpoint)
        retries = urllib3.Retry(total=2, backoff_factor=0.2)
        pool = urllib3.PoolManager(
            timeout=_SECONDS, retries=retries, ssl_context=ssl.create_default_context(cafile=ca_file)
        )
        provider = StaticProvider(credentials.access_key, credentials.secret_key, credentials.session_token)
        self._admin: MinioAdmin = MinioAdmin(
            endpoint=endpoint.netloc, credentials=provider, secure=endpoint.scheme == "https", http_client=pool
        )

    def grant(self, user: str, secret: str, policy: dict[str, Any]) -> None:
        """Make or change a policy, then a user, then join them: never a user with other rights than these."""
        self._do("add policy", lambda: self._admin.policy_add(user, policy=policy))
        self._do("add user", lambda: self._admin.user_add(user, secret))
        self._do("set policy", lambda: self._admin.policy_set(user, user=user))

    def remove(self, user: str) -> None:
        """Remove a user and its policy; no error where they are gone."""
        self._do("remove user", lambda: self._admin.user_remove(user), gone=True)
        self._do("remove policy", lambda: self._admin.policy_remove(user), gone=True)

    def has(self, user: str) -> bool:
        """Whether there is such a user."""
        return user in json.loads(self._do("list users", self._admin.user_list))

    def _do(self, what: str, call: Callable[[], str], *, gone: bool = False) -> str:
        from minio.error import MinioAdminException
        from urllib3.exceptions import HTTPError

        try:
            return call()
        except MinioAdminException as error:
            code, said = _words(error)
            if gone and code in _GONE:
                return ""
            kind: type[StorageError] = Denied if code in _DENIED else Permanent
            hint = "`admin:` of the site names who may make users and policies (docs/agents.md)"
            raise self._place.fail(kind, what, "", f"{code}: {said}".strip(": "), hint) from error
        except (HTTPError, OSError) as error:
            raise self._place.fail(Transient, what, "", str(error), "Is it MinIO, and does it run?") from error


_DENIED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch")


def _words(error: Exception) -> tuple[str, str]:
    """Code and message of what the admin API answered; its text is JSON, or a proxy's own."""
    body = str(getattr(error, "_body", error))
    try:
        answer = json.loads(body)
        return str(answer.get("Code", "")), str(answer.get("Message", ""))
    except (ValueError, AttributeError):
        return str(getattr(error, "_code", "")), body[:200]
