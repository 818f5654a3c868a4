"""Random trees there and back: Holdfast to Holdfast, Holdfast to stock restic, stock restic to Holdfast."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings

from tests.support.backups import Shop
from tests.support.compare import Seen, compare_trees, tree_of
from tests.support.forests import FORESTS, MISSING_RIGHTS, Plant, Planter

# What stock restic can't do, which is not compared with it. Nothing else may differ.
CANNOT = {
    "0.14": {
        "sockets": "it drops them on restoring",
        "links": "it links files again, and nothing else that has several names",
        "sparse": "it writes holes as zeros unless asked (--sparse came later)",
        "targets": "each byte of a link target that is not UTF-8 becomes U+FFFD",
        "link xattrs": "it loses the extended attributes of symlinks",
    },
    "0.18": {
        "sockets": "it drops them on restoring",
        "links": "it links files again, and nothing else that has several names",
        "sparse": "it writes holes as zeros unless asked (test_restic_018.py asks)",
    },
}


@contextmanager
def grown(forest: dict[bytes, Plant]) -> Iterator[tuple[Shop, dict[bytes, Seen]]]:
    """A shop whose source is this forest, and what it looks like; what can't be made here is told."""
    if MISSING_RIGHTS:
        note(f"left out for want of rights: {', '.join(MISSING_RIGHTS.values())}")
    base = tempfile.mkdtemp(prefix="hf-rt-")
    try:
        shop = Shop(base)
        Planter(shop.source).plant(forest)
        os.utime(shop.source, ns=(77, 77))
        yield shop, tree_of(shop.source)
    finally:
        shutil.rmtree(base)


def for_restic(seen: dict[bytes, Seen], version: str) -> dict[bytes, Seen]:
    """The tree without what this version of stock restic can't do."""
    cannot = CANNOT[version]
    out = {}
    for path, one in seen.items():
        if one.kind == "socket" and "sockets" in cannot:
            continue
        if one.kind != "file" and "links" in cannot:
            one.links = b""
        if one.kind == "symlink" and "targets" in cannot:
            text = one.target.decode("utf-8", "surrogateescape")
            one.target = re.sub("[\udc80-\udcff]", "\ufffd", text).encode()
        if "link xattrs" in cannot:
            # Those of a symlink are set on what it leads to: of the kinds that a symlink can have, none is compared.
            one.xattrs = {name: value for name, value in one.xattrs.items() if name.startswith(("user.", "system."))}
        out[path] = one
    return out


def settle(count: int) -> settings:
    """Few examples, as each is a whole backup; a failure is printed with what repeats it."""
    return settings(
        max_examples=count,
        derandomize="CI" in os.environ,
        print_blob=True,
        phases=(Phase.explicit, Phase.reuse, Phase.generate),  # to shrink would take hundreds of backups
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@settle(8)
@given(forest=FORESTS)
def test_holdfast_brings_back_what_holdfast_backed_up(forest: dict[bytes, Plant]) -> None:
    """Identical in everything, sparseness too; the incremental after it has the same tree."""
    with grown(forest) as (shop, seen):
        full = shop.backup(kind="full")
        assert (full.complete, full.problems) == (True, [])
        again = shop.backup()
        assert shop.tree_of(again.tree) == shop.tree_of(full.tree)
        assert compare_trees(seen, shop.restore(), top=False) == []


@pytest.mark.parametrize("version", ["0.14", "0.18"])
@settle(6)
@given(forest=FORESTS)
def test_stock_restic_brings_back_what_holdfast_backed_up(version: str, forest: dict[bytes, Plant]) -> None:
    """`check --read-data` finds nothing, and what is restored is identical but for the named list."""
    with grown(forest) as (shop, seen):
        snapshot = shop.backup().snapshot
        shop.check(version)
        target = os.path.join(shop.base, "out")
        shop.restic(version, "restore", snapshot, "--target", target)
        restored = for_restic(tree_of(target + shop.source), version)
        assert compare_trees(for_restic(seen, version), restored, without=("sparse",)) == []


@pytest.mark.parametrize("version", ["0.14", "0.18"])
@settle(6)
@given(forest=FORESTS)
def test_holdfast_brings_back_what_stock_restic_backed_up(version: str, forest: dict[bytes, Plant]) -> None:
    """Identical but for what that restic did not record; sparseness is Holdfast's own, so it is compared."""
    with grown(forest) as (shop, seen):
        shop.restic_backup(version)
        restored = for_restic(tree_of(shop.restore()), version)
        assert compare_trees(for_restic(seen, version), restored, top=False) == []
