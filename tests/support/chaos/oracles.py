"""What must be true when all is over. Each oracle returns what is not, in words; nothing is what is hoped for."""

from __future__ import annotations

import filecmp
import os
import re
from collections import Counter
from collections.abc import Sequence

from shared.ledger.ledger import Ledger
from shared.ledger.model import Run, RunKind, RunState, run_id_for_slot
from tests.support.chaos.evidence import Found
from tests.support.chaos.grounds import HOST, Grounds
from tests.support.chaos.people import Wishes

_GOOD = {RunState.SUCCEEDED, RunState.INCOMPLETE}
_BAD = {RunState.FAILED, RunState.CANCELLED}

_KEYS = re.compile(
    rf"hf:(?:h:{HOST}:)?(?:ledger|counter|counts|open|recent|pulse|workers"
    r"|run:[0-9a-f]{32}(?::packs|:children)?|(?:history|evidence|upkeep):s\d{3,4}|worker:[^:]+)"
    r"|hf:beat(?::.+|.+)?"
    rf"|(?:hf:h:{HOST}:)?(?:_kombu\.binding(?:_permanent)?\.[a-z0-9._:-]+|_kombu\.binding_deadlines"
    r"|unacked(?:_index|_mutex)?)"
    r"|holdfast\.events\.replication"
)


def all_final(found: Found) -> list[str]:
    """Every run has ended."""
    return [f"{_name(run)} is {run.state.value}" for run in found.runs if not run.state.is_final]


def all_true(found: Found) -> list[str]:
    """What is called done has exactly its snapshot at the site; what is called failed or cancelled has none."""
    wrong = []
    for run in found.runs:
        if not run.request.kind.is_backup:
            continue
        there = [
            snapshot.id for snapshot in found.stored[run.request.source].snapshots if snapshot.tag("run") == run.id
        ]
        if run.state in _GOOD and there != [run.result.get("snapshot")]:
            wrong.append(f"{_name(run)} {run.state.value} with {run.result.get('snapshot')}, at the site: {there}")
        if run.state in _BAD and there:
            wrong.append(f"{_name(run)} is called {run.state.value} ({run.error}), at the site: {there}")
        if run.state not in _GOOD | _BAD:
            wrong.append(f"{_name(run)} is {run.state.value}, and nobody forgot a snapshot")
    return wrong


def restored(found: Found, grounds: Grounds, wishes: Wishes) -> list[str]:
    """A restore that succeeded has brought back what every snapshot of its source holds."""
    states = {run.id: run.state for run in found.runs}
    wrong = []
    for asked in wishes.asked:
        if asked.target and states.get(asked.id) is RunState.SUCCEEDED:
            path = asked.target + grounds.place(asked.source) + "/stable"
            try:
                with open(path, "rb") as file:
                    if file.read() != grounds.stable(asked.source):
                        wrong.append(f"restore {asked.id}: {path} differs")
            except FileNotFoundError:
                wrong.append(f"restore {asked.id}: {path} is missing")
    return wrong


def all_explained(found: Found, wishes: Wishes) -> list[str]:
    """What failed says why; what was cancelled was so by a person, and what a person cancelled has ended."""
    wrong = [f"{_name(run)} failed and does not say why" for run in found.runs if _unsaid(run)]
    cancelled = {run.id for run in found.runs if run.state is RunState.CANCELLED}
    wrong += [f"{run} was cancelled by nobody" for run in cancelled - set(wishes.cancelled)]
    return wrong


def no_reason_but_faults(found: Found) -> list[str]:
    """A run fails for a fault that was made, and for nothing else."""
    return [
        f"{_name(run)} failed: {run.error}"
        for run in found.runs
        if run.state is RunState.FAILED and not _EXPECTED.match(run.error)
    ]


_EXPECTED = re.compile(r"given up after \d+ attempts; the last: |there is no (?:repository|snapshot)|our own lock")


def one_snapshot_a_slot(found: Found) -> list[str]:
    """A run has one snapshot at most, and so has a slot of a policy: runs by hand and --direct are no slots."""
    wrong = []
    for stored in found.stored.values():
        runs = Counter(snapshot.tag("run") for snapshot in stored.snapshots)
        slots: Counter[str] = Counter()
        for snapshot in stored.snapshots:
            policies = [tag.removeprefix("hf.policy=") for tag in snapshot.tags if tag.startswith("hf.policy=")]
            for policy in policies:
                for kind in (RunKind.FULL, RunKind.INCREMENTAL):
                    if run_id_for_slot(stored.source, policy, kind, snapshot.tag("slot")) == snapshot.tag("run"):
                        slots[snapshot.tag("slot")] += 1
        wrong += [f"{stored.source}: run {run} has {count} snapshots" for run, count in runs.items() if count > 1]
        wrong += [f"{stored.source}: slot {slot} has {count} snapshots" for slot, count in slots.items() if count > 1]
    return wrong


