"""What Holdfast may take of a machine and of its lines, as typed models.

Those at the top of the file are the machine's that reads it: an agent's own file has its own. Those of a site hold for
what such a machine sends there and receives from there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, PlainValidator, model_validator

from shared.config.base import Model
from shared.config.values import Several, Text, choice, expected, parse_size, whole_number, wrong
from shared.storage.rates import UNLIMITED, Rates

SLOWEST = 16_000  # bytes a second: below that a lock could not be refreshed in time behind the index
_DAY = 24 * 60
_HOURS = re.compile(r"([0-9]{1,2}):([0-9]{2}) ?- ?([0-9]{1,2}):([0-9]{2})")


@dataclass(frozen=True, slots=True)
class Hours:
    """A part of each day: from `start` to before `end`, in minutes; over midnight where `end` is the smaller one."""

    text: str
    start: int
    end: int

    def minutes(self) -> set[int]:
        """Each minute of the day in it."""
        if self.start < self.end:
            return set(range(self.start, self.end))
        return {*range(self.start, _DAY), *range(self.end)}

    def __str__(self) -> str:
        return self.text

    @classmethod
    def parse(cls, value: object) -> Hours:
        """Read "08:00-18:00"; raises a PydanticCustomError."""
        if isinstance(value, cls):
            return value
        match = _HOURS.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None:
            raise expected('hours of the day as "08:00-18:00"')
        numbers = [int(part) for part in match.groups()]
        start, end = numbers[0] * 60 + numbers[1], numbers[2] * 60 + numbers[3]
        if start >= _DAY or end > _DAY or numbers[1] > 59 or numbers[3] > 59:
            raise expected('hours of the day from "00:00" to "24:00"')
        if start == end % _DAY:
            raise expected("hours that end at another time than they begin (a whole day is what `rate` is for)")
        return cls(str(value).strip(), start, end)


def _speed(value: object) -> int:
    size = parse_size(value.removesuffix("/s") if isinstance(value, str) else value)
    if size is None:
        raise expected('a rate in bytes a second, as "20 MB" or "512 KiB/s"')
    if size < SLOWEST:
        raise expected(f"a rate of {SLOWEST // 1000} KB a second or more")
    return size


Speed = Annotated[int, BeforeValidator(_speed)]  # bytes per second


class Window(Model):
    """Some hours of each day, and the rate then."""

    hours: Annotated[Hours, PlainValidator(Hours.parse)]
    rate: Speed


class Bandwidth(Model):
    """A rate, and others by the hour of the day. A rate alone is written without a mapping."""

    rate: Speed | None = None  # outside of the windows; None: no limit then
    windows: Annotated[tuple[Window, ...], Several] = ()
    timezone: Text = ""  # of the hours, an IANA name; empty: the machine's own

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: object) -> object:
        return value if isinstance(value, dict | cls) else {"rate": _speed(value)}

    @model_validator(mode="after")
    def _means_something(self) -> Self:
        if self.rate is None and not self.windows:
            raise wrong("limits nothing: give a rate, windows or both")
        taken: dict[int, Hours] = {}
        for window in self.windows:
            for minute in window.hours.minutes():
                if minute in taken:
                    raise wrong(f"has windows that overlap: {taken[minute]} and {window.hours}")
                taken[minute] = window.hours
        return self

    def rates(self) -> Rates:
        """The same as a line is held to it."""
        windows = tuple((window.hours.start, window.hours.end, window.rate) for window in self.windows)
        return Rates(self.rate or UNLIMITED, windows, self.timezone)


class SiteLimits(Model):
    """What may pass between one machine and one site."""

    upload: Bandwidth | None = None
    download: Bandwidth | None = None


class Limits(SiteLimits):
    """What one machine gives to its runs; its bandwidth is that to all sites together."""

    runs: Annotated[int, whole_number(" of runs", least=1, most=1024)] = 2  # at once, of one worker
    cores: Annotated[int, whole_number(" of cores")] = 0  # of all engines together; 0: those that there are
    nice: Annotated[int, whole_number("", most=19)] = 0
    io: Annotated[Literal["normal", "low", "idle"], choice("normal", "low", "idle")] = "normal"
