"""When backups may begin and how many at once, as typed models."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import PlainValidator, model_validator

from shared.config.base import Model
from shared.config.limits import Hours
from shared.config.values import Duration, Flag, Several, Text, expected, whole_number, wrong

DAY = 24 * 60  # minutes
WEEK = 7 * DAY
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_SPAN = re.compile(r"([a-z]{3})(?: ?- ?([a-z]{3}))?")


@dataclass(frozen=True, slots=True)
class Days:
    """Some days of the week, 0 for Monday."""

    text: str
    numbers: frozenset[int]

    def __str__(self) -> str:
        return self.text

    @classmethod
    def parse(cls, value: object) -> Days:
        """Read "mon-fri" or "sat, sun"; raises a PydanticCustomError."""
        if isinstance(value, cls):
            return value
        words = 'days of the week as "mon-fri" or "sat, sun"'
        if not isinstance(value, str):
            raise expected(words)
        numbers: set[int] = set()
        for part in value.lower().split(","):
            match = _SPAN.fullmatch(part.strip())
            first, last = match.groups() if match else ("", "")
            if first not in _DAYS or (last or first) not in _DAYS:
                raise expected(words)
            begin = _DAYS.index(first)
            numbers.update((begin + more) % 7 for more in range((_DAYS.index(last or first) - begin) % 7 + 1))
        return cls(value.strip(), frozenset(numbers))


class Blackout(Model):
    """A part of each week in which no backup begins, by the clock on the wall of the policy's time zone."""

    hours: Annotated[Hours, PlainValidator(Hours.parse)] | None = None  # None: the whole day
    days: Annotated[Days, PlainValidator(Days.parse)] | None = None  # on which it begins; None: each

    @model_validator(mode="after")
    def _leaves_something(self) -> Self:
        if self.hours is None and (self.days is None or len(self.days.numbers) == len(_DAYS)):
            raise wrong("leaves no time at all: give hours, or some days")
        return self

    def minutes(self) -> set[int]:
        """Each minute of the week in it, counted from Monday 00:00."""
        start, end = (self.hours.start, self.hours.end) if self.hours else (0, DAY)
        length = end - start if start < end else DAY - start + end
        days = self.days.numbers if self.days else range(len(_DAYS))
        return {(day * DAY + start + more) % WEEK for day in days for more in range(length)}

    def __str__(self) -> str:
        return " ".join(str(part) for part in (self.hours, self.days) if part)


class PolicyDefaults(Model):
    """What a policy may leave to `defaults`."""

    timezone: Text = "UTC"  # of cron lines and blackouts; an IANA name
    rpo: Duration | None = None
    rto: Duration | None = None
    jitter: Duration | None = None  # each source begins so much later at most, always the same
    blackout: Annotated[tuple[Blackout, ...], Several] = ()
    verify: Duration | None = None  # the structure of its repositories is verified so often; None: never by itself
    verify_data: Duration | None = None  # and every pack is read whole within so long
    heal: Flag = False  # such a verification mends what it finds, from other sites
    restore_test: Duration | None = None  # a sample of each source is restored and compared so often
    attempts: Annotated[int, whole_number(" of attempts", least=1)] = 5  # that may die: the ledger's own default


class Scheduling(Model):
    """How many backups the scheduler lets wait or run at once; the rest stay due."""

    runs: Annotated[int, whole_number(" of runs", least=1)] | None = None  # of the fleet; None: any number
    runs_per_site: Annotated[int, whole_number(" of runs", least=1)] | None = None  # to each; None: any number
    runs_per_host: Annotated[int, whole_number(" of runs", least=1)] = 1  # on each host that sources name
