"""Many repositories in little time: each with snapshots that serve slots, and nothing else in it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import orjson

from shared.config.fleet import Fleet
from shared.config.stores import open_site
from shared.ledger.model import slot_text, slot_time
from shared.repository import keys
from shared.repository.crypto import Sealer
from shared.repository.repository import Repository


def store_snapshots(
    fleet: Fleet, slots: Mapping[str, str], sites: Sequence[str] = ("a",), *, count: int = 1, threads: int = 1
) -> None:
    """For each source a repository at these sites, whose newest snapshot is a full one of that slot.

    `count`: how many there are, a day apart. It has the machine's password alone: a recovery password costs a tenth of
    a second each.
    """
    secret = fleet.secret.read()
    stores = [open_site(replace(fleet.site_access(site), connections=threads)) for site in sites]

    def store_one(source: str, slot: str) -> None:
        name = fleet.repository_of(source)
        key = keys.derived_master_key(secret, name)
        key_file = keys.make_key_file(key, keys.machine_password(secret, name), n=keys.MACHINE_N)
        restic_id, polynomial = keys.derived_config(secret, name)
        config = orjson.dumps({"version": 2, "id": restic_id, "chunker_polynomial": f"{polynomial:x}"})
        for store in stores:
            repository = Repository(store.below(f"repos/{name}"), key, restic_id=restic_id)
            repository.store.put(f"keys/{hashlib.sha256(key_file).hexdigest()}", key_file)
            repository.store.put_if_absent("config", Sealer(key).seal(config))
            for days in range(count):
                older = slot_text(slot_time(slot) - timedelta(days=days))
                repository.save("snapshots", orjson.dumps(_snapshot(source, older)))

    pool = ThreadPoolExecutor(threads)
    try:
        list(pool.map(store_one, slots, slots.values()))
    finally:
        pool.shutdown(cancel_futures=True)  # where one failed the others would, too, each after a minute


def _snapshot(source: str, slot: str) -> dict[str, object]:
    tags = [f"hf.source={source}", "hf.kind=full", f"hf.slot={slot}", f"hf.lastfull={slot}", f"hf.run={'ab' * 16}"]
    return {
        "time": slot,
        "tree": "00" * 32,
        "paths": ["/srv"],
        "hostname": "h",
        "username": "u",
        "tags": tags,
    }
