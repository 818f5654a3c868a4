"""Which sources a policy is for: an expression over labels, and how specific it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import PlainValidator

from shared.config.values import LABEL, expected

_WORDS = (
    'labels to select by: "*" for all, or terms with commas between them, each "tier=1", "tier!=1", "tier in (1, 2)", '
    '"tier not in (1, 2)", "exists tier" or "!tier"'
)
_OUTSIDE = re.compile(r",(?![^(]*\))")  # a comma that no parentheses surround
_ONE_OF = re.compile(r"(\S+)\s+(not\s+)?in\s*\(([^()]*)\)")
_EQUALS = re.compile(r"([^\s!=]+)\s*(!?)=\s*([^\s=]+)")
_EXISTS = re.compile(r"(?:exists\s+|(!)\s*)(\S+)")


@dataclass(frozen=True, slots=True)
class Term:
    """One condition. A source without the label fulfils a negated one."""

    key: str
    values: frozenset[str] = frozenset()  # of which the label has one; empty: any
    negated: bool = False

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether a source of these labels fulfils it."""
        found = labels.get(self.key)
        return (found in self.values if self.values else found is not None) is not self.negated

    def __str__(self) -> str:
        if not self.values:
            return f"!{self.key}" if self.negated else f"exists {self.key}"
        if len(self.values) == 1:
            return f"{self.key}{'!=' if self.negated else '='}{min(self.values)}"
        return f"{self.key}{' not' if self.negated else ''} in ({', '.join(sorted(self.values))})"


@dataclass(frozen=True, slots=True)
class Selector:
    """`*`, or terms of which every one must hold. Of those that select a source the one with most terms wins."""

    text: str
    terms: tuple[Term, ...] = ()  # each once

    @property
    def rank(self) -> int:
        """How specific it is: the number of its different terms."""
        return len(self.terms)

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether a source of these labels is meant."""
        return all(term.holds(labels) for term in self.terms)

    def __str__(self) -> str:
        return self.text

    @classmethod
    def parse(cls, value: object) -> Selector:
        """Read an expression; raises a PydanticCustomError."""
        if isinstance(value, cls):
            return value
        if not isinstance(value, str):
            raise expected(_WORDS)
        text = value.strip()
        if text == "*":
            return cls("*")
        return cls(text, tuple(dict.fromkeys(_term(part.strip()) for part in _OUTSIDE.split(text))))


def _term(text: str) -> Term:
    if match := _ONE_OF.fullmatch(text):
        key, negated, listed = match.groups()
        values = [one.strip() for one in listed.split(",")]
    elif match := _EQUALS.fullmatch(text):
        key, negated, value = match.groups()
        values = [value]
    elif match := _EXISTS.fullmatch(text):
        negated, key = match.groups()
        values = []
    else:
        raise expected(_WORDS)
    if not all(LABEL.fullmatch(one) for one in (key, *values)):
        raise expected(_WORDS)
    return Term(key, frozenset(values), bool(negated))


Select = Annotated[Selector, PlainValidator(Selector.parse)]
