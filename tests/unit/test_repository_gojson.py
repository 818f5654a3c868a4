"""Go's JSON, quoting and times, held to what Go prints."""

from __future__ import annotations

import hashlib
import unicodedata

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared.repository.errors import Damaged
from shared.repository.gojson import go_quote, go_unquote, json_string, name_string, parse_time, time_string
from shared.repository.goprint import is_printable

NS = 10**9
YEAR_1 = -62135596800 * NS
YEAR_0 = YEAR_1 - 366 * 86400 * NS
YEAR_10000 = 253402300800 * NS


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", '""'),
        (b"plain-Name_1.txt", '"plain-Name_1.txt"'),
        (b'a"b\\c', '"a\\"b\\\\c"'),
        (b"<&>'", '"\\u003c\\u0026\\u003e\'"'),
        (b"\b\f\n\r\t", '"\\b\\f\\n\\r\\t"'),
        (b"\x00\x01\x0b\x1f\x7f", '"\\u0000\\u0001\\u000b\\u001f\x7f"'),
        ("é漢🙂".encode(), '"é漢🙂"'),
        ("\u2028\u2029".encode(), '"\\u2028\\u2029"'),
        ("\ufffd".encode(), '"\ufffd"'),
        (b"\xff", '"\\ufffd"'),
        (b"\xe2\x82", '"\\ufffd\\ufffd"'),
        (b"\xed\xa0\x80", '"\\ufffd\\ufffd\\ufffd"'),
        (b"\xc0\x80x\xf5", '"\\ufffd\\ufffdx\\ufffd"'),
    ],
)
def test_strings_are_gos(raw: bytes, expected: str) -> None:
    """One escape for each invalid BYTE, a genuine U+FFFD raw, the HTML characters and line separators escaped."""
    assert json_string(raw) == expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"\a\b\f\n\r\t\v", r"\a\b\f\n\r\t\v"),
        (b'"\\', r"\"\\"),
        (b"'", "'"),
        (b"\x00\x1b\x7f", r"\x00\x1b\x7f"),
        (b"\x80\xff", r"\x80\xff"),
        (b"\xe2\x82", r"\xe2\x82"),
        (b"\xed\xa0\x80", r"\xed\xa0\x80"),
        ("\x80\x9f".encode(), r"\u0080\u009f"),
        ("\u00a0\u00ad".encode(), r"\u00a0\u00ad"),
        ("\u2028\u3000\ufeff\ue000".encode(), r"\u2028\u3000\ufeff\ue000"),
        ("\u0378".encode(), r"\u0378"),
        ("\U000e0001\U0010ffff".encode(), r"\U000e0001\U0010ffff"),
        ("\ufffd é漢🙂".encode(), "\ufffd é漢🙂"),
    ],
)
def test_names_are_quoted_as_strconv_quote_does(raw: bytes, expected: str) -> None:
    """The table of escapes, and which characters are printable; each is reversible."""
    assert go_quote(raw).decode() == expected
    assert go_unquote(expected) == raw


def test_a_name_is_quoted_and_then_escaped() -> None:
    """Both layers, as in a tree: a backslash of the first is doubled by the second."""
    assert name_string(b'a\n"<\xff\\') == '"a\\\\n\\\\\\"\\u003c\\\\xff\\\\\\\\"'


def test_printable_is_what_unicode_15_says() -> None:
    """Go's own table, whatever Unicode this Python has; where the two differ, one does not know the character."""
    table = bytes(is_printable(chr(code)) for code in range(0x110000))
    assert hashlib.sha256(table).hexdigest() == "a24a109bc8e347f9490466c59e4160d0dc9dd1006a5be9a4c91af71cd2e7fa99"
    differs = [chr(code) for code in range(0x110000) if chr(code).isprintable() != bool(table[code])]
    newer = unicodedata.unidata_version > "15.0.0"
    assert [char for char in differs if not newer and unicodedata.category(char) != "Cn"] == []
    assert (is_printable("\U0001fae8"), is_printable("\U0001fae9")) == (True, False)  # of 15.0, of 16.0