def nothing_lost(found: Found, wishes: Wishes, wiped: Sequence[float]) -> list[str]:
    """Every source has a backup; what a person asked for stands in the ledger, unless Redis was emptied since."""
    wrong = [f"{stored.source} was never backed up" for stored in found.stored.values() if not stored.snapshots]
    runs = {run.id: run for run in found.runs}
    last = max(wiped, default=0.0)
    for asked in wishes.asked:
        if asked.at > last + 1 and asked.id not in runs:
            wrong.append(f"{asked.kind.value} {asked.id} of {asked.source} was asked for and is gone")
        first, run = runs.get(asked.first), runs.get(asked.id)
        if asked.first and first and run and first is not run and first.ended > run.opened + 0.001:
            wrong.append(f"{_name(run)} did not join {_name(first)}, which was under way")
    for direct in wishes.direct:
        ids = {snapshot.id for snapshot in found.stored[direct.source].snapshots}
        if direct.code not in (0, 3) or direct.snapshot not in ids:
            wrong.append(f"--direct of {direct.source}: exit code {direct.code}, {direct.said}")
    return wrong


def evidence_is_true(found: Found, grounds: Grounds, ledger: Ledger) -> list[str]:
    """The ledger claims no slot that no snapshot at the site serves."""
    wrong = []
    for name, stored in found.stored.items():
        evidence = ledger.realm(grounds.host_of(name)).evidence(name, grounds.site_of(name))
        slots = [snapshot.tag("slot") for snapshot in stored.snapshots]
        # One by --direct has none, and counts from when it began, by the clock of whoever made it.
        if evidence and evidence.last not in slots and all(slots):
            wrong.append(f"{name}: the ledger claims slot {evidence.last}, the site has {sorted(slots)[-3:]}")
    return wrong


def repositories_whole(found: Found) -> list[str]:
    """Stock restic finds no error in any repository, all data read."""
    return [f"{stored.source}: {stored.check}" for stored in found.stored.values() if stored.check]


def no_locks(found: Found, killed: int, wiped: Sequence[float]) -> list[str]:
    """No lock is left but those that nobody can know of: of what is no backup, and of what Redis forgot by a wipe."""
    left = [(stored.source, lock) for stored in found.stored.values() for lock in stored.locks]
    backups = {run.id for run in found.runs if run.request.kind.is_backup}
    last = max(wiped, default=0.0)
    wrong = [
        f"{source}: {lock}"
        for source, lock in left
        if lock.hostname.rpartition("/")[2] in backups and found.at - lock.age > last
    ]
    if len(left) > killed:
        wrong.append(f"{len(left)} locks are left of {killed} processes that were killed")
    return wrong


def no_files(found: Found, killed: int) -> list[str]:
    """No journal of a run that has its snapshot; no more unfinished writes than processes were killed in one."""
    wrong = []
    for stored in found.stored.values():
        done = {snapshot.tag("run") for snapshot in stored.snapshots}
        names = {stored.journal_names[run]: run for run in done}
        wrong += [f"{stored.source}: a journal is left of run {names[name]}" for name in found.journals & names.keys()]
    if len(found.temporary) > 4 * killed:
        wrong.append(f"{len(found.temporary)} unfinished writes of {killed} processes that were killed")
    return wrong


def no_keys(found: Found, ledger: Ledger, killed: int) -> list[str]:
    """Redis holds what is documented, and no more of it than there are runs and deaths."""
    wrong = [f"unexpected key {key} ({kind})" for key, kind in found.keys.items() if not _KEYS.fullmatch(key)]
    states = {run.id: run.state for run in found.runs}
    journals = [key.split(":")[-2] for key in found.keys if key.endswith(":packs")]
    wrong += [f"the journal of {run}, {states.get(run)}" for run in journals if states.get(run) is not RunState.FAILED]
    unacked = int(ledger.client.hlen("unacked"))
    if unacked > killed:
        wrong.append(f"{unacked} messages are taken for unacknowledged, of {killed} processes that were killed")
    for key, kind in found.keys.items():
        if key.startswith("_kombu.binding.") and kind == "set" and int(ledger.client.scard(key)) > 20:
            wrong.append(f"{key} has {ledger.client.scard(key)} members")
    return wrong


def same(live: str, restored: str) -> list[str]:
    """Whether two trees hold the same: names, kinds, contents, modes."""
    compared = filecmp.dircmp(live, restored, ignore=[])
    wrong = [f"{live}: only in one: {name}" for name in compared.left_only + compared.right_only]
    for name in compared.common:
        one, other = os.path.join(live, name), os.path.join(restored, name)
        if os.path.islink(one):
            equal = os.path.islink(other) and os.readlink(one) == os.readlink(other)
        elif os.path.isdir(one):
            wrong += same(one, other)
            equal = True
        else:
            equal = filecmp.cmp(one, other, shallow=False)
        if not equal or os.lstat(one).st_mode != os.lstat(other).st_mode:
            wrong.append(f"{one} differs")
    return wrong


def _unsaid(run: Run) -> bool:
    return run.state in _BAD and not run.error


def _name(run: Run) -> str:
    return f"{run.request.kind.value} {run.id[:12]} of {run.request.source} (attempt {run.attempt})"
