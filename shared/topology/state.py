"""What the sites agree on, and the changes that there are. Pure: how they agree is `register`.

Invariants: an epoch only rises, and every change but a note of the machine's raises it, so who holds an old one may
delete nothing more. A site that stands in for another is a member that keeps copies, and no chain of stand-ins is a
circle. A change that is made twice by the same claimant is made once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

HISTORY = 200  # changes that are kept, the newest


@dataclass(frozen=True, order=True, slots=True)
class Epoch:
    """A reign of a topology; ordered. The `claimant` is whoever made it, and a word of its own."""

    number: int = 0
    claimant: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """One line of the history. `at` in POSIX seconds; `behind`: what was thought lost, for people."""

    epoch: Epoch
    at: float
    what: str
    why: str
    by: str
    behind: str = ""


@dataclass(frozen=True, slots=True)
class State:
    """All of it. `members` vote; those that are no `witnesses` keep copies, too.

    `stand_ins`: by a site, the one that has taken its place. `notes`: what the failover's machine keeps, by site.
    """

    epoch: Epoch = Epoch()
    members: tuple[str, ...] = ()
    witnesses: tuple[str, ...] = ()
    stand_ins: Mapping[str, str] = field(default_factory=dict)
    region: str = ""  # which one schedules; empty: the configuration's first
    notes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    history: tuple[Change, ...] = ()

    def primary(self, configured: str) -> str:
        """The site that is primary where the configuration names this one."""
        site, passed = configured, {configured}
        while (after := self.stand_ins.get(site)) is not None and after not in passed:
            site = after
            passed.add(site)
        return site

    @property
    def keepers(self) -> tuple[str, ...]:
        """The members that keep copies."""
        return tuple(name for name in self.members if name not in self.witnesses)

    # -- changes: each gives the state after it, or the same one where it was made before -----------

    def promote(self, site: str, to: str, made: Change) -> State:
        """Let `to` stand in for `site`. Where `to` had a stand-in itself, it has none any more."""
        stand_ins = {name: other for name, other in self.stand_ins.items() if name != to}
        return self._after(made, stand_ins={**stand_ins, site: to})

    def give_back(self, site: str, made: Change) -> State:
        """Let `site` be primary again where the configuration says so."""
        return self._after(made, stand_ins={name: to for name, to in self.stand_ins.items() if name != site})

    def schedule_in(self, region: str, made: Change) -> State:
        """Let another region schedule."""
        return self._after(made, region=region)

    def admit(self, site: str, made: Change, *, witness: bool = False) -> State:
        """Let one more site vote."""
        others = tuple(name for name in self.witnesses if name != site)
        return self._after(
            made,
            members=tuple(sorted({*self.members, site})),
            witnesses=tuple(sorted((*others, site))) if witness else others,
        )

    def dismiss(self, site: str, made: Change) -> State:
        """Let a site vote no more. For whom it stood in, its own stand-in does now, or nobody."""
        after = self.stand_ins.get(site)
        return self._after(
            made,
            members=tuple(name for name in self.members if name != site),
            witnesses=tuple(name for name in self.witnesses if name != site),
            stand_ins={
                name: other
                for name, to in self.stand_ins.items()
                if (other := after if to == site else to) is not None and other != name
            },
            notes={name: note for name, note in self.notes.items() if name != site},
        )

    def note(self, site: str, note: Mapping[str, Any]) -> State:
        """What the machine is to remember of a site, in whatever region it goes on: no new epoch."""
        return replace(self, notes={**self.notes, site: dict(note)})

    def _after(self, made: Change, **changed: Any) -> State:
        if made.epoch.claimant in {one.epoch.claimant for one in self.history}:
            return self  # it was made, and others have been since; whoever asked had no answer
        return replace(self, epoch=made.epoch, history=(*self.history, made)[-HISTORY:], **changed)

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "epoch": [self.epoch.number, self.epoch.claimant],
            "members": list(self.members),
            "witnesses": list(self.witnesses),
            "stand_ins": dict(self.stand_ins),
            "region": self.region,
            "notes": {name: dict(note) for name, note in self.notes.items()},
            "history": [
                [one.epoch.number, one.epoch.claimant, one.at, one.what, one.why, one.by, one.behind]
                for one in self.history
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> State:
        """The same, back. Raises KeyError, TypeError, ValueError where it is not that."""
        return cls(
            epoch=Epoch(int(data["epoch"][0]), str(data["epoch"][1])),
            members=tuple(data["members"]),
            witnesses=tuple(data["witnesses"]),
            stand_ins=dict(data["stand_ins"]),
            region=str(data["region"]),
            notes={name: dict(note) for name, note in data["notes"].items()},
            history=tuple(
                Change(Epoch(number, claimant), at, what, why, by, behind)
                for number, claimant, at, what, why, by, behind in data["history"]
            ),
        )
