"""When a store tries again, and when it gives up."""

from __future__ import annotations

import pytest

from shared.storage import MissingObject, Permanent, Transient
from shared.storage.retry import RetryPolicy


class _Time:
    """A clock that only sleeping, and what an attempt takes, moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def policy(self, deadline: float, draw: float = 1.0) -> RetryPolicy:
        return RetryPolicy(deadline=deadline, sleep=self.sleep, clock=lambda: self.now, draw=lambda: draw)


def _failing(times: int, error: Exception) -> object:
    def attempt() -> int:
        attempt.calls += 1  # type: ignore[attr-defined]
        if attempt.calls <= times:  # type: ignore[attr-defined]
            raise error
        return 7

    attempt.calls = 0  # type: ignore[attr-defined]
    return attempt


def test_waits_double_up_to_the_longest() -> None:
    """0.1 s, then twice that each time, never more than 5 s."""
    time = _Time()
    assert time.policy(60.0).run(_failing(8, Transient("x"))) == 7  # type: ignore[arg-type]
    assert time.slept == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])


def test_the_jitter_is_full() -> None:
    """A wait is anything from zero to its bound, so that clients do not come back in step."""
    time = _Time()
    time.policy(60.0, draw=0.0).run(_failing(3, Transient("x")))  # type: ignore[arg-type]
    assert time.slept == [0.0, 0.0, 0.0]


def test_the_last_error_says_how_long_it_was_tried() -> None:
    """After the deadline: the reason, the number of tries, the time, and the way out that the error had."""
    time = _Time()
    with pytest.raises(Transient) as failed:
        time.policy(1.0).run(_failing(99, Transient("site a: unavailable", hint="Start it")))  # type: ignore[arg-type]
    assert str(failed.value) == "site a: unavailable, given up after 4 tries in 0.7 s. Start it"
    assert sum(time.slept) <= 1.0


def test_a_slow_first_try_does_not_use_up_the_deadline() -> None:
    """It counts from the first failure: a pack that took ten minutes to fail is sent again."""
    time = _Time()
    calls = []

    def attempt() -> str:
        calls.append(time.now)
        time.now += 600.0
        if len(calls) == 1:
            raise Transient("x")
        return "stored"

    assert time.policy(60.0).run(attempt) == "stored"


@pytest.mark.parametrize("error", [MissingObject("x"), Permanent("x"), ValueError("x")])
def test_only_what_may_pass_is_tried_again(error: Exception) -> None:
    """Everything else goes up at once, as it is."""
    time = _Time()
    with pytest.raises(type(error)) as raised:
        time.policy(60.0).run(_failing(1, error))  # type: ignore[arg-type]
    assert raised.value is error
    assert time.slept == []


def test_without_a_deadline_to_spend_there_is_one_try() -> None:
    """A deadline of zero means: ask once; the error is the first one, unchanged."""
    time = _Time()
    error = Transient("x")
    with pytest.raises(Transient) as raised:
        time.policy(0.0).run(_failing(1, error))  # type: ignore[arg-type]
    assert raised.value is error