@settings(max_examples=300)
@given(st.one_of(st.binary(max_size=40), st.text(max_size=20).map(lambda text: text.encode())))
@example(b"\\x41")
@example(b"\\")
def test_any_name_survives(raw: bytes) -> None:
    """Quoted and escaped, it is valid JSON in UTF-8, and comes back byte for byte."""
    encoded = name_string(raw).encode()
    assert go_unquote(orjson.loads(encoded)) == raw


@pytest.mark.parametrize("quoted", ["\\", "\\q", "\\x4", "\\xzz", "\\u12", "\\ud800", "\\U00110000", "\\777", "\\08"])
def test_a_name_that_go_would_not_unquote_is_damaged(quoted: str) -> None:
    """No guess is made of what was meant."""
    with pytest.raises(Damaged, match="not quoted as Go quotes"):
        go_unquote(quoted)


@pytest.mark.parametrize(
    ("quoted", "raw"),
    [("\\'", b"'"), ("\\101", b"A"), ("\\u00e9", "é".encode()), ("\\U0001F642", "🙂".encode()), ("\\xE9", b"\xe9")],
)
def test_what_go_reads_beyond_what_it_writes_is_read(quoted: str, raw: bytes) -> None:
    """Octal, capitals, escapes of printable characters."""
    assert go_unquote(quoted) == raw


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1, "1970-01-01T00:00:00.000000001Z"),
        (-1, "1969-12-31T23:59:59.999999999Z"),
        (120_000_000, "1970-01-01T00:00:00.12Z"),
        (-NS, "1969-12-31T23:59:59Z"),
        (1_600_000_000 * NS + 100, "2020-09-13T12:26:40.0000001Z"),
        (951782400 * NS, "2000-02-29T00:00:00Z"),
        (YEAR_1, "0001-01-01T00:00:00Z"),
        (YEAR_1 - 1, "0000-12-31T23:59:59.999999999Z"),
        (YEAR_0 + 59 * 86400 * NS, "0000-02-29T00:00:00Z"),
        (YEAR_0, "0000-01-01T00:00:00Z"),
        (YEAR_10000 - 1, "9999-12-31T23:59:59.999999999Z"),
    ],
)
def test_times_are_gos(ns: int, text: str) -> None:
    """Nanoseconds with trailing zeros cut, negative ones, year 0 (a leap year), 1 and 9999; and back."""
    assert time_string(ns) == text
    assert parse_time(text) == ns


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (YEAR_0 - 1, "0000-01-01T00:00:00Z"),
        (-(2**63), "1677-09-21T00:12:43.145224192Z"),
        (-(2**80), "0000-01-01T00:00:00Z"),
        (YEAR_10000, "9999-12-31T23:59:59Z"),
        (2**80 + 5, "9999-12-31T23:59:59Z"),
    ],
)
def test_times_beyond_what_json_can_say_are_clamped(ns: int, text: str) -> None:
    """Never an exception in the middle of a scan, and never a year of five digits."""
    assert time_string(ns) == text


@settings(max_examples=200)
@given(st.integers(YEAR_0, YEAR_10000 - 1))
def test_any_time_survives(ns: int) -> None:
    """To the nanosecond."""
    assert parse_time(time_string(ns)) == ns


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("2020-09-13T14:26:40+02:00", 1_600_000_000 * NS),
        ("2020-09-13T05:56:40.5-06:30", 1_600_000_000 * NS + NS // 2),
        ("0000-12-31T23:00:00-01:00", YEAR_1),
    ],
)
def test_offsets_are_read(text: str, ns: int) -> None:
    """As restic writes them in a time zone of its own."""
    assert parse_time(text) == ns


@pytest.mark.parametrize(
    "text",
    ["", "Z", "now", "2020-09-13", "2020-09-13T12:26:40", "2020-13-01T00:00:00Z", "2020-01-01T00:00:00.Z",
     "2020-01-01T25:00:00Z", "2020-01-01T00:00:00.1x3Z", "2020-01-01t00:00:00Zjunk", "9999999-01-01T00:00:00Z",
     "2020-01-01T00:00:00+1:00", "-001-01-01T00:00:00Z"],
)  # fmt: skip
def test_what_is_no_time_is_damaged(text: str) -> None:
    """Only RFC 3339 with a zone is a time."""
    with pytest.raises(Damaged, match="not RFC 3339"):
        parse_time(text)
