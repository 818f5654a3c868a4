"""Many repositories in little time: each with one snapshot that serves a slot, and nothing else in it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import orjson

from shared.config.fleet import Fleet
from shared.repository import keys
from shared.repository.crypto import Sealer
from shared.repository.repository import Repository


def store_snapshots(fleet: Fleet, slots: Mapping[str, str]) -> None:
    """For each source a repository at site `a`, whose only snapshot is a full one of that slot.

    It has the machine's password alone: a recovery password costs a tenth of a second each.
    """
    secret, site = fleet.secret.read(), fleet.open_site("a")
    for source, slot in slots.items():
        name = fleet.repository_of(source)
        store = site.below(f"repos/{name}")
        key = keys.derived_master_key(secret, name)
        machine = keys.machine_password(secret, name)
        key_file = keys.make_key_file(key, machine, n=keys.MACHINE_N)
        restic_id, polynomial = keys.derived_config(secret, name)
        config = {"version": 2, "id": restic_id, "chunker_polynomial": f"{polynomial:x}"}
        repository = Repository(store, key, restic_id=restic_id)
        store.put(f"keys/{hashlib.sha256(key_file).hexdigest()}", key_file)
        store.put_if_absent("config", Sealer(key).seal(orjson.dumps(config)))
        repository.save("snapshots", orjson.dumps(_snapshot(source, slot)))


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
