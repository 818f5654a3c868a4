"""From a site's access to its opened store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.storage.api import ObjectStore
from shared.storage.credentials import (
    CredentialsProvider,
    CredentialsSpec,
    credentials_from_command,
    credentials_from_file,
)
from shared.storage.open import open_store
from shared.storage.retry import DEFAULT_DEADLINE

if TYPE_CHECKING:
    from shared.config.fleet import Fleet, SiteAccess


def open_site(access: SiteAccess, *, create: bool = False, deadline: float = DEFAULT_DEADLINE) -> ObjectStore:
    """Open a site. `create` makes a directory that is not there; `deadline`: see `open_store`. Raises StorageError."""
    return open_store(
        access.url,
        credentials=_credentials(access.credentials),
        ca_file=access.ca_file,
        connections=access.connections,
        deadline=deadline,
        name=access.id,
        create=create,
    )


def _credentials(reference: dict[str, str | list[str]] | None) -> CredentialsProvider | CredentialsSpec | None:
    if reference is None:
        return None
    file, command = reference.get("file"), reference.get("command")
    if isinstance(file, str):
        return credentials_from_file(file)
    if isinstance(command, list):
        return credentials_from_command(command)
    token = reference.get("session_token")
    return CredentialsSpec(
        access_key=str(reference["access_key"]),
        secret_key=str(reference["secret_key"]),
        session_token=str(token) if token else None,
    )


def current_credentials(access: SiteAccess) -> CredentialsSpec | None:
    """The keys of an S3 site as they are now, for a program of its own; None for a directory. Raises Denied."""
    credentials = _credentials(access.credentials)
    return credentials() if callable(credentials) else credentials


def admin_credentials(fleet: Fleet, site: str) -> CredentialsSpec | None:
    """The keys of who gives rights at an S3 site; None where none is named. Raises ConfigError, Denied."""
    admin = fleet.site(site).admin
    credentials = _credentials(admin.reference(f"admin of site {site}")) if admin else None
    return credentials() if callable(credentials) else credentials
