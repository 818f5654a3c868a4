"""The parts below the cache: the layout of a segment, tiers, and merging in bounded memory."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from shared.repository.indexcache import layout, merge
from shared.repository.indexcache.layout import Layout, Source, Unusable, cache_key
from shared.repository.indexcache.run import Run
from shared.repository.indexcache.segment import Segment
from shared.repository.indexcache.writer import SegmentWriter, renumber
from shared.repository.pack import BlobType
from tests.support.indexes import name, shrink, some_packs

KEY = cache_key("repository", "site")
DOCUMENT = Path(__file__).parents[2] / "docs" / "decisions" / "index-cache.md"


def segment_of(*tags: str, packs: int = 3, blobs: int = 4) -> Segment:
    """A segment in memory, made from one index file per tag."""
    run = Run()
    for tag in tags:
        run.add(name(tag), some_packs(tag, packs=packs, blobs=blobs))
    fd = os.memfd_create("test")
    with open(fd, "wb", closefd=False) as file:
        run.write(file.write, run.layout(KEY))
    return Segment.open(fd, KEY)


def merged(segments: Sequence[Segment]) -> Segment:
    """The merge of segments, in memory."""
    fd = os.memfd_create("test")
    with open(fd, "wb", closefd=False) as file:
        merge.merge(file.write, merge.merged_layout(KEY, segments), segments)
    return Segment.open(fd, KEY)


def contents(segment: Segment) -> tuple[set[tuple[bytes, bytes]], list[tuple[bytes, int]]]:
    """All (key, pack) and all packs of a segment."""
    keys = sorted(
        blob.id + bytes((blob.type,))
        for source in TAGS
        for _, blobs in some_packs(source, packs=3, blobs=4)
        for blob in blobs
    )
    found = segment.locate(keys, frozenset())
    return {(key, place.pack) for key, place in found.items()}, [(pack, size) for pack, size, _, _ in segment.packs()]


TAGS = "abcdefgh"


def test_the_document_describes_the_layout() -> None:
    """Offsets and sizes in the document are those of the code."""
    text = DOCUMENT.read_text()
    rows = re.findall(r"^\| (\d+) \| (\d+) \| (.+?) \|$", text, re.MULTILINE)
    header = Layout(KEY, 0x01020304, (Source(name("x"), 1, 2),)).encode()
    fields = {field: header[int(at) : int(at) + int(size)] for at, size, field in rows}
    assert fields == {
        "magic `HFINDEX1`": layout.MAGIC,
        "length of the header": (layout.header_size(1)).to_bytes(4, "little"),
        "nonce": bytes((4, 3, 2, 1)),
        "SHA-256 that binds it to repository and site": KEY,
        "records": (2).to_bytes(8, "little"),
        "packs": (1).to_bytes(8, "little"),
        "sources": (1).to_bytes(4, "little"),
        "slot bits": (0).to_bytes(4, "little"),
    }
    for words, size in (
        ("a source", layout.SOURCE.size),
        ("the digest", layout.DIGEST_SIZE),
        ("a pack", layout.PACK.size),
        ("a record", layout.RECORD.size),
        ("a slot", layout.SLOT.size),
        ("a block", layout.BLOCK_MAX),
    ):
        assert f"{words}: {size:,} bytes" in text


def test_a_header_of_other_bytes_is_refused() -> None:
    """Magic, length, digest, key and counts are each compared before anything is believed."""
    good = Layout.new(KEY, [Source(name("x"), 1, 2)]).encode()
    assert Layout.decode(good, KEY).sources == (Source(name("x"), 1, 2),)
    body = good[: -layout.DIGEST_SIZE]
    counts = body[:48] + (3).to_bytes(8, "little") + body[56:]
    for bad, key, why in (
        (b"HFINDEX2" + good[8:], KEY, "not a segment"),
        (good + b"\0", KEY, "not a segment"),
        (good[:-1] + bytes((good[-1] ^ 1,)), KEY, "digest"),
        (good, cache_key("other", "site"), "another repository"),
        (counts + layout.digest(counts), KEY, "counts"),
    ):
        with pytest.raises(Unusable, match=why):
            Layout.decode(bad, key)


def test_more_records_than_fit_are_refused() -> None:
    """A segment numbers its records with 32 bits."""
    with pytest.raises(Unusable, match="4294967295"):
        Layout.new(KEY, [Source(name("x"), 1, 1 << 32)])


@pytest.mark.parametrize("small", [False, True])
def test_a_merge_holds_what_its_inputs_held(small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Merging loses and invents nothing, whatever the sizes of windows and blocks."""
    if small:
        shrink(monkeypatch)
    inputs = [segment_of("a", "b"), segment_of("c"), segment_of(), segment_of("d", "e", "f", "g", "h")]
    result = merged(inputs)
    whole = segment_of(*TAGS)
    assert contents(result) == contents(whole)
    assert (result.live_blobs, result.live_packs) == (96, 24)
    assert {source.index_id for source in result.sources} == {name(tag) for tag in TAGS}
    for segment in (result, whole, *inputs):
        segment.close()


