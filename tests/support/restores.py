"""Restores that may fail: their results, events and what they left behind."""

from __future__ import annotations

import os
from typing import Any

from tests.support.backups import PASSWORD, REPOSITORY, Shop
from workers.backup.spec import SiteSpec
from workers.maintenance.spec import VerifyReport, VerifySpec
from workers.maintenance.verify import run_verify
from workers.restore.run import run_restore
from workers.restore.spec import RestoreResult, RestoreSpec


def restore_spec(shop: Shop, name: str = "target", **options: Any) -> RestoreSpec:
    """A restore of the shop's latest snapshot into a folder beside it."""
    fields: dict[str, Any] = {
        "site": SiteSpec("a", shop.site),
        "repository": REPOSITORY,
        "passwords": [PASSWORD],
        "target": "" if options.get("in_place") else os.path.join(shop.base, name),
        "cache_dir": shop.cache,
        "helpers": 2,
        **options,
    }
    return RestoreSpec(**fields)


def restore(shop: Shop, name: str = "target", **options: Any) -> RestoreResult:
    """Run it."""
    return run_restore(restore_spec(shop, name, **options), shop.events.append)


def target_of(shop: Shop, name: str = "target") -> str:
    """Where `restore` writes."""
    return os.path.join(shop.base, name)


def verify(shop: Shop, **options: Any) -> VerifyReport:
    """Verify the shop's repository."""
    fields: dict[str, Any] = {"passwords": [PASSWORD], "cache_dir": shop.cache, "helpers": 2, **options}
    spec = VerifySpec(site=SiteSpec("a", shop.site), repository=REPOSITORY, **fields)
    return run_verify(spec, shop.events.append)


def names_below(folder: str) -> list[str]:
    """Everything in a folder, by relative path."""
    return sorted(
        os.path.relpath(os.path.join(at, name), folder)
        for at, directories, files in os.walk(folder)
        for name in (*directories, *files)
    )
