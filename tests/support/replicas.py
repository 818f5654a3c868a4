"""Two sites with one repository: what is replicated, and what must hold of it."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

from shared.retention import Rules
from tests.support.attempts import MACHINE, RECOVERY, Bench
from workers.backup.spec import SiteSpec
from workers.replication.run import run_replicate
from workers.replication.spec import ReplicateReport, ReplicateSpec

ADDED = ("keys", "data", "index", "snapshots")


def other(bench: Bench, name: str = "other") -> Bench:
    """A second site, and the cache of the host that replicates to it."""
    return Bench(os.path.join(bench.directory, name), bench.source, bench.repository)


def replicate_spec(origin: Bench, target: Bench, *, rules: Rules | None = None, **more: Any) -> ReplicateSpec:
    """From one to the other."""
    given: dict[str, Any] = {"passwords": [MACHINE, RECOVERY], "rules": rules, "cache_dir": target.cache, **more}
    sites = SiteSpec("b", target.site), SiteSpec("a", origin.site)
    return ReplicateSpec(*sites, origin.repository, "web1", "c" * 32, **given)


def replicate(origin: Bench, target: Bench, **more: Any) -> ReplicateReport:
    """Do it, in this process."""
    return run_replicate(replicate_spec(origin, target, **more), lambda _: None)


def replicate_json(origin: Bench, target: Bench, **more: Any) -> dict[str, Any]:
    """The spec, as the pipe carries it."""
    return asdict(replicate_spec(origin, target, **more))


def objects(bench: Bench) -> dict[str, set[str]]:
    """What lies there, by kind."""
    return {kind: bench.names(kind) for kind in (*ADDED, "locks", "holdfast")}
