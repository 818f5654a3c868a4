"""Holes never change what a file reads as."""

from __future__ import annotations

import itertools
import os
import tempfile

from hypothesis import given, settings
from hypothesis import strategies as st

from workers.restore.sparse import BLOCK, segments, write_at

PARTS = st.lists(st.tuples(st.sampled_from([b"\0", b"x", b"\0x"]), st.integers(1, 3 * BLOCK)), min_size=1, max_size=6)


@given(parts=PARTS, cuts=st.lists(st.integers(1, 8 * BLOCK), max_size=4))
@settings(max_examples=150)
def test_written_in_any_pieces(parts: list[tuple[bytes, int]], cuts: list[int]) -> None:
    """A file written in pieces that are cut anywhere reads as its content; zeros alone take no room."""
    content = b"".join((unit * size)[:size] for unit, size in parts)
    points = sorted({0, len(content), *(cut for cut in cuts if cut < len(content))})
    with tempfile.TemporaryFile() as file:
        os.ftruncate(file.fileno(), len(content))
        for start, stop in reversed(list(itertools.pairwise(points))):
            write_at(file.fileno(), content[start:stop], start)
        file.seek(0)
        assert file.read() == content
        if not content.strip(b"\0") and len(points) == 2 and len(content) >= BLOCK:
            assert os.fstat(file.fileno()).st_blocks == 0


@given(parts=PARTS, offset=st.integers(0, 2 * BLOCK), kind=st.sampled_from([bytes, memoryview]))
@settings(max_examples=150)
def test_only_zeros_are_left_out(parts: list[tuple[bytes, int]], offset: int, kind: type[bytes | memoryview]) -> None:
    """The segments ascend, do not overlap, and what lies between them is zeros."""
    content = b"".join((unit * size)[:size] for unit, size in parts)
    found = segments(kind(content), offset)
    if found is not None:
        kept = bytearray(len(content))
        end = 0
        for start, stop in found:
            assert end <= start < stop <= len(content)
            kept[start:stop] = content[start:stop]
            end = stop
        assert bytes(kept) == content
