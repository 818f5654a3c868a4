"""What all snapshots refer to: every distinct tree is read once, by the helpers.

Invariant: what is known to be used only grows, so it may be gathered before the lock that excludes backups is taken:
under that lock only snapshots that are new since then are walked. A tree never changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shared.repository.errors import Damaged
from shared.repository.repository import Repository
from workers.crew import Crew, Task
from workers.maintenance.used import UsedIds

_BATCH = 256  # trees in one task


class Walk:
    """See the module. `unfound`: trees that could not be read, with the reason; each walk tries them again."""

    def __init__(self, repo: Repository, crew: Crew, progress: Callable[[str, int, int], None]) -> None:
        self.used = UsedIds()
        self.unfound: dict[bytes, str] = {}
        self.snapshots: set[str] = set()  # at the last look
        self._walked: set[str] = set()
        self._repo = repo
        self._crew = crew
        self._progress = progress

    def walk(self) -> None:
        """List the snapshots and walk what is new. Raises Damaged where one can't be read, StorageError."""
        pending = list(self.unfound)
        self.unfound.clear()
        now: set[str] = set()
        try:
            for snapshot in self._repo.snapshots():
                self._progress("snapshots", len(now), 0)
                now.add(snapshot.id)
                if snapshot.id not in self._walked and self._meet(snapshot.tree):
                    pending.append(snapshot.tree)
        except Damaged as error:
            raise Damaged(
                f"{error.args[0]}; nothing was pruned, as what it needs is not known",
                hint="Bring it back from another site, or delete it if nobody wants it any more",
            ) from error
        self._go(pending)
        self.snapshots = now
        self._walked |= now

    def _meet(self, tree: bytes) -> bool:
        if tree in self.used.trees:
            return False
        self.used.trees.add(tree)
        return True

    def _go(self, pending: list[bytes]) -> None:
        done = 0

        def next_task() -> Task | None:
            if not pending:
                return None
            size = min(_BATCH, max(1, len(pending) // len(self._crew)))
            batch = pending[-size:]
            del pending[-size:]
            return "trees", batch

        def handle(answer: Any) -> None:
            nonlocal done
            _, found, wrong = answer
            done += len(found) + len(wrong)
            self.unfound.update(wrong)
            for _, subtrees in found:
                pending.extend(tree for tree in subtrees if self._meet(tree))
            self._progress("trees", done, len(self.used.trees))

        self._crew.run(next_task, handle)
        self._crew.broadcast(("used",), lambda answer: self.used.extend(answer[1]))
