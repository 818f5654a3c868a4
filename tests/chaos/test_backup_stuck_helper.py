"""Asked to stop while a helper hangs (reading from a network mount that is gone, say): the backup ends all the same."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from shared.errors import Interrupted
from tests.support.backups import PASSWORD, REPOSITORY, Shop, write
from workers.backup import run
from workers.backup.engine import coordinator
from workers.backup.spec import BackupSpec, Selection, SiteSpec
from workers.helpers import HelperPool

RESCUE = 20.0  # seconds after which the helper goes on, lest the test should hang


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A source of a hundred files, and packs so small that there are many."""
    made = Shop(str(tmp_path))
    for number in range(100):
        write(f"{made.source}/d{number % 10}/f{number}", os.urandom(40_000))
    return made


class Hanging:
    """Makes the first helper hang, and asks the backup to stop, at a chosen event or message to all helpers."""

    def __init__(self, when: str) -> None:
        self.when = when
        self.pids: list[int] = []
        self.rescue: threading.Timer | None = None

    def come(self, what: str) -> None:
        """Something has happened."""
        if what == self.when and self.rescue is None:
            stuck = self.pids[0]
            os.kill(stuck, signal.SIGSTOP)
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            self.rescue = threading.Timer(RESCUE, os.kill, (stuck, signal.SIGCONT))
            self.rescue.start()

    def pool(self) -> type[HelperPool]:
        """A pool that tells of what it sends to all."""
        hanging = self

        class Pool(HelperPool):
            def broadcast(self, message: Any) -> None:
                hanging.pids = list(self.pids)
                hanging.come(message[0])
                super().broadcast(message)

        return Pool


@pytest.mark.parametrize("when", ["packed", "flush"])
def test_it_ends_and_keeps_what_was_packed(shop: Shop, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """In mid-scan, or when all is scanned: packs that were told of are indexed; no lock and no helper is left."""
    hanging = Hanging(when)
    monkeypatch.setattr(run, "HelperPool", hanging.pool())
    monkeypatch.setattr(coordinator, "STOP_PATIENCE", 0.5, raising=False)
    packed: set[str] = set()

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "packed":
            packed.add(event["pack"])
        hanging.come(event["event"])

    spec = BackupSpec(
        site=SiteSpec("a", shop.site),
        repository=REPOSITORY,
        source="web1",
        run="stuck",
        selection=Selection([shop.source]),
        passwords=[PASSWORD],
        cache_dir=shop.cache,
        pack_size=256 << 10,
        helpers=2,
    )
    began = time.monotonic()
    try:
        with pytest.raises(Interrupted, match="the backup was stopped"):
            run.run_backup(spec, on_event)
        took = time.monotonic() - began
    finally:
        if hanging.rescue is not None:
            hanging.rescue.cancel()
    assert took < 8
    assert (shop.names("locks"), shop.names("snapshots")) == (set(), set())
    assert packed
    assert packed <= {pack.hex() for pack, _ in shop.blobs().values()}
    with pytest.raises(ProcessLookupError):
        os.kill(hanging.pids[0], 0)
    assert run.run_backup(spec, lambda _: None).complete
    shop.check()
