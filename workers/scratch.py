"""From a source's `scratch` to what an engine is told of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from shared.config.programs import environment
from workers.maintenance.scratch_server import ScratchSpec
from workers.programs.program import ProgramSpec

if TYPE_CHECKING:
    from shared.config.models import Source


def scratch_of(source: Source) -> ScratchSpec | None:
    """The scratch server of a source; None where it has none. Reads secrets. Raises ConfigError."""
    given = source.scratch
    if given is None:
        return None
    env, secrets = environment(given.env, f"sources.{source.id}.scratch")

    def program(argv: Sequence[str] | None, timeout: float = given.timeout) -> ProgramSpec | None:
        return None if argv is None else ProgramSpec(list(argv), env, timeout, secrets)

    return ScratchSpec(
        fill=ProgramSpec(list(given.fill), env, given.timeout, secrets),
        make=program(given.make),
        serve=program(given.serve, 0.0),
        ready=program(given.ready),
        check=program(given.check),
        user=given.user or "",
        folder=given.folder or "",
    )
