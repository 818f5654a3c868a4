"""What can go wrong with a recovery kit."""

from __future__ import annotations

from shared.errors import HoldfastError


class KitError(HoldfastError):
    """A recovery kit can't be made or used."""

    exit_code = 90


class WrongKitPassword(KitError):
    """The password does not open it."""

    exit_code = 91


class KitDamaged(KitError):
    """The bytes are no kit, or not a whole one."""

    exit_code = 92


class NewerKit(KitError):
    """A later release made it, in a form that this one does not know."""

    exit_code = 93


class WrongParts(KitError):
    """Too few parts, one twice, or parts of different kits."""

    exit_code = 94
