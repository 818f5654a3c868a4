"""Where files are cut: golden cut points, so that no new version of the library silently ends deduplication."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

import pytest

from shared.repository.chunker import AVERAGE_SIZE, MAX_SIZE, MIN_SIZE, NORMALISATION, FastCdcChunker, seed_for
from shared.repository.crypto import MasterKey

KEY = MasterKey.from_bytes(bytes(range(1, 65)))
SEED = 0x1234_5678_9ABC_DEF0
GOLDEN = [
    1126117,
    1126739,
    1437282,
    894832,
    1496337,
    943439,
    1127174,
    1441900,
    612897,
    867265,
    2355084,
    1311200,
    923793,
    1572996,
    1294226,
    1194844,
    785967,
    459428,
]
GOLDEN_SEED = 5221299719857027793
GOLDEN_TEXT = [945990, 1124643, 768512, 349745]


def noise(size: int, label: bytes = b"holdfast") -> bytes:
    """Bytes that are the same everywhere and for ever."""
    return hashlib.shake_256(label).digest(size)


def cut(data: bytes, seed: int = SEED) -> list[int]:
    """The lengths of all chunks."""
    return list(FastCdcChunker(seed).cut(memoryview(data), final=True))


def test_golden_cut_points() -> None:
    """20 MiB of noise with a fixed seed; and the seed that follows from a fixed key."""
    assert cut(noise(20 << 20)) == GOLDEN
    assert seed_for(KEY) == GOLDEN_SEED
    text = b"".join(b"line %d of a log that repeats itself\n" % number for number in range(80_000))
    assert cut(text, GOLDEN_SEED) == GOLDEN_TEXT


def test_the_settings_are_those_of_the_format() -> None:
    """512 KiB, 1 MiB, 8 MiB, normalisation 1: they are part of what makes cut points the same."""
    assert (MIN_SIZE, AVERAGE_SIZE, MAX_SIZE, NORMALISATION) == (512 << 10, 1 << 20, 8 << 20, 1)


def test_zeros_are_cut_at_the_maximum() -> None:
    """As nothing in them ever matches; the rest is a chunk of its own."""
    assert cut(bytes((20 << 20) + 5)) == [8 << 20, 8 << 20, (4 << 20) + 5]


@pytest.mark.parametrize("size", [0, 1, MIN_SIZE - 1, MIN_SIZE])
def test_small_files_are_one_chunk(size: int) -> None:
    """Up to the minimum; an empty file has none."""
    assert cut(noise(size)) == ([size] if size else [])


def test_another_seed_cuts_elsewhere() -> None:
    """So the lengths of a known file's chunks say nothing without the key."""
    data = noise(8 << 20)
    assert len({tuple(cut(data, seed)) for seed in (1, 2, SEED, 2**63 - 1)}) == 4


def test_a_seed_is_never_zero_nor_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library refuses both: 63 bits of an HMAC, and 1 where those are 0."""

    class Zeros:
        def digest(self) -> bytes:
            return b"\x80" + bytes(31)

    assert 0 < seed_for(KEY) < 2**63
    monkeypatch.setattr("shared.repository.chunker.hmac.new", lambda *_: Zeros())
    assert seed_for(KEY) == 1
    FastCdcChunker(2**63 - 1)


def windows(data: bytes, sizes: Iterator[int]) -> list[int]:
    """The lengths when the file is presented in pieces, what is left over each time with what follows it."""
    chunker = FastCdcChunker(SEED)
    lengths = []
    rest, at = b"", 0
    while True:
        size = next(sizes)
        whole = rest + data[at : at + size]
        at += size
        found = list(chunker.cut(memoryview(whole), final=at >= len(data)))
        lengths += found
        rest = whole[sum(found) :]
        if at >= len(data):
            assert rest == b""
            return lengths


@pytest.mark.parametrize("seed", range(5))
def test_how_a_file_is_read_does_not_matter(seed: int) -> None:
    """In windows of any size from a chunk's maximum up, zeros among the noise: the same cuts as in one piece."""
    rng = random.Random(seed)
    print(f"seed {seed}")  # noqa: T201 -- what repeats a failure
    data = b"".join(
        bytes(rng.randrange(10 << 20)) if rng.random() < 0.3 else noise(rng.randrange(6 << 20), bytes((seed, part)))
        for part in range(6)
    )
    assert windows(data, iter(lambda: rng.randrange(MAX_SIZE, 3 * MAX_SIZE), 0)) == cut(data)


def test_an_insertion_moves_few_cuts() -> None:
    """What lies behind it is cut as before: that is what deduplicates."""
    data = noise(24 << 20)
    ends = lambda lengths: {sum(lengths[: number + 1]) for number in range(len(lengths))}  # noqa: E731
    before, after = ends(cut(data)), ends(cut(data[: 5 << 20] + b"inserted" + data[5 << 20 :]))
    kept = {end for end in after if end < 5 << 20} | {end - 8 for end in after if end > (5 << 20)}
    assert len(before - kept) <= 2
