"""The limits within which the failover's machine acts, as a fleet's configuration has them. Times in seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rules:
    """`observers`: so many places at least must agree; fewer where fewer are heard of.

    `down_after` and `down_times`: for how long, and in how many looks in a row, a site must be down. `back_after`: for
    how long it must work again. `old`: an observation that is older counts nothing. `takes_over_after`: somebody who
    was about to act, and is not heard of for so long, is taken for dead. `at_most` moves in an hour.
    """

    automatic: bool = True
    observers: int = 2
    down_after: float = 10.0
    down_times: int = 3
    back_after: float = 30.0
    old: float = 10.0
    grace: float = 20.0
    cool_down: float = 600.0
    at_most: int = 4
    takes_over_after: float = 30.0
    fails_back: bool = False
