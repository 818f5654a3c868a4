"""How the sites are looked at, as a typed model. It is the machine's that reads it: `place` says where that stands."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import model_validator

from shared.config.base import Model
from shared.config.values import NAME, Duration, Flag, Size, wrong

_EXPIRES_AFTER = 3  # intervals that an observer may miss


class Health(Model):
    """When a site counts as up, slow or down, and who looks."""

    probe: Flag = True  # workers of this machine probe the sites
    place: Annotated[str, NAME] = ""  # where this machine stands; empty: its host name
    interval: Duration = 10.0  # seconds between two probes of one place
    timeout: Duration = 5.0  # seconds in which a site must have answered
    slow_after: Duration = 2.0  # seconds for writing and reading a few bytes
    min_free: Size = 5 << 30  # bytes that a site should have left
    clock_tolerance: Duration = 60.0  # seconds by which clocks may differ

    @property
    def expires(self) -> float:
        """Seconds for which an observation counts: as long as its observer may be late."""
        return _EXPIRES_AFTER * self.interval + self.timeout

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.slow_after >= self.timeout:
            raise wrong("slow_after is not shorter than timeout: what takes longer than that is down")
        return self
