"""The kinds of values a configuration holds. Each says in its error what it expects; `found` is added by the loader."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from itertools import islice, pairwise
from math import inf
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainValidator, ValidationInfo
from pydantic_core import PydanticCustomError

EXPECTED = "expected"  # the type of an error to which the loader adds what was found
EXPECTED_SECRET = "expected_secret"  # noqa: S105 - an error that must not repeat the value

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?[smhdw])+")
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhdw])")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(?:([KMGT])(i?)B?|B)?", re.IGNORECASE)
_SEGMENT = re.compile(r"[a-z0-9][a-z0-9._-]*")
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")
_PORT_AT_MOST = 65535
_PORT_DIGITS = 5
OFF = "off"
_RESERVED = frozenset({"config", "data", "holdfast", "index", "keys", "locks", "snapshots"})  # inside a repository


def expected(words: str) -> PydanticCustomError:
    """The error of a value that is not what it should be; `words` finish the sentence "expected ..."."""
    return PydanticCustomError(EXPECTED, "expected {words}", {"words": words})


def expected_secret(words: str) -> PydanticCustomError:
    """The same for a place where a person may have typed a secret: the value is not repeated."""
    return PydanticCustomError(EXPECTED_SECRET, "expected {words}", {"words": words})


def wrong(message: str) -> PydanticCustomError:
    """A problem that is a sentence of its own."""
    return PydanticCustomError("wrong", "{message}", {"message": message})


def parse_duration(value: object) -> float | None:
    """Seconds of "90s", "15m", "1h30m", "2d", "1w"; None where it is nothing of the kind."""
    if not isinstance(value, str) or not _DURATION.fullmatch(value):
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(value))


def parse_size(value: object) -> int | None:
    """Bytes of 4096, "64 MiB", "64M" (both powers of 1024), "1.5 GB" (powers of 1000); None where it is none."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value if value >= 0 else None
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        return None
    number, unit, binary = match.groups()
    if unit is None:
        return int(float(number))
    decimal = not binary and match.group(0)[-1] in "Bb"
    return int(float(number) * (1000 if decimal else 1024) ** ("KMGT".index(unit.upper()) + 1))


