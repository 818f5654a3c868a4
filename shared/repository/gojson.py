r"""Go's JSON, byte for byte: equal bytes are what lets trees deduplicate against trees that restic wrote.

No spaces; <, >, &, U+2028 and U+2029 escaped; other non-ASCII raw; each invalid byte becomes the six
characters \ufffd. A node's name is first quoted as Go's strconv.Quote does, so that any bytes survive.
Times are RFC 3339 with nanoseconds, trailing zeros cut.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from shared.repository.errors import Damaged
from shared.repository.goprint import is_printable

_SAFE = re.compile(rb"[ !#-%\'-;=?-\[\]-~]*")
_JSON_SPECIAL = re.compile('["\\\\<>&\x00-\x1f\u2028\u2029\udc80-\udcff]')
_JSON_SHORT = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}
_GO_SHORT = {
    '"': '\\"', "\\": "\\\\", "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v",
}  # fmt: skip
_GO_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|(.?))", re.DOTALL)
_GO_UNSHORT = {short[1:].encode(): char.encode() for char, short in _GO_SHORT.items()} | {b"'": b"'"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NS = 10**9
_DAY_SECONDS = 86400
_YEAR_0 = -719528  # days from the epoch to 0000-01-01
_YEAR_1 = -719162
_YEAR_10000 = 2932897
_400_YEARS = 146097  # days
_MINUTES = [f"{minute // 60:02d}:{minute % 60:02d}:" for minute in range(1440)]
_SECONDS = [f"{second:02d}" for second in range(60)]
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:Z|([+-])(\d\d):(\d\d))")


def _json_escape(match: re.Match[str]) -> str:
    char = match[0]
    short = _JSON_SHORT.get(char)
    if short:
        return short
    if "\udc80" <= char <= "\udcff":  # an invalid byte, as surrogateescape has it
        return "\\ufffd"
    return f"\\u{ord(char):04x}"


def json_string(raw: bytes) -> str:
    """The JSON string, with its quotes, that Go writes for these bytes (invalid ones are lost, as in Go)."""
    if _SAFE.fullmatch(raw):
        return f'"{raw.decode("ascii")}"'
    return f'"{_JSON_SPECIAL.sub(_json_escape, raw.decode("utf-8", "surrogateescape"))}"'


def go_quote(raw: bytes) -> bytes:
    """Go's strconv.Quote without its outer quotes: reversible for any bytes."""
    out = []
    for char in raw.decode("utf-8", "surrogateescape"):
        short = _GO_SHORT.get(char)
        if short:
            out.append(short)
        elif "\udc80" <= char <= "\udcff":
            out.append(f"\\x{ord(char) - 0xDC00:02x}")
        elif is_printable(char):
            out.append(char)
        elif char < " " or char == "\x7f":
            out.append(f"\\x{ord(char):02x}")
        elif char < "\U00010000":
            out.append(f"\\u{ord(char):04x}")
        else:
            out.append(f"\\U{ord(char):08x}")
    return "".join(out).encode()


def _go_unescape(match: re.Match[bytes]) -> bytes:
    byte, short_rune, long_rune, octal, other = match.groups()
    if byte:
        return bytes((int(byte, 16),))
    if short_rune or long_rune:
        return chr(int(short_rune or long_rune, 16)).encode()
    if octal:
        return bytes((int(octal, 8),))
    return _GO_UNSHORT[other]


def go_unquote(quoted: str) -> bytes:
    """The bytes that `go_quote` took. Raises Damaged."""
    try:
        raw = quoted.encode()
        return _GO_ESCAPE.sub(_go_unescape, raw) if b"\\" in raw else raw
    except (ValueError, KeyError, OverflowError) as error:
        raise Damaged(f"name {quoted!r}: not quoted as Go quotes") from error


def name_string(name: bytes) -> str:
    """A node's name as the JSON string, with its quotes, that restic writes."""
    if _SAFE.fullmatch(name):
        return f'"{name.decode("ascii")}"'
    return json_string(go_quote(name))


@lru_cache(maxsize=4096)
def _day(days: int) -> str:
    if days < _YEAR_1:  # datetime knows no year 0: the calendar repeats every 400 years
        return f"0000{_day(days + _400_YEARS)[4:]}"
    return f"{(_EPOCH + timedelta(days=days)).date().isoformat()}T"


def time_string(ns: int) -> str:
    """Nanoseconds since 1970 as RFC 3339 in UTC; years beyond 0 to 9999 are clamped."""
    seconds, fraction = divmod(ns, _NS)
    days, rest = divmod(seconds, _DAY_SECONDS)
    if not _YEAR_0 <= days < _YEAR_10000:
        days, rest = (_YEAR_0, 0) if days < _YEAR_0 else (_YEAR_10000 - 1, _DAY_SECONDS - 1)
        fraction = 0
    minute, second = divmod(rest, 60)
    if fraction:
        digits = ("%09d" % fraction).rstrip("0")  # noqa: UP031 - half the time of a format string's
        return f"{_day(days)}{_MINUTES[minute]}{_SECONDS[second]}.{digits}Z"
    return f"{_day(days)}{_MINUTES[minute]}{_SECONDS[second]}Z"


@lru_cache(maxsize=16384)
def _parse_second(text: str) -> int:
    if text.startswith("0000"):
        return _parse_second(f"0400{text[4:]}") - _400_YEARS * _DAY_SECONDS
    return int((datetime.fromisoformat(text).replace(tzinfo=UTC) - _EPOCH) // timedelta(seconds=1))


def parse_time(text: str) -> int:
    """Nanoseconds since 1970 of an RFC 3339 time. Raises Damaged."""
    try:
        if text[-1] == "Z" and len(text) >= 20:
            seconds = _parse_second(text[:19])
            if len(text) == 20:
                return seconds * _NS
            if text[19] == "." and text[20:-1].isdecimal():
                return seconds * _NS + int(text[20:-1][:9].ljust(9, "0"))
        match = _TIME.fullmatch(text)
        if not match:
            raise ValueError(text)
        whole, fraction, sign, hours, minutes = match.groups()
        offset = (int(hours) * 3600 + int(minutes) * 60) * (-1 if sign == "-" else 1) if sign else 0
        return (_parse_second(whole) - offset) * _NS + int((fraction or "0").ljust(9, "0"))
    except (ValueError, IndexError, OverflowError) as error:
        raise Damaged(f"time {text!r}: not RFC 3339") from error
