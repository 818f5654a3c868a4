"""Which policy a source follows: of those that select it the most specific one.

Thousands of sources and hundreds of policies are matched when a file is loaded, so policies are found by a label that
they ask for, and sources that are labelled alike are looked at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shared.config.models import Policy

_ANY = ""  # no label's value


class PolicyChoice:
    """The policies of a file, by what they select."""

    def __init__(self, policies: Iterable[Policy]) -> None:
        self._by_label: dict[tuple[str, str], list[tuple[int, Policy]]] = {}
        self._others: list[tuple[int, Policy]] = []  # ask for no label, or only that there is none
        self._known: dict[tuple[tuple[str, str], ...], tuple[Policy, ...]] = {}
        for number, policy in enumerate(policies):
            wanted = min(
                (term for term in policy.select.terms if not term.negated),
                key=lambda term: len(term.values) or 1000,
                default=None,
            )
            if wanted is None:
                self._others.append((number, policy))
                continue
            for value in wanted.values or (_ANY,):
                self._by_label.setdefault((wanted.key, value), []).append((number, policy))

    def selecting(self, labels: Mapping[str, str]) -> tuple[Policy, ...]:
        """All that select a source of these labels, the most specific first, else in the file's order."""
        known = tuple(sorted(labels.items()))
        if known not in self._known:
            found = list(self._others)
            for key, value in known:
                found += self._by_label.get((key, value), [])
                found += self._by_label.get((key, _ANY), [])
            found = [(number, policy) for number, policy in found if policy.select.matches(labels)]
            found.sort(key=lambda one: (-one[1].select.rank, one[0]))
            self._known[known] = tuple(policy for _, policy in found)
        return self._known[known]

    def best(self, labels: Mapping[str, str]) -> tuple[Policy, ...]:
        """The most specific of them: one, none, or (a contradiction in the file) several."""
        found = self.selecting(labels)
        return tuple(policy for policy in found if policy.select.rank == found[0].select.rank)
