"""A bucket of a real MinIO is healed from a directory, and what its keys may not do is told object by object."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.repository.keyring import read_keys
from shared.storage.api import ObjectStore
from tests.support.attempts import MACHINE, RECOVERY, Bench, run_restic
from tests.support.healings import befall, flip, gone, keys_of, two_sites
from tests.support.stores import limited_credentials, make_bucket, open_bucket
from tests.support.tools import MinioServer
from tests.support.zygote import Zygote
from workers.backup.spec import SiteSpec
from workers.healing.run import run_healing
from workers.maintenance.spec import VerifySpec
from workers.replication.run import run_replicate
from workers.replication.spec import ReplicateSpec


class Scene:
    """A directory, and a versioned bucket that has copies of all of it."""

    def __init__(self, minio: MinioServer, bench: Bench) -> None:
        self.minio = minio
        self.bench = bench
        self.bucket = make_bucket(minio, versioned=True)
        self.site = self._as(minio.access_key, minio.secret_key)
        spec = ReplicateSpec(self.site, SiteSpec("a", bench.site), bench.repository, "web1", "c" * 32)
        spec.passwords, spec.cache_dir = [MACHINE, RECOVERY], bench.cache
        assert run_replicate(spec, lambda _: None).errors == 0

    def _as(self, access_key: str, secret_key: str, token: str = "") -> SiteSpec:
        return SiteSpec("s3", f"s3:{self.minio.url}/{self.bucket}", access_key, secret_key, token, connections=4)

    def limited(self) -> SiteSpec:
        """With keys that may do all but write packs, and not look at versions."""
        mine = f"{self.bucket}/repos/*"
        credentials = limited_credentials(
            self.minio,
            (["s3:ListBucket", "s3:GetBucketVersioning"], self.bucket),
            (["s3:GetObject"], f"{self.bucket}/*"),
            (["s3:PutObject", "s3:DeleteObject"], f"{mine}/locks/*"),
            (["s3:PutObject"], f"{mine}/snapshots/*"),
        )
        return self._as(credentials.access_key, credentials.secret_key, credentials.session_token or "")

    def heal(self, site: SiteSpec) -> dict[str, Any]:
        """From the directory."""
        return run_healing(self.spec(site, SiteSpec("a", self.bench.site)), lambda _: None).to_json()

    def spec(self, site: SiteSpec, other: SiteSpec) -> VerifySpec:
        """One from the other."""
        given: dict[str, Any] = {"share": 100.0, "helpers": 2, "patience": 0.0, "others": [other]}
        return VerifySpec(site, self.bench.repository, [MACHINE], heal=True, **given)

    def repository(self) -> ObjectStore:
        """The repository in the bucket."""
        return open_bucket(self.minio, self.bucket).below(f"repos/{self.bench.repository}")


@pytest.fixture
def scene(minio_server: MinioServer, tmp_path: Path) -> Iterator[Scene]:
    """See `Scene`."""
    with Zygote() as zygote:
        yield Scene(minio_server, two_sites(str(tmp_path), zygote).here)


def opened_by(store: ObjectStore, password: str) -> set[str]:
    """The key files that a password opens."""
    return {f"keys/{one.id}" for one in read_keys(store) if one.opens(password)}


def test_a_bucket_and_a_directory_heal_each_other(scene: Scene) -> None:
    """What was overwritten comes from its older version; what was deleted, from the other site.

    What may not be put is told object by object, and holds up nothing else; also not even a key that opens.
    """
    store = scene.repository()
    packs, snapshots = (keys_of(scene.bench, kind) for kind in ("data", "snapshots"))
    machine, recovery = sorted(
        (f"keys/{one.id}" for one in read_keys(store)), key=lambda key: key not in opened_by(store, MACHINE)
    )
    keys = [recovery]
    was = {key: store.get(key) for key in (packs[0], packs[1], snapshots[0], keys[0], "config")}
    for key in (packs[0], snapshots[0], keys[0]):
        store.put(key, flip(40)(was[key]) or b"")
    store.delete(packs[1])
    report = scene.heal(scene.limited())
    assert (report["exit_code"], report["healed"], report["healed_from"]) == (24, [snapshots[0]], {"a": 1})
    assert "older versions were not looked at: " in " ".join(report["notes"])
    lost = dict(one.split(": ", 1) for one in report["lost"])
    assert set(lost) == {packs[0], packs[1], keys[0]}
    for why in lost.values():
        assert "a has it whole; it can't be put: " in why
        assert "healing needs an identity that may overwrite (docs/sites.md#rights)" in why
    store.delete(machine)
    report = scene.heal(scene.limited())
    assert (report["exit_code"], machine in " ".join(report["lost"])) == (24, True)
    assert "the rest can only be looked at once that is healed" in report["notes"]
    store.delete("config")
    report = scene.heal(scene.site)
    assert (report["exit_code"], report["lost"]) == (0, [])
    assert report["healed_from"] == {"older version": 2, "a": 3}
    assert {key: store.get(key) for key in was} == was
    server = scene.minio
    place = f"s3:{server.url}/{scene.bucket}/repos/{scene.bench.repository}"
    access = {"AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret_key}
    assert "no errors were found" in run_restic(place, "check", "--read-data", "--no-lock", environment=access)
    befall(scene.bench, packs[2], gone)
    spec = scene.spec(SiteSpec("a", scene.bench.site), scene.site)
    report = run_healing(spec, lambda _: None).to_json()
    assert (report["exit_code"], report["healed_from"]) == (0, {"s3": 1})
