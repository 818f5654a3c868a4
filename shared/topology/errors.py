"""What goes wrong where sites are asked to agree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from shared.errors import HoldfastError, StorageError


class TopologyError(HoldfastError):
    """The sites can't agree, or have agreed on something else. One of the leaves is raised."""


class StaleEpoch(TopologyError):
    """The topology has changed since the work began: deletes under the old epoch must not go on."""

    exit_code = 70


class NoMajority(TopologyError):
    """Fewer members than a majority could be asked. `contended`: another proposer was in the way."""

    exit_code = 72

    def __init__(
        self,
        members: Iterable[str],
        errors: Mapping[str, StorageError | None],
        *,
        contended: bool = False,
        founding: bool = False,
    ) -> None:
        said = "; ".join(f"{name}: {error.args[0]}" for name, error in sorted(errors.items()) if error)
        if founding:
            message, hint = "the sites have never voted, and the first vote needs all of them", "Wait until all answer"
        elif contended:
            message, hint = "the sites go on voting for somebody else", "Try again"
        else:
            message, hint = "no majority of the members answers", "`holdfast sites` shows who does"
        super().__init__(f"{message} ({', '.join(members)}){': ' if said else ''}{said}", hint=hint)
        self.contended = contended


class NotAllAgree(TopologyError):
    """Some member does not answer, or not with what was decided: nothing may be deleted."""

    exit_code = 73

    def __init__(self, others: Mapping[str, str], errors: Mapping[str, StorageError]) -> None:
        said = [f"{name} ({errors[name].args[0] if name in errors else how})" for name, how in sorted(others.items())]
        super().__init__(
            f"nothing is deleted while not every member agrees on the topology: {', '.join(said)}",
            hint="It goes on by itself once they do; a site that is gone for good is declared lost",
        )


class MoveRefused(TopologyError):
    """As the topology stands this change can't be made."""

    exit_code = 74


class TooFarBehind(TopologyError):
    """The site that is to be primary lacks what another has, and nobody has accepted that it is lost."""

    exit_code = 76