@pytest.mark.parametrize("small", [False, True])
def test_a_merge_leaves_out_what_does_not_count(small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records and packs of sources that a segment does not own are gone after a merge."""
    if small:
        shrink(monkeypatch)
    inputs = [segment_of("a", "b", "c"), segment_of("c", "d", "e")]
    inputs[0].assign({name("a"), name("c")})
    inputs[1].assign({name("e")})
    result = merged(inputs)
    whole = segment_of("a", "c", "e")
    assert contents(result) == contents(whole)
    assert result.layout.records == 36
    for segment in (result, whole, *inputs):
        segment.close()


@pytest.mark.parametrize(
    ("sizes", "chosen"),
    [
        ([], []),
        ([10], []),
        ([10**6, 10**4], []),
        ([10**6, 10], []),
        ([10, 20], [10, 20]),
        ([10**6, 10, 20], [10, 20]),
        ([10**6, 400_000, 200_000], [200_000, 400_000, 10**6]),
        ([10**6, 300_000, 90_000], []),
        ([10**6, 10**5, 10**5, 7], [7, 10**5, 10**5]),
        ([10**5] * 200, [10**5] * merge.FAN_IN),
    ],
)
def test_tiers(sizes: list[int], chosen: list[int]) -> None:
    """A segment is merged once it is at most twice as large as all smaller ones together."""

    class Sized:
        """As much of a segment as `choose` looks at."""

        def __init__(self, size: int) -> None:
            self.live_blobs = size
            self.layout = Layout.new(KEY, [Source(name("x"), 1, size)])

    got = merge.choose([Sized(size) for size in sizes])  # type: ignore[misc]
    assert [segment.live_blobs for segment in got] == chosen


def test_renumbering_changes_pack_numbers_alone() -> None:
    """Each record keeps all of its bytes but the pack's number, which is looked up."""
    records = [(name(str(n)), 1, n, n << 20, 77, 1 << 31) for n in range(300)]
    raw = b"".join(layout.RECORD.pack(*record) for record in records)
    numbers = [(7 * n + 70_000) % 4_000_000_000 for n in range(300)]
    expected = b"".join(layout.RECORD.pack(a, b, numbers[n], *rest) for a, b, n, *rest in records)
    assert renumber(raw, numbers) == expected
    assert renumber(b"", numbers) == b""
    with pytest.raises(IndexError):
        renumber(raw, numbers[:299])


def test_a_writer_holds_its_caller_to_the_layout() -> None:
    """More or fewer items than the layout has would make every later offset wrong."""
    run = Run()
    run.add(name("a"), some_packs("a", packs=2, blobs=2))
    other = Layout.new(KEY, [Source(name("a"), 2, 5)])
    with pytest.raises(ValueError, match="expected 5 items, got 4"):
        run.write(lambda _: None, other)
    with pytest.raises(ValueError, match="expected 2 items, got 0"):
        SegmentWriter(lambda _: None, other).finish()


def test_a_run_takes_an_index_file_whole_or_not_at_all() -> None:
    """Where reading an index file breaks off, nothing of it counts."""
    run = Run()
    packs = some_packs("a", packs=2, blobs=2)

    def broken() -> object:
        yield packs[0]
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        run.add(name("a"), broken())  # type: ignore[arg-type]
    run.add(name("b"), some_packs("b", packs=3, blobs=4))
    assert run.sources == [Source(name("b"), 3, 12)]
    assert run.layout(KEY).records == 12


def test_every_id_finds_its_slot() -> None:
    """Ids at the edges of the space, with as many slots as there can be for them, are found."""
    run = Run()
    ids = [edge.to_bytes(32, "big") for edge in range(200)]
    ids += [((1 << 256) - 1 - edge).to_bytes(32, "big") for edge in range(200)]
    packs = some_packs("edges", packs=1, blobs=len(ids))
    blobs = [blob._replace(id=edge) for blob, edge in zip(packs[0][1], ids, strict=True)]
    run.add(name("edges"), [(packs[0][0], blobs)])
    fd = os.memfd_create("test")
    with open(fd, "wb", closefd=False) as file:
        run.write(file.write, run.layout(KEY))
    segment = Segment.open(fd, KEY)
    keys = sorted(edge + bytes((BlobType.DATA,)) for edge in ids)
    assert segment.layout.bits == 3
    assert segment.present(keys, frozenset()) == set(keys)
    segment.close()
