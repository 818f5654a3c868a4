"""Who is believed: shared.messaging.signed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shared.messaging import signed
from shared.messaging.signed import EARLY, FORGED, LARGE, MALFORMED, OLD, REPEATED, Judge, Sealer, event_key

KEY = event_key(b"s" * 32)
NOW = 1_800_000_000.0


class Clock:
    """One that is set."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        """The time."""
        return self.now


def sealed(at: float = NOW, by: str = "probes@a", key: bytes = KEY, **said: Any) -> dict[str, Any]:
    """One event."""
    return Sealer(key, by, clock=lambda: at).seal("site.seen", {"site": "fra", **said})


def judge() -> Judge:
    """One who believes what is a minute old."""
    return Judge(KEY, max_age=60.0, ahead=5.0, clock=lambda: NOW)


def test_what_is_sealed_is_believed_once() -> None:
    """As it was said; heard again, or before what was heard already, it is not."""
    clock, hearer = Clock(), judge()
    speaker = Sealer(KEY, "probes@a", clock=clock)
    first, second, third = (json.dumps(speaker.seal("site.seen", {"site": "fra", "n": number})) for number in range(3))
    event = hearer.judge(first)
    assert event is not None
    assert (event.name, event.by, event.at, event.said) == ("site.seen", "probes@a", NOW, {"site": "fra", "n": 0})
    assert [hearer.judge(raw) is not None for raw in (first, third, second, third.encode())] == [
        False,
        True,
        False,
        False,
    ]
    assert hearer.ignored == {REPEATED: 3}
    assert hearer.judge(json.dumps(sealed(by="probes@b"))) is not None  # each speaker has numbers of his own


def test_numbers_rise_over_restarts_and_a_clock_that_is_set_back() -> None:
    """They begin with the time, and never fall in one process."""
    clock = Clock()
    speaker = Sealer(KEY, "probes@a", clock=clock)
    before = [speaker.seal("x", {})["n"] for _ in range(3)]
    clock.now -= 3600
    after = speaker.seal("x", {})["n"]
    clock.now = NOW + 1
    assert [*before, after, Sealer(KEY, "probes@a", clock=clock).seal("x", {})["n"]] == sorted(
        {*before, after, int((NOW + 1) * 1000)}
    )


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (sealed(NOW - 61), OLD),
        (sealed(NOW + 6), EARLY),
        (sealed(key=event_key(b"t" * 32)), FORGED),
        (sealed() | {"by": "probes@b"}, FORGED),
        (sealed() | {"n": 2**62}, FORGED),
        (sealed() | {"at": NOW + 1}, FORGED),
        (sealed() | {"event": "snapshot.committed"}, FORGED),
        (sealed() | {"said": {"site": "ams"}}, FORGED),
        (sealed() | {"more": 1}, FORGED),
        (sealed() | {"mac": "00" * 32}, FORGED),
        (sealed() | {"mac": "\udcff"}, FORGED),
        (sealed() | {"v": 2}, MALFORMED),
        (sealed() | {"mac": None}, MALFORMED),
        (sealed() | {"n": -1}, MALFORMED),
        (sealed() | {"n": True}, MALFORMED),
        (sealed() | {"at": "now"}, MALFORMED),
        (sealed() | {"by": ""}, MALFORMED),
        (sealed() | {"by": "x" * 201}, MALFORMED),
        (sealed() | {"said": []}, MALFORMED),
        ({name: value for name, value in sealed().items() if name != "n"}, MALFORMED),
    ],
)
def test_what_is_not_to_be_believed_is_counted_by_its_reason(event: dict[str, Any], reason: str) -> None:
    """Altered in any part, too old, too early, or no event."""
    hearer = judge()
    assert hearer.judge(json.dumps(event)) is None
    assert hearer.ignored == {reason: 1}
    assert hearer.judge(json.dumps(sealed())) is not None  # and it has spoilt nothing for the true one


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff\xfe",
        "what?",
        "7",
        "null",
        "[]",
        "{}",
        "[" * 4000,
        "1" * 4096,
        '{"mac": NaN}',
        '{"at": 1e999, "mac": ""}',
    ],
)
def test_what_is_no_event_raises_nothing(raw: bytes | str) -> None:
    """Whatever lies in a queue."""
    hearer = judge()
    assert hearer.judge(raw) is None
    assert hearer.ignored == {MALFORMED: 1}


def test_what_is_too_large_is_not_even_read_nor_sent() -> None:
    """Four kilobytes are enough for all that there is to say."""
    hearer = judge()
    assert hearer.judge(json.dumps(sealed()) + " " * signed.SIZE_AT_MOST) is None
    assert hearer.ignored == {LARGE: 1}
    with pytest.raises(ValueError, match="at most 4096 bytes"):
        sealed(why="x" * signed.SIZE_AT_MOST)


def test_the_numbers_of_many_speakers_take_no_room_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those go first whose events would be too old now; nothing that was heard is believed again for that."""
    monkeypatch.setattr(signed, "_SPEAKERS", 3)
    hearer = judge()
    raws = [json.dumps(sealed(NOW - 30 + number, by=f"s{number}")) for number in range(6)]
    assert all(hearer.judge(raw) for raw in raws)
    assert len(hearer._heard) == 3
    assert hearer.judge(raws[-1]) is None
