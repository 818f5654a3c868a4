"""What is damaged at one site is healed from another: each kind of object, and each way in which it may be lost."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from shared.repository.keyring import add_key, read_keys, remove_key
from shared.repository.pack import BlobType
from shared.repository.repository import Repository
from shared.storage.directory import DirectoryStore
from tests.support.attempts import MACHINE, QUICK, RECOVERY, Bench
from tests.support.healings import (
    Pair,
    befall,
    content,
    cut,
    flip,
    go_apart,
    gone,
    grown,
    keys_of,
    pack_key,
    place,
    two_sites,
)
from tests.support.prunes import assert_clean, contents, forget, prune_spec
from tests.support.zygote import Zygote


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    """Where backups and prunes run."""
    with Zygote() as zygote:
        yield zygote


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory, zygote: Zygote) -> Pair:
    """Two sites that have the same packs."""
    return two_sites(str(tmp_path_factory.mktemp("alike")), zygote)


@pytest.fixture(scope="module")
def files(alike: Pair) -> dict[str, dict[str, str]]:
    """What each snapshot restores to."""
    return contents(alike.here)


@pytest.fixture(scope="module")
def start_apart(alike: Pair, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Two sites whose own prunes made their packs differ."""
    return go_apart(alike.copy(str(tmp_path_factory.mktemp("apart"))))


@pytest.fixture
def pair(alike: Pair, tmp_path: Path) -> Pair:
    """The sites with the same packs, to be changed."""
    return alike.copy(str(tmp_path))


@pytest.fixture
def apart(start_apart: Pair, tmp_path: Path) -> Pair:
    """The sites with packs of their own, to be changed."""
    return start_apart.copy(str(tmp_path))


def packs_with(bench: Bench, kind: BlobType) -> list[str]:
    """The names of the indexed packs that hold blobs of a kind, the largest first."""
    repo = bench.open()
    names = [
        (len(blobs), pack.hex())
        for name in bench.names("index")
        for pack, blobs in repo.load_index(name)
        if blobs[0].type is kind
    ]
    return [name for _, name in sorted(names, reverse=True)]


def key_of(bench: Bench, password: str) -> str:
    """The key file that a password opens."""
    opens = {one.id for one in read_keys(DirectoryStore(bench.path)) if one.opens(password)}
    return next(key for key in keys_of(bench, "keys") if key.rpartition("/")[2] in opens)


def test_packs_come_back_byte_for_byte(pair: Pair) -> None:
    """Missing, cut, too long, wrong in a blob, in the header, in the header's length: whole again, and read back."""
    changes = (gone, cut, grown, flip(40), flip(-20), flip(-1))
    befallen = dict(zip(keys_of(pair.here, "data"), changes, strict=False))
    before = {key: befall(pair.here, key, change) for key, change in befallen.items()}
    report = pair.heal()
    assert (report["exit_code"], report["errors"], report["lost"]) == (0, 0, [])
    assert set(report["healed"]) == set(before)
    assert (report["healed_from"], report["found"] >= len(before)) == ({"b": len(before)}, True)
    assert {key: content(pair.here, key) for key in before} == before
    assert os.stat(place(pair.here, min(before))).st_mode & 0o777 == 0o400
    assert pair.here.names("holdfast/quarantine") | pair.here.names("locks") == set()
    again = pair.heal()
    assert (again["found"], again["healed"], again["exit_code"]) == (0, [], 0)


def test_without_reading_data_what_the_structure_shows_is_healed(pair: Pair) -> None:
    """A tree that does not open is met by the way, and its pack is brought back."""
    (name, *_) = packs_with(pair.here, BlobType.TREE)
    was = befall(pair.here, pack_key(name), flip(40))
    report = pair.heal(share=0.0)
    assert (report["exit_code"], report["healed"]) == (0, [pack_key(name)])
    assert content(pair.here, pack_key(name)) == was


def test_where_packs_differ_the_blobs_are_brought_back(
    apart: Pair, files: dict[str, dict[str, str]], zygote: Zygote
) -> None:
    """They come in new packs. The broken one leaves the index, is kept in quarantine, and a prune takes it."""
    only_here = apart.here.names("data") - apart.there.names("data")
    data = [name for name in packs_with(apart.here, BlobType.DATA) if name in only_here]
    trees = [name for name in packs_with(apart.here, BlobType.TREE) if name in only_here]
    befallen = {data[0]: flip(40), data[1]: gone, trees[0]: cut}
    for name, change in befallen.items():
        befall(apart.here, pack_key(name), change)
    report = apart.heal()
    assert (report["exit_code"], report["errors"], report["lost"]) == (0, 0, [])
    assert set(report["healed"]) >= {pack_key(name) for name in befallen}
    assert report["blobs_healed"] > 0
    assert apart.here.indexed().isdisjoint(befallen)
    assert apart.here.names("holdfast/quarantine") == {data[0], trees[0]}
    apart.here.check(version="0.14")
    assert contents(apart.here) == {name: files[name] for name in apart.here.names("snapshots")}
    for _ in range(2):
        assert zygote.run("prune", prune_spec(apart.here, grace=0), set_=QUICK).error == ""
    assert apart.here.names("holdfast/quarantine") == set()
    assert_clean(apart.here)


