"""When another site takes the place of one that is gone, as typed models."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import PlainValidator, model_validator

from shared.config.base import Model
from shared.config.limits import Hours
from shared.config.values import Duration, Program, choice, mapping_of, whole_number, wrong


class FailoverHooks(Model):
    """Programs run around each change of primary that the failover worker makes."""

    before: Program | None = None  # where it fails nothing is changed
    after: Program | None = None  # whatever came of it
    timeout: Duration = 60.0  # seconds, of each


class Failover(Model):
    """How the failover worker decides."""

    mode: Annotated[Literal["automatic", "propose"], choice("automatic", "propose")] = "automatic"
    interval: Duration = 2.0  # seconds between two looks
    down_after: Duration = 10.0  # for which a site must be down
    observers: Annotated[int, whole_number(" of places", least=1, most=100)] = 2
    max_behind: Duration | None = None  # of what a site has of a source that it takes over; None: its policy's RPO
    cool_down: Duration = 600.0
    grace: Duration = 20.0  # after a start, and after the clock jumped
    moves_per_hour: Annotated[int, whole_number(" of moves", least=1, most=1000)] = 4
    failback: Annotated[Literal["by hand", "automatic"], choice("by hand", "automatic")] = "by hand"
    failback_hours: Annotated[Hours, PlainValidator(Hours.parse)] | None = None  # None: at any hour
    hooks: Annotated[FailoverHooks, mapping_of("programs: {before: ..., after: ...}")] = FailoverHooks()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not 1 <= self.interval <= 60:
            raise wrong("interval is from 1s to 1m")
        if self.down_after < self.interval:
            raise wrong("down_after is shorter than interval, so one look would decide")
        if self.failback_hours is not None and self.failback == "by hand":
            raise wrong("failback_hours says when, and failback is by hand: set failback: automatic")
        return self
