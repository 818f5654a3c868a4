"""What can be wrong with a repository: the RepositoryError leaves."""

from __future__ import annotations

from typing import ClassVar

from shared.errors import RepositoryError


class RepositoryMissing(RepositoryError):
    """There is no repository at that place."""

    exit_code: ClassVar[int] = 21


class WrongPassword(RepositoryError):
    """No key file of the repository opens with this password."""

    exit_code: ClassVar[int] = 22


class UnsupportedRepository(RepositoryError):
    """A format version or feature that this release can't handle, or not in this way."""

    exit_code: ClassVar[int] = 23


class Damaged(RepositoryError):
    """Stored bytes that do not verify. The message names the object, what was expected and what was found."""

    exit_code: ClassVar[int] = 24


class Locked(RepositoryError):
    """Another holder's lock is in the way."""

    exit_code: ClassVar[int] = 25