def test_an_index_is_rebuilt_from_pack_headers(pair: Pair) -> None:
    """Damaged or deleted, one or all, with no other site to ask."""
    alone = {"others": [], "share": 0.0}
    (one, *rest) = keys_of(pair.here, "index")
    befall(pair.here, one, flip(100))
    report = pair.heal(**alone)
    assert (report["exit_code"], report["healed"]) == (0, [one])
    assert not os.path.exists(place(pair.here, one))
    assert pair.here.indexed() == pair.here.names("data")
    for number, key in enumerate(keys_of(pair.here, "index")):
        befall(pair.here, key, cut if number % 2 else gone)
    report = pair.heal(**alone)
    assert (report["exit_code"], report["index_files_written"] > 0, bool(rest)) == (0, True, True)
    assert "by their own headers" in " ".join(report["notes"])
    pair.here.check()


def test_an_index_file_and_what_it_listed(apart: Pair) -> None:
    """Nothing here knows what was in it: what snapshots need is found by walking them, tree by tree."""
    repo = apart.here.open()
    for name in list(apart.here.names("index")):
        if any(blobs[0].type is BlobType.TREE for _, blobs in repo.load_index(name)):
            for pack, _ in repo.load_index(name):
                befall(apart.here, pack_key(pack.hex()), gone)
            befall(apart.here, f"index/{name}", gone)
    before = len(apart.here.names("data"))
    report = apart.heal()
    assert (report["exit_code"], report["lost"], report["blobs_healed"] > 0) == (0, [], True)
    assert len(apart.here.names("data")) > before
    apart.here.check()


def test_a_snapshot(pair: Pair) -> None:
    """From the other site, or from the commit of its own run; not if it is being forgotten here."""
    one, two, three = keys_of(pair.here, "snapshots")
    was = {key: befall(pair.here, key, flip(50)) for key in (one, two, three)}
    name = three.partition("/")[2]
    tombstones = place(pair.here, "holdfast/forgotten")
    os.makedirs(tombstones)
    Path(tombstones, name).write_bytes(pair.here.open().seal_small(b"{}"))
    os.unlink(place(pair.there, two))
    report = pair.heal()
    assert report["healed_from"] == {"b": 1, "this site": 1}
    assert (report["exit_code"], report["errors"]) == (24, 1)
    assert name in report["problems"][0]["object"]
    assert report["lost"] == [f"{three}: it is being forgotten"]
    assert {key: content(pair.here, key) for key in (one, two)} == {key: was[key] for key in (one, two)}


def test_key_files_and_config(pair: Pair) -> None:
    """Though nothing of the repository can be opened; and then everything is verified."""
    befallen = {key: flip(3) for key in keys_of(pair.here, "keys")} | {"config": flip(20)}
    assert len(befallen) == 3
    was = {key: befall(pair.here, key, change) for key, change in befallen.items()}
    report = pair.heal()
    assert (report["exit_code"], report["found"], report["lost"]) == (0, 3, [])
    assert set(report["healed"]) == set(was)
    assert {key: content(pair.here, key) for key in was} == was
    for key in was:
        befall(pair.here, key, gone)
    report = pair.heal(share=0.0)
    assert (report["exit_code"], "config" in report["healed"]) == (0, True)


def test_a_damaged_key_is_found_though_another_one_opens(pair: Pair) -> None:
    """No other site: it is told, with the way out."""
    key = key_of(pair.here, RECOVERY)
    befall(pair.here, key, flip(200))
    report = pair.heal(others=[])
    assert (report["exit_code"], report["healed"]) == (24, [])
    assert [problem["object"] for problem in report["problems"]] == [f"key {key.partition('/')[2]}"]
    assert "`holdfast keys SOURCE add`" in report["lost"][0]


