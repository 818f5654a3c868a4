"""Every secret and every file that a configuration refers to: read now, and where in the kit it goes.

A kit opens where there is no environment of ours, no vault and no program, so what was read by file, variable or
command lies in it as a file, and its configuration says so. What can't be read is named by its key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from shared.config.secrets import Secret
from shared.config.stores import admin_credentials, current_credentials
from shared.errors import ConfigError, HoldfastError
from shared.storage.credentials import CredentialsSpec

if TYPE_CHECKING:
    from shared.config.fleet import Fleet

Read = Callable[[], tuple[bytes, CredentialsSpec | None]]


@dataclass(frozen=True, slots=True)
class Reference:
    """One of them. `path`: its key in the configuration; `kept`: its name in the kit.

    `plain`: the key holds the path itself, and no mapping of `file`. `optional`: another machine's, where it may be.
    """

    path: tuple[str | int, ...]
    kept: str
    read: Read
    file: str = ""  # where it is now, empty where that is no file
    plain: bool = False
    optional: bool = False

    @property
    def key(self) -> str:
        """As people write it."""
        return ".".join(map(str, self.path))

    def put(self, data: dict[str, Any]) -> None:
        """Let the configuration refer to what the kit keeps."""
        place: Any = data
        for part in self.path[:-1]:
            place = place[part]
        place[self.path[-1]] = self.kept if self.plain else {"file": self.kept}


def references(fleet: Fleet) -> Iterator[Reference]:
    """All of them, the most important first. Raises ConfigError in an agent's file."""
    yield _secret(("secret",), fleet.secret)
    yield _secret(("recovery_password",), fleet.recovery_password)
    for name, site in fleet.sites.items():
        place = ("sites", name)
        if site.credentials is not None:
            yield _keys((*place, "credentials"), site.credentials.file, partial(_of_site, fleet, name))
        if site.admin is not None:
            yield _keys((*place, "admin"), site.admin.file, partial(admin_credentials, fleet, name))
        if site.ca_file is not None:
            yield _file((*place, "ca_file"), site.ca_file)
    for name, region in fleet.regions.items():
        for key, given in (("broker", region.broker), ("admin", region.admin)):
            if isinstance(given, Secret):
                yield _secret(("regions", name, key), given)
    for name, source in fleet.sources.items():
        elsewhere = source.host is not None
        yield from _variables(("sources", name, "env"), source.env, elsewhere)
        if source.scratch is not None:
            yield from _variables(("sources", name, "scratch", "env"), source.scratch.env, elsewhere)
        for number, file in enumerate(source.exclude_files):
            yield _file(("sources", name, "exclude_files", number), file, optional=True)
    for name, into in fleet.restore_into.items():
        yield from _variables(("restore_into", name, "env"), into.env, optional=False)


def credentials_text(keys: CredentialsSpec) -> bytes:
    """Keys as lines that Holdfast and `sed` read alike."""
    lines = [f"access_key = {keys.access_key}", f"secret_key = {keys.secret_key}"]
    if keys.session_token:
        lines.append(f"session_token = {keys.session_token}")
    if keys.expires is not None:
        lines.append(f"expires = {keys.expires:.0f}")
    return "\n".join([*lines, ""]).encode()


def _secret(path: tuple[str, ...], secret: Secret, *, optional: bool = False) -> Reference:
    def read() -> tuple[bytes, None]:
        return secret.read(".".join(path)) + b"\n", None

    return Reference(path, _kept("secrets", path), read, secret.file or "", optional=optional)


def _keys(path: tuple[str, ...], file: str | None, ask: Callable[[], CredentialsSpec | None]) -> Reference:
    def read() -> tuple[bytes, CredentialsSpec | None]:
        keys = ask()
        if keys is None:
            raise ConfigError(f"{'.'.join(path)}: there are none")
        return credentials_text(keys), keys

    return Reference(path, _kept("secrets", path), read, file or "")


def _file(path: tuple[str | int, ...], file: str, *, optional: bool = False) -> Reference:
    def read() -> tuple[bytes, None]:
        try:
            with open(file, "rb") as opened:
                return opened.read(), None
        except OSError as error:
            raise ConfigError(f"{'.'.join(map(str, path))}: can't read {file}: {error.strerror}") from None

    return Reference(path, _kept("files", path), read, file, plain=True, optional=optional)


def _variables(path: tuple[str, ...], given: Mapping[str, str | Secret], optional: bool) -> Iterator[Reference]:
    for name, value in given.items():
        if isinstance(value, Secret):
            yield _secret((*path, name), value, optional=optional)


def _of_site(fleet: Fleet, name: str) -> CredentialsSpec | None:
    return current_credentials(fleet.site_access(name))


def _kept(folder: str, path: tuple[str | int, ...]) -> str:
    return f"{folder}/" + ".".join(str(part).replace("/", "~") for part in path)


def read(reference: Reference) -> tuple[bytes, CredentialsSpec | None, str]:
    """What it is, and of keys the keys; else why it can't be read."""
    try:
        return *reference.read(), ""
    except HoldfastError as error:
        return b"", None, str(error.args[0])
