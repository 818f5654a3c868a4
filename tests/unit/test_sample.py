"""The draw of a restore test: repeatable, bounded, and fair."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from workers.maintenance.sample import Candidate, Sample

RUNS = [f"{number:032x}" for number in range(200)]


def draw(sizes: list[int], run: str = RUNS[0], count: int = 5, budget: int = 1000) -> list[Candidate]:
    """What is drawn from files of these sizes."""
    sample = Sample(run, count, budget)
    for number, size in enumerate(sizes):
        sample.offer(Candidate(b"d/f%d" % number, size, size, 0o644, 0))
    return sample.drawn()


def test_a_run_draws_the_same_again_and_another_run_others() -> None:
    """In whatever order the files are met."""
    candidates = [Candidate(b"f%d" % number, 1, 1, 0o644, 0) for number in range(100)]
    found = []
    for run, seed in ((RUNS[0], 1), (RUNS[0], 2), (RUNS[1], 1)):
        sample = Sample(run, 10, 1000)
        for one in random.Random(seed).sample(candidates, 100):
            sample.offer(one)
        found.append(sample.drawn())
    assert found[0] == found[1]
    assert [len(drawn) for drawn in found] == [10, 10, 10]
    assert set(found[0]) != set(found[2])


@given(st.lists(st.integers(0, 500), max_size=30), st.integers(1, 12), st.integers(0, 1500), st.sampled_from(RUNS))
def test_what_is_drawn_is_bounded(sizes: list[int], count: int, budget: int, run: str) -> None:
    """At most so many, no more bytes than allowed unless it is one file, and one at least where there is any."""
    drawn = draw(sizes, run, count, budget)
    assert len(drawn) <= count
    assert len({one.path for one in drawn}) == len(drawn)
    assert sum(one.size for one in drawn) <= budget or len(drawn) == 1
    assert bool(drawn) == bool(sizes)


@given(st.lists(st.integers(0, 500), max_size=30), st.integers(1, 12), st.sampled_from(RUNS))
def test_those_with_the_smallest_hashes_are_drawn(sizes: list[int], count: int, run: str) -> None:
    """A smaller draw of a run is the beginning of a larger one: so nothing depends on what was met first."""
    everything = draw(sizes, run, 100, 10**9)
    assert len(everything) == len(sizes)
    assert draw(sizes, run, count, 10**9) == everything[:count]


def test_a_file_has_its_turn_whatever_its_size() -> None:
    """One that is larger than all that may be drawn is drawn first in its share of runs, and then alone."""
    sizes = [5000, *[10] * 9]
    first = Counter(draw(sizes, run)[0].size for run in RUNS)
    assert 8 <= first[5000] <= 36  # 20 of 200 are expected
    alone = [drawn for drawn in (draw(sizes, run) for run in RUNS) if any(one.size == 5000 for one in drawn)]
    assert {len(drawn) for drawn in alone} == {1}
    assert len(alone) == first[5000]


def test_what_does_not_fit_is_passed_over() -> None:
    """Smaller ones behind it are still drawn."""
    sizes = [600, 600, 100, 100]
    drawn = [sorted(one.size for one in draw(sizes, run)) for run in RUNS]
    assert [100, 100, 600] in drawn
    assert all(sum(sizes) <= 1000 for sizes in drawn)