@pytest.mark.parametrize("where", ["here", "there"])
def test_a_key_that_was_removed_stays_removed(pair: Pair, where: str) -> None:
    """Its tombstone at either site is enough."""
    store = DirectoryStore(pair.here.path)
    extra = add_key(store, pair.here.open().key, "of somebody who has left")
    shutil.copy(place(pair.here, f"keys/{extra}"), place(pair.there, f"keys/{extra}"))
    remove_key(DirectoryStore((pair.here if where == "here" else pair.there).path), extra, keep=[MACHINE])
    if where == "there":
        befall(pair.here, f"keys/{extra}", flip(9))
        os.makedirs(os.path.dirname(place(pair.there, f"keys/{extra}")), exist_ok=True)
        Path(place(pair.there, f"keys/{extra}")).write_bytes(b"not gone yet")
    for key in keys_of(pair.here, "keys"):
        if not key.endswith(extra):
            befall(pair.here, key, gone)
    report = pair.heal(passwords=[MACHINE, RECOVERY, "of somebody who has left"], share=0.0)
    assert f"keys/{extra}" not in report["healed"]
    assert (extra in pair.here.names("keys")) == (where == "there")  # damaged as it was
    assert len(pair.here.names("keys") - {extra}) == 2


def test_both_sites_damaged_in_different_places_heal_each_other(apart: Pair) -> None:
    """Packs, index, keys and config: each gives what it has whole."""
    lost: set[bytes] = set()
    for bench in (apart.here, apart.there):
        firsts = {
            name: bench.open().pack_header(bytes.fromhex(name))[0].id for name in packs_with(bench, BlobType.DATA)
        }
        for name in [name for name, blob in firsts.items() if blob not in lost][:2]:
            befall(bench, pack_key(name), flip(40))
            lost.add(firsts[name])
    befall(apart.here, min(keys_of(apart.here, "index")), flip(90))
    befall(apart.here, "config", flip(20))
    befall(apart.there, min(keys_of(apart.there, "index")), cut)
    befall(apart.there, min(keys_of(apart.there, "keys")), flip(70))
    reports = [apart.heal(), apart.swapped().heal()]
    assert [(report["exit_code"], report["lost"]) for report in reports] == [(0, []), (0, [])]
    assert "site b is damaged, too, and needs healing" in " ".join(reports[0]["notes"])
    for bench in (apart.here, apart.there):
        bench.check()


def test_what_no_site_has_is_named_by_snapshot_and_file(
    pair: Pair, files: dict[str, dict[str, str]], zygote: Zygote
) -> None:
    """The rest of that pack is saved. It counts as absent: the next backup stores what its source still has."""
    repo = pair.here.open()
    (name, *_) = packs_with(pair.here, BlobType.DATA)
    first = repo.pack_header(bytes.fromhex(name))[0]
    for bench in (pair.here, pair.there):
        befall(bench, pack_key(name), flip(first.offset + 30))
    report = pair.heal()
    assert (report["exit_code"], report["healed"]) == (24, [])
    assert report["lost"] == [f"{pack_key(name)}: b has it damaged"]
    assert report["blobs_healed"] == len(repo.pack_header(bytes.fromhex(name))) - 1
    paths = {path for problem in report["problems"] for path in problem["paths"]}
    assert paths
    every = {f"{one[:8]}:{pair.here.source}/{path}" for one, its in files.items() for path in its}
    assert paths <= every
    assert pair.here.names("holdfast/quarantine") == {name}
    # Its source still has that file, so it is stored again; then nothing needs the broken pack any more.
    run = pair.here.spec("e" * 32, kind="incremental", pack_size=24 << 10)
    ended = zygote.run("backup", run, set_=QUICK)
    assert ended.error == ""
    report = pair.heal()
    lost = set(report["affected_snapshots"])
    assert ended.result["snapshot"] not in lost
    assert lost < set(files)
    for snapshot in lost:
        forget(pair.here, snapshot)
    report = pair.heal()
    assert (report["exit_code"], report["lost"]) == (0, [])
    assert name not in pair.here.indexed()
    pair.here.check()


def test_a_dry_run_says_what_could_be_healed(apart: Pair) -> None:
    """And writes nothing, not even a lock."""
    (name, *_) = packs_with(apart.here, BlobType.TREE)
    befall(apart.here, pack_key(name), flip(40))
    befall(apart.here, min(keys_of(apart.here, "index")), flip(70))
    machine = key_of(apart.here, MACHINE)
    befall(apart.here, key_of(apart.here, RECOVERY), flip(70))
    before = {key: content(apart.here, key) for key in everything(apart.here)}
    report = apart.heal(dry_run=True)
    assert (report["exit_code"], report["dry_run"], report["healed_objects"] > 0) == (24, True, True)
    assert {key: content(apart.here, key) for key in everything(apart.here)} == before
    for key in ("config", machine):
        befall(apart.here, key, gone)
    report = apart.heal(dry_run=True)
    assert ({"config", machine} <= set(report["healed"]), report["exit_code"]) == (True, 24)
    assert not os.path.exists(place(apart.here, "config"))