def parse_listen(value: object) -> tuple[str, int] | None:
    """Host and port of `host:port`, `:port` (every address) or `[v6]:port`; None where it is none of them."""
    host, colon, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if not colon or not port.isdecimal() or len(port) > _PORT_DIGITS or int(port) > _PORT_AT_MOST:
        return None
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 - an empty host was asked for


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a policy wants a run: a cron line of five or six fields (seconds first), or an interval in seconds."""

    text: str
    interval: float | None = None  # None: `text` is a cron line

    @property
    def is_cron(self) -> bool:
        """Whether `text` is a cron line."""
        return self.interval is None

    def least_gap(self) -> float:
        """Seconds between two of its times: the least among its first ones."""
        if self.interval is not None:
            return self.interval
        from datetime import UTC, datetime

        from cronsim import CronSim

        first = list(islice(CronSim(self.text, datetime(2026, 1, 1, tzinfo=UTC)), 10))
        return min(((later - one).total_seconds() for one, later in pairwise(first)), default=inf)

    def __str__(self) -> str:
        return self.text

    @classmethod
    def parse(cls, value: object) -> Schedule:
        """Read a cron line or an interval of at least one second; raises a PydanticCustomError."""
        words = 'a cron line of five or six fields in quotes ("0 2 * * *"), or an interval ("15m", "1d")'
        if isinstance(value, cls):
            return value
        if not isinstance(value, str):
            raise expected(words)
        text = " ".join(value.split())
        seconds = parse_duration(text)
        if seconds is not None:
            if seconds < 1:
                raise expected("an interval of one second or more")
            return cls(text, seconds)
        if len(text.split()) not in {5, 6}:
            raise expected(words)
        from datetime import UTC, datetime

        from cronsim import CronSim, CronSimError

        try:
            next(CronSim(text, datetime(2026, 1, 1, tzinfo=UTC)))
        except CronSimError as error:
            raise expected(f"{words} ({error})") from None
        except StopIteration:
            raise expected("a cron line that comes true some day") from None
        return cls(text)


def _duration(value: object) -> object:
    seconds = float(value) if isinstance(value, float) else parse_duration(value)
    if seconds is None or seconds <= 0:
        raise expected('a length of time ("30s", "15m", "1h30m", "1d")')
    return seconds


def _size(value: object) -> object:
    size = parse_size(value)
    if size is None:
        raise expected('a size in bytes, or as "64 MiB", "1.5 GB"')
    return size


def whole_number(of: str, *, least: int = 0, most: int | None = None) -> BeforeValidator:
    """A whole number, strictly: `of` says of what, " of days" for one."""

    def check(value: object) -> object:
        if isinstance(value, bool) or not isinstance(value, int):
            raise expected(f"a whole number{of}")
        if value < least or (most is not None and value > most):
            bound = f"of {least} or more" if most is None else f"from {least} to {most}"
            raise expected(f"a whole number{of}, {bound}")
        return value

    return BeforeValidator(check)


def _text(value: object) -> object:
    if not isinstance(value, str) or not value.strip():
        raise expected("a text" + (" (put it in quotes)" if isinstance(value, int | float) else ""))
    return value


def _flag(value: object) -> object:
    if not isinstance(value, bool):
        raise expected("true or false")
    return value


def _name(value: object) -> object:
    if not isinstance(value, str) or not _SEGMENT.fullmatch(value):
        raise expected("a name of lower-case letters, digits, dots, dashes and underscores")
    return value


def _id(value: object) -> object:
    segments = value.split("/") if isinstance(value, str) else []
    if not segments or not all(_SEGMENT.fullmatch(segment) for segment in segments):
        raise expected('a name of lower-case letters, digits, dots, dashes and underscores, as "web1" or "db/orders"')
    taken = _RESERVED.intersection(segments[1:])
    if taken:
        raise expected(f'a name whose later parts are no folder of a repository ("{min(taken)}" is one)')
    return value


def _file_name(value: object) -> object:
    if not isinstance(value, str) or not value.strip() or "/" in value or "\0" in value or value in {".", ".."}:
        raise expected("the name of a file, without a folder")
    return value


def _absolute(value: object) -> object:
    if not isinstance(value, str) or not value.startswith("/"):
        raise expected("an absolute path")
    if "\0" in value:
        raise expected("a path without NUL")
    return os.path.normpath(value).replace("//", "/")


def _beside(value: object, info: ValidationInfo) -> object:
    if not isinstance(value, str) or not value:
        raise expected("a path")
    context: Mapping[str, str] = info.context or {}
    return os.path.normpath(os.path.join(context.get("directory", ""), os.path.expanduser(value)))


def _site_url(value: object, info: ValidationInfo) -> object:
    if not isinstance(value, str) or not value:
        raise expected("the path of a directory, or s3:https://host[:port]/bucket[/prefix]")
    if value.startswith(("http://", "https://")):
        value = f"s3:{value}"
    if not value.startswith(("s3:", "dir:", "file:")) and "://" not in value:
        return _beside(value, info)
    from shared.storage.api import Permanent
    from shared.storage.open import parse_url

    try:
        parsed = parse_url(value)
    except Permanent as error:
        raise wrong(str(error)) from None
    return value if parsed.is_s3 else parsed.path


def _listen(value: object) -> object:
    if value in {"", OFF}:
        return OFF
    if parse_listen(value) is None:
        raise expected('an address as "127.0.0.1:9321" (port 0: one that is free), or off')
    return value


def _one_or_more(value: object) -> object:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list | tuple) or not value:
        raise expected("a list with at least one entry")
    return value


def _several(value: object) -> object:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list | tuple):
        raise expected("a list")
    return value


def _moment(value: object) -> object:
    if isinstance(value, str):
        with suppress(ValueError):
            value = datetime.fromisoformat(value)
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time())
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    raise expected('a day or a time, such as 2027-01-31 or "2027-01-31T06:00:00Z" (UTC where it says no zone)')


def _program(value: object) -> object:
    if not isinstance(value, list | tuple) or not value or not all(isinstance(part, str) for part in value):
        raise expected('a list of a program and its arguments: ["pg_dump", "orders"]')
    return value


def _labels(value: object) -> object:
    if not isinstance(value, dict):
        raise expected("a mapping of labels")
    checked: dict[str, str] = {}
    for key, given in value.items():
        text = {True: "true", False: "false"}[given] if isinstance(given, bool) else given
        text = str(text) if isinstance(text, int) else text
        if not isinstance(text, str) or not LABEL.fullmatch(key) or not LABEL.fullmatch(text):
            raise expected(f"labels of letters, digits and ._/- (look at {key}; put numbers with a point in quotes)")
        checked[key] = text
    return checked


def choice(*words: str) -> BeforeValidator:
    """One of some words; an error names the nearest."""

    def check(value: object) -> object:
        if value not in words:
            raise expected(" or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0])
        return value

    return BeforeValidator(check)


def mapping_of(what: str) -> BeforeValidator:
    """A mapping; `what` says of what, for the error."""

    def check(value: object) -> object:
        if not isinstance(value, dict):
            raise expected(f"a mapping of {what}")
        return value

    return BeforeValidator(check)


Check = Callable[[Any], Any]

Text = Annotated[str, BeforeValidator(_text)]
Flag = Annotated[bool, BeforeValidator(_flag)]
Name = Annotated[str, BeforeValidator(_name)]
NAME = BeforeValidator(_name)
SiteUrl = Annotated[str, BeforeValidator(_site_url)]
Listen = Annotated[str, BeforeValidator(_listen)]  # host:port, or OFF
Id = Annotated[str, BeforeValidator(_id)]
FileName = Annotated[str, BeforeValidator(_file_name)]
Duration = Annotated[float, BeforeValidator(_duration)]  # seconds
Moment = Annotated[float, BeforeValidator(_moment)]  # POSIX seconds
Size = Annotated[int, BeforeValidator(_size)]  # bytes
AbsolutePath = Annotated[str, BeforeValidator(_absolute)]
BesidePath = Annotated[str, BeforeValidator(_beside)]  # taken from the configuration file's directory; absolute then
Program = Annotated[tuple[str, ...], BeforeValidator(_program)]
Labels = Annotated[dict[str, str], BeforeValidator(_labels)]
When = Annotated[Schedule, PlainValidator(Schedule.parse)]
OneOrMore = BeforeValidator(_one_or_more)
Several = BeforeValidator(_several)
