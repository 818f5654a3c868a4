"""Index files: the JSON that restic reads, and which is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.repository.errors import Damaged
from shared.repository.index import decode_index, encode_index
from shared.repository.pack import Blob, BlobType

A, B, PACK = b"\xaa" * 32, b"\xbb" * 32, b"\xcc" * 32
GOLDEN = (
    f'{{"packs":[{{"id":"{PACK.hex()}","blobs":['
    f'{{"id":"{A.hex()}","type":"data","offset":0,"length":38,"uncompressed_length":63}},'
    f'{{"id":"{B.hex()}","type":"tree","offset":38,"length":112}}]}}]}}\n'
)


def test_an_index_has_these_bytes() -> None:
    """The fields of a blob in restic's order; an uncompressed one has no `uncompressed_length`."""
    packs = [(PACK, [Blob(A, BlobType.DATA, 0, 38, 63), Blob(B, BlobType.TREE, 38, 112, 0)])]
    assert b"".join(encode_index(packs)).decode() == GOLDEN
    assert decode_index(GOLDEN.encode()) == packs


ids = st.binary(min_size=32, max_size=32)
sizes = st.integers(0, (1 << 32) - 1)
blobs = st.builds(Blob, ids, st.sampled_from(BlobType), sizes, st.integers(32, (1 << 32) - 1), sizes)


@settings(max_examples=50)
@given(st.lists(st.tuples(ids, st.lists(blobs, max_size=4)), max_size=4))
def test_what_is_listed_is_read(packs: list[tuple[bytes, list[Blob]]]) -> None:
    """Any packs survive."""
    assert decode_index(b"".join(encode_index(packs))) == packs


def test_restics_old_field_is_skipped() -> None:
    """`supersedes`, which old releases wrote, means nothing any more."""
    assert decode_index(b'{"supersedes":["00"],"packs":[]}') == []


@pytest.mark.parametrize(
    "change",
    [
        ('"data"', '"bread"'),
        ('"offset":0', '"offset":-1'),
        ('"offset":0', '"offset":"0"'),
        ('"offset":0', '"offset":0.5'),
        ('"offset":0', '"offset":4294967296'),
        ('"length":38', '"length":31'),
        ('"length":38,', ""),
        (A.hex(), A.hex()[:-2]),
        (A.hex(), "zz" * 32),
        (PACK.hex(), PACK.hex()[2:]),
        (PACK.hex(), ""),
        ('"blobs":[', '"blobs":[7,'),
        ('"packs"', '"bags"'),
        ("{", ""),
        ('"uncompressed_length":63', '"uncompressed_length":null'),
    ],
)
def test_an_index_that_cannot_be_is_refused(change: tuple[str, str]) -> None:
    """What another program wrote wrongly is Damaged, never a crash further on."""
    with pytest.raises(Damaged, match="index: "):
        decode_index(GOLDEN.replace(*change, 1).encode())
