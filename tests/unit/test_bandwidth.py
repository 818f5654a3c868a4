"""The arithmetic of a line, and its state in a file, by a clock of one's own: rates, bucket, throttled of storage."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from shared.storage import bucket as bucket_module
from shared.storage import open_store
from shared.storage.bucket import Bucket
from shared.storage.rates import CREDIT, STRETCH, Rates, grant
from shared.storage.throttled import Pacer, Throttle
from tests.support.limited import Counted

MB = 1_000_000
BERLIN = "Europe/Berlin"


class Clock:
    """Time that passes only where one sleeps."""

    def __init__(self, wall: float = 0.0) -> None:
        self.now = 1000.0
        self._ahead = wall - self.now

    def __call__(self) -> float:
        """Seconds."""
        return self.now

    def wall(self) -> float:
        """The same, as POSIX seconds."""
        return self.now + self._ahead

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        assert seconds > 0
        self.now += seconds


class Line:
    """Several who share a file, each as if in a process of its own."""

    def __init__(self, folder: Path, rates: Rates, wall: float = 0.0) -> None:
        self.path = folder / "limits" / "upload"
        self.clock = Clock(wall)
        self._rates = rates

    def bucket(self) -> Bucket:
        """One more who uses it."""
        return Bucket(str(self.path), self._rates, clock=self.clock, wall=self.clock.wall)

    def pacer(self, look: Callable[[], bool] = lambda: False) -> Pacer:
        """The same, waiting."""
        return Pacer([self.bucket()], look, clock=self.clock, sleep=self.clock.sleep)

    def seconds(self, count: int, pacer: Pacer | None = None) -> float:
        """How long it takes until so many bytes may pass."""
        began = self.clock.now
        (pacer or self.pacer()).pay(count)
        return self.clock.now - began


def at(text: str) -> float:
    """A time in POSIX seconds."""
    return datetime.fromisoformat(text).astimezone(UTC).timestamp()


# -- the rate of an hour ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("when", "rate"),
    [
        ("07:59:59", 9),
        ("08:00:00", 1),
        ("17:59:59", 1),
        ("18:00", 9),
        ("21:59:59", 9),
        ("22:00", 2),
        ("23:59:59", 2),
        ("00:00", 2),
        ("05:59:59", 2),
        ("06:00", 9),
    ],
)
def test_a_window_holds_from_its_first_minute_to_before_its_last(when: str, rate: int) -> None:
    """Also over midnight."""
    rates = Rates(9, ((480, 1080, 1), (1320, 360, 2)), "UTC")
    assert rates.at(at(f"2026-03-04T{when}+00:00")) == rate


@pytest.mark.parametrize(
    ("when", "rate"),
    [
        ("2026-03-28T01:30:00+00:00", 5),  # 02:30, the day before
        ("2026-03-29T00:59:59+00:00", 9),  # 01:59:59, then the clock goes on to 03:00
        ("2026-03-29T01:00:00+00:00", 9),
        ("2026-10-25T00:30:00+00:00", 5),  # 02:30 for the first time
        ("2026-10-25T01:30:00+00:00", 5),  # and for the second
        ("2026-10-25T02:00:00+00:00", 9),
    ],
)
def test_windows_follow_the_clock_on_the_wall(when: str, rate: int) -> None:
    """An hour that is skipped in spring has no window, one that comes twice in autumn has it twice."""
    assert Rates(9, ((120, 180, 5),), BERLIN).at(at(when)) == rate


def test_without_a_time_zone_it_is_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    """As its administrator reads the clock."""
    try:
        for zone, rate in (("Asia/Tokyo", 5), ("UTC", 9)):
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            assert Rates(9, ((9 * 60, 10 * 60, 5),)).at(at("2026-03-04T00:30:00+00:00")) == rate
    finally:
        monkeypatch.undo()
        time.tzset()


# -- the line ---------------------------------------------------------------------------------------


def test_a_grant_is_a_stretch_of_the_line() -> None:
    """Never more than a stretch, never nothing, and due once it is over."""
    assert grant(Rates(MB), 50.0, 9 * MB, now=50.0, wall=0.0) == (int(MB * STRETCH), 50.0 + STRETCH, 50.0 + STRETCH)
    assert grant(Rates(MB), 60.0, 1000, now=50.0, wall=0.0) == (1000, 60.001, 60.001)
    assert grant(Rates(1), 50.0, 7, now=50.0, wall=0.0) == (1, 51.0, 51.0)
    assert grant(Rates(), 50.0, 9 * MB, now=50.0, wall=0.0).size == 9 * MB


def test_an_idle_line_makes_up_for_little(tmp_path: Path) -> None:
    """However long nothing was sent: bytes take their time, but for that of the credit."""
    line = Line(tmp_path, Rates(MB))
    assert line.seconds(10 * MB) == pytest.approx(10 - CREDIT)
    line.clock.sleep(3600)
    assert line.seconds(10 * MB) == pytest.approx(10 - CREDIT)
    assert line.seconds(10 * MB) == pytest.approx(10)


def test_all_who_share_a_line_keep_to_it_together(tmp_path: Path) -> None:
    """Whoever asks at whatever time: what may pass until t is rate * (t + credit) at most, and nothing is wasted."""
    line = Line(tmp_path, Rates(MB))
    began = line.clock.now
    waiting = [(began, 0, line.bucket(), 3 * MB) for _ in range(8)]  # due, given, bucket, left
    passed, last = 0, 0.0
    while waiting:
        waiting.sort(key=lambda one: one[0])
        due, given, bucket, left = waiting.pop(0)
        line.clock.now = max(line.clock.now, due)
        passed, last = passed + given, line.clock.now - began
        assert passed <= MB * (last + CREDIT) + 1
        if left:
            given, due = bucket.take(left)
            waiting.append((due, given, bucket, left - given))
    assert (passed, last) == (24 * MB, pytest.approx(24 - CREDIT))


def test_a_rate_changes_while_one_waits(tmp_path: Path) -> None:
    """From 10 MB to 1 MB at midnight: 30 MB from two seconds before it take 2 and 10 seconds; and the other way."""
    rates = Rates(10 * MB, ((0, 360, MB),), BERLIN)
    line = Line(tmp_path, rates, wall=at("2026-03-03T22:59:58+00:00"))
    line.pacer().pay(int(10 * MB * CREDIT))  # what had not been used
    assert line.seconds(30 * MB) == pytest.approx(2 + 10, abs=2 * STRETCH)
    line = Line(tmp_path / "b", rates, wall=at("2026-03-04T04:59:58+00:00"))
    line.pacer().pay(int(MB * CREDIT))
    assert line.seconds(22 * MB) == pytest.approx(2 + 2, abs=2 * STRETCH)


def test_hours_without_a_limit_hold_nothing_up(tmp_path: Path) -> None:
    """Windows alone: what lies outside of them passes at once, in one piece."""
    line = Line(tmp_path, Rates(0, ((480, 1080, MB),), "UTC"), wall=at("2026-03-04T20:00:00+00:00"))
    assert line.seconds(1000 * MB) == 0
    assert [len(part) for part in line.pacer().parts(memoryview(bytes(9 * MB)))] == [9 * MB]


def test_of_two_lines_the_slower_one_counts(tmp_path: Path) -> None:
    """They are taken at the same time: the machine's 4 MB/s are no reason to wait longer for the site's 1 MB/s."""
    slow, fast = Line(tmp_path / "site", Rates(MB)), Line(tmp_path / "machine", Rates(4 * MB))
    fast.clock = slow.clock
    pacer = Pacer([slow.bucket(), fast.bucket()], clock=slow.clock, sleep=slow.clock.sleep)
    assert slow.seconds(8 * MB, pacer) == pytest.approx(8 - CREDIT)
    assert fast.seconds(8 * MB) == pytest.approx(2 - CREDIT)  # what the slow one left of it is others'


def test_what_is_sent_is_sent_evenly(tmp_path: Path) -> None:
    """In parts of a stretch, each once it may pass, and all of it in order."""
    line = Line(tmp_path, Rates(MB))
    data = os.urandom(MB)
    parts = [(line.clock.now, bytes(part)) for part in line.pacer().parts(memoryview(data))]
    assert b"".join(part for _, part in parts) == data
    assert {len(part) for _, part in parts} == {int(MB * STRETCH)}
    assert max(later - earlier for (earlier, _), (later, _) in itertools.pairwise(parts)) <= STRETCH * 1.01


# -- whoever waits ----------------------------------------------------------------------------------


def test_who_waits_may_be_told_to_go_on(tmp_path: Path) -> None:
    """An engine that is to stop does not wait for its last words."""
    line = Line(tmp_path, Rates(MB))
    assert line.seconds(100 * MB, line.pacer(lambda: line.clock.now >= 1003)) == pytest.approx(3, abs=0.2)


def test_who_waits_may_be_told_to_end(tmp_path: Path) -> None:
    """As a helper is whose coordinator is gone."""
    line = Line(tmp_path, Rates(MB))

    def look() -> bool:
        if line.clock.now >= 1003:
            raise ConnectionAbortedError
        return False

    with pytest.raises(ConnectionAbortedError):
        line.pacer(look).pay(100 * MB)
    assert line.clock.now == pytest.approx(1003, abs=0.2)


# -- the file ---------------------------------------------------------------------------------------


def _other_boot(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[8:24] = os.urandom(16)
    path.write_bytes(data[:32] + bucket_module._CRC.pack(bucket_module.zlib.crc32(data[:32])))


def _ten_years_ahead(path: Path) -> None:
    data = path.read_bytes()[:24] + bucket_module.struct.pack("<d", 1000 + 10 * 365 * 86400.0)
    path.write_bytes(data + bucket_module._CRC.pack(bucket_module.zlib.crc32(data)))


def _no_number(path: Path) -> None:
    data = path.read_bytes()[:24] + bucket_module.struct.pack("<d", float("nan"))
    path.write_bytes(data + bucket_module._CRC.pack(bucket_module.zlib.crc32(data)))


HARM: dict[str, Callable[[Path], object]] = {
    "deleted": lambda path: path.unlink(),
    "its directory deleted": lambda path: (path.unlink(), path.parent.rmdir()),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:20]),
    "garbage": lambda path: path.write_bytes(os.urandom(36)),
    "too long": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "of another boot": _other_boot,
    "years ahead": _ten_years_ahead,
    "no number": _no_number,
}


@pytest.mark.parametrize("harm", HARM)
def test_a_harmed_file_does_no_harm(tmp_path: Path, harm: str) -> None:
    """Who used the line goes on at its rate, who comes new is not held up by what never was, and both share again."""
    line = Line(tmp_path, Rates(MB))
    old = line.pacer()
    old.pay(5 * MB)
    HARM[harm](line.path)
    assert line.seconds(5 * MB, old) == pytest.approx(5)
    HARM[harm](line.path)
    new = line.pacer()
    assert line.seconds(5 * MB, new) == pytest.approx(5 - CREDIT)
    assert line.seconds(5 * MB, old) == pytest.approx(5)
    assert (line.path.stat().st_size, line.path.stat().st_mode & 0o777) == (bucket_module._SIZE, 0o600)


def _no_room(path: Path) -> None:
    path.parent.write_bytes(b"")


def _a_directory(path: Path) -> None:
    path.mkdir(parents=True)


def _a_link(path: Path) -> None:
    path.parent.mkdir()
    path.symlink_to(path.parent / "elsewhere")


def _a_fifo(path: Path) -> None:
    path.parent.mkdir()
    os.mkfifo(path)


@pytest.mark.parametrize("spoil", [_no_room, _a_directory, _a_link, _a_fifo])
def test_where_no_file_can_be_used_each_keeps_to_the_rate_by_itself(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    """Nothing fails for want of it, and nothing is written through it; a few seconds later it is tried again."""
    line = Line(tmp_path, Rates(MB))
    spoil(line.path)
    pacer = line.pacer()
    assert line.seconds(5 * MB, pacer) == pytest.approx(5 - CREDIT)
    assert not (tmp_path / "limits" / "elsewhere").exists()
    if spoil is _no_room:
        line.path.parent.unlink()
        pacer.pay(10 * MB)
        assert line.seconds(5 * MB) == pytest.approx(5)  # another one hears of it


# -- a store ----------------------------------------------------------------------------------------


def test_a_directory_pays_for_content_alone_and_for_all_of_it(tmp_path: Path) -> None:
    """Each way to write and to read; what is below a prefix, too; a listing is free."""
    up, down = Counted(), Counted()
    store = open_store(str(tmp_path), throttle=Throttle(up, down)).below("repos/web1")
    store.put("a", b"1")
    assert store.put_if_absent("b", b"22")
    staged = store.stage("data/")
    staged.write(memoryview(b"333"))
    staged.write(b"4444")
    staged.publish("data/c", sha256="")
    staged.discard()
    data, version = store.get_versioned("b")
    assert store.compare_and_swap("b", b"55555", version=version)
    assert (data, store.get("data/c"), store.get_range("data/c", 2, 3)) == (b"22", b"3334444", b"344")
    assert sorted((one.key, store.stat(one.key).size) for one in store.list("")) == [("a", 1), ("b", 5), ("data/c", 7)]
    store.delete("a")
    assert store.clock() > 0
    assert store.probe().put_if_absent
    assert (up.paid[:5], down.paid[:3]) == ([1, 2, 3, 4, 5], [2, 7, 3])
    store.close()


def test_one_direction_alone_may_be_limited(tmp_path: Path) -> None:
    """The other one is free."""
    up = Counted()
    store = open_store(str(tmp_path), throttle=Throttle(upload=up))
    store.put("a", b"1")
    assert (store.get("a"), up.paid) == (b"1", [1])


def test_without_limits_a_store_is_what_it_was(tmp_path: Path) -> None:
    """No wrapper is in the way."""
    assert type(open_store(str(tmp_path))).__name__ == "DirectoryStore"