def everything(bench: Bench) -> list[str]:
    """Every file of the repository."""
    return sorted(
        os.path.relpath(os.path.join(folder, name), bench.path)
        for folder, _, names in os.walk(bench.path)
        for name in names
    )


def test_bytes_of_another_repository_are_not_taken(pair: Pair) -> None:
    """What lies at the other site under that name is somebody else's, or a lie: nothing of it is believed."""
    shutil.rmtree(pair.there.path)
    store = DirectoryStore(pair.there.site).below(f"repos/{pair.there.repository}")
    Repository.create(store, repository_id=pair.there.repository, fleet_secret=b"x" * 32, recovery_password=RECOVERY)
    (name, *_) = packs_with(pair.here, BlobType.DATA)
    for key in (pack_key(name), "config", *keys_of(pair.here, "keys")):
        befall(pair.here, key, gone)
    os.makedirs(os.path.dirname(place(pair.there, pack_key(name))))
    Path(place(pair.there, pack_key(name))).write_bytes(b"other bytes")
    before = everything(pair.here)
    assert "there is no repository" in pair.try_to_heal(passwords=[RECOVERY]).error
    assert everything(pair.here) == before


def test_a_blob_that_only_a_doomed_pack_has_is_taken_from_there(apart: Pair, zygote: Zygote) -> None:
    """It is not listed again: it goes as it was to, when its time comes."""
    newest = max(apart.here.snapshots(), key=lambda one: one.time)
    was = content(apart.here, f"snapshots/{newest.id}")
    forget(apart.here, newest.id)
    assert zygote.run("prune", prune_spec(apart.here), set_=QUICK).error == ""
    doomed = apart.here.names("holdfast/doomed")
    assert doomed
    Path(place(apart.here, f"snapshots/{newest.id}")).write_bytes(was)  # somebody brings it back by hand
    report = apart.heal(others=[])
    assert (report["exit_code"], report["lost"], report["blobs_healed"] > 0) == (0, [], True)
    assert apart.here.indexed().isdisjoint(doomed)
    apart.here.check()


def test_index_files_wait_for_who_is_at_work(apart: Pair) -> None:
    """Blobs are brought back beside a backup; what somebody may rely on is replaced when nobody is there."""
    only_here = sorted(apart.here.names("data") - apart.there.names("data"))
    befall(apart.here, pack_key(only_here[0]), flip(40))
    index = apart.here.names("index")
    lock = apart.here.open().lock(holder="somebody/holdfast/backup")
    lock.begin()
    report = apart.heal()
    assert (report["exit_code"], index <= apart.here.names("index")) == (24, True)
    assert "index files are left as they are" in " ".join(report["notes"])
    assert report["affected_snapshots"] == []  # nothing needs that pack any more
    lock.release()
    report = apart.heal()
    assert (report["exit_code"], report["blobs_healed"]) == (0, 0)


def test_an_index_that_lists_a_pack_otherwise_than_it_is(pair: Pair) -> None:
    """Its own header counts, as the pack hashes to its name."""
    repo = pair.here.open()
    (name, *_) = sorted(pair.here.names("index"))
    listed = repo.load_index(name)
    pack, blobs = max(listed, key=lambda one: len(one[1]))
    entries = [
        {"id": blob.id.hex(), "type": blob.type.name.lower(), "offset": blob.offset, "length": blob.length}
        for blob in blobs
    ]
    entries[0]["id"] = "ab" * 32
    others = [
        {
            "id": one.hex(),
            "blobs": [
                {"id": b.id.hex(), "type": b.type.name.lower(), "offset": b.offset, "length": b.length}
                | ({"uncompressed_length": b.uncompressed} if b.uncompressed else {})
                for b in its
            ],
        }
        for one, its in listed
        if one != pack
    ]
    befall(pair.here, f"index/{name}", gone)
    repo.save("index", orjson.dumps({"packs": [*others, {"id": pack.hex(), "blobs": entries}]}))
    report = pair.heal(others=[])
    assert (report["exit_code"], pack_key(pack.hex()) in report["healed"]) == (0, True)


def test_what_is_sealed_beside_and_does_not_open_is_told(pair: Pair) -> None:
    """It does no harm: a warning, and no exit code."""
    (key, *_) = keys_of(pair.here, "holdfast/commits")
    befall(pair.here, key, flip(50))
    report = pair.heal()
    assert [(one["severity"], one["object"]) for one in report["problems"]] == [("warning", key)]
    assert report["exit_code"] == 0
