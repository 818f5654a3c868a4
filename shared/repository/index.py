"""Index files: which blob lies where in which pack.

    {"packs":[{"id","blobs":[{"id","type":"data"|"tree","offset","length","uncompressed_length"?}]}]}

Every blob of a pack stands in exactly one index file. An index belongs to one site and is never
copied to another.
"""

from __future__ import annotations

from collections.abc import Iterable

import orjson

from shared.repository.errors import Damaged
from shared.repository.pack import Blob, BlobType

FLUSH_BLOBS = 50_000  # entries after which a writer starts another index file
_NAMES = {BlobType.DATA: "data", BlobType.TREE: "tree"}
_TYPES = {name: blob_type for blob_type, name in _NAMES.items()}


def encode_index(packs: Iterable[tuple[bytes, Iterable[Blob]]]) -> list[bytes]:
    """The JSON, in parts, of an index file that lists these packs (id of 32 bytes, blobs).

    Written as text, pack by pack: 50,000 entries as objects would take several times the memory of the file.
    """
    parts = [b'{"packs":[']
    for pack_id, blobs in packs:
        entries = ",".join(
            f'{{"id":"{blob.id.hex()}","type":"{_NAMES[blob.type]}","offset":{blob.offset},"length":{blob.length}'
            + (f',"uncompressed_length":{blob.uncompressed}}}' if blob.uncompressed else "}")
            for blob in blobs
        )
        comma = "," if len(parts) > 1 else ""
        parts.append(f'{comma}{{"id":"{pack_id.hex()}","blobs":[{entries}]}}'.encode())
    parts.append(b"]}\n")
    return parts


def decode_index(raw: bytes) -> list[tuple[bytes, list[Blob]]]:
    """The packs that an index file lists. Raises Damaged."""
    try:
        data = orjson.loads(raw)
        packs = []
        unhex = bytes.fromhex
        types = _TYPES
        for pack in data["packs"]:
            blobs = [
                Blob(
                    unhex(entry["id"]),
                    types[entry["type"]],
                    entry["offset"],
                    entry["length"],
                    entry.get("uncompressed_length", 0),
                )
                for entry in pack["blobs"]
            ]
            packs.append((unhex(pack["id"]), blobs))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"index: not the JSON that was expected ({error!r})") from error
    for pack_id, blobs in packs:
        _check(pack_id, blobs)
    return packs


def _check(pack_id: bytes, blobs: list[Blob]) -> None:
    if len(pack_id) != 32:
        raise Damaged(f"index: a pack id of {len(pack_id)} bytes, expected 32")
    for blob in blobs:
        numbers = (blob.offset, blob.length, blob.uncompressed)
        if len(blob.id) != 32 or not all(isinstance(n, int) and 0 <= n < 1 << 32 for n in numbers) or blob.length < 32:
            raise Damaged(f"index: pack {pack_id.hex()[:8]} has an entry that can't be: {blob.id.hex()[:8]} {numbers}")
