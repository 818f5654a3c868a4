"""YAML with line numbers: plain data, the line of every key, and no surprises.

Two of YAML 1.1's habits would harm a fleet's file and are switched off: `yes`, `no`, `on` and `off` stay text, and
`14:05` is not a number to the base of 60. A key that stands twice is an error, where YAML would drop the first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias, cast

import yaml

from shared.config.problems import Path, Problem

if TYPE_CHECKING:
    from yaml import SafeLoader as _Base
else:
    _Base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a PyYAML built without libyaml is only slower

_NODES_AT_MOST = 2_000_000  # aliases of aliases can ask for more than any memory holds
_DEPTH_AT_MOST = 100  # mappings and lists in each other; a configuration has ten
_BRACKETS = re.compile(r"[\[{}\]]")
_FAR_IN = re.compile(
    rf"^[ ?:-]{{{_DEPTH_AT_MOST}}}", re.MULTILINE
)  # a block is a column further in than the one around
_MERGE = "tag:yaml.org,2002:merge"

Lines: TypeAlias = dict[Path, int]


class _Loader(_Base):
    """YAML 1.2's core scalars only."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - as PyYAML declares it


_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|)$"), ["~", "n", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), ["t", "f"])
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+\.[0-9]+$"), list("-+0123456789"))
_Loader.add_implicit_resolver(_MERGE, re.compile(r"^<<$"), ["<"])


@dataclass(slots=True)
class Document:
    """What a file says: `data` of dicts, lists and scalars, `lines` by path (from 1), problems of its form."""

    data: object = None
    lines: Lines = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def line(self, path: Path) -> int:
        """The line of a key, or of the nearest key above it that stands in the file; 0 for the file itself."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 0)


def parse(text: str) -> Document:
    """Read YAML. What is wrong with its form stands in `problems`; then `data` holds what could be read."""
    document = Document()
    loader = _Loader(text)
    try:
        if _looks_deep(text):
            _bound_depth(text)
        node = loader.get_single_node()
        if node is not None:
            document.data = _Builder(loader, document).build(node, (), ())
    except yaml.MarkedYAMLError as error:
        document.problems.append(Problem((), _line(error), _reason(error)))
    except yaml.YAMLError as error:  # a character that YAML does not allow
        document.problems.append(Problem((), 0, f"this is not YAML: {error}".replace("\n", " ")))
    finally:
        loader.dispose()
    return document


def _looks_deep(text: str) -> bool:
    """Whether the text may nest deeply; quickly, for to know it takes a fifth of the time that reading takes."""
    depth = deepest = 0
    for found in _BRACKETS.finditer(text):
        depth = max(0, depth + (1 if found[0] in "[{" else -1))
        deepest = max(deepest, depth)
    return deepest > _DEPTH_AT_MOST or _FAR_IN.search(text) is not None


def _bound_depth(text: str) -> None:
    """Raises MarkedYAMLError where libyaml would overflow its stack, and take the process with it."""
    depth = 0
    for event in yaml.parse(text, Loader=_Base):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _DEPTH_AT_MOST:
            raise yaml.MarkedYAMLError(
                problem="it is nested too deeply", problem_mark=cast("yaml.Mark", event.start_mark)
            )


class _Builder:
    """Turns nodes into data; written out because PyYAML's own constructor forgets lines and repeated keys."""

    def __init__(self, loader: _Loader, document: Document) -> None:
        self._loader = loader
        self._document = document
        self._count = 0

    def build(self, node: yaml.Node, path: Path, above: tuple[yaml.Node, ...]) -> object:
        self._count += 1
        if self._count > _NODES_AT_MOST:
            raise yaml.MarkedYAMLError(problem="aliases make it too large", problem_mark=node.start_mark)
        if any(node is other for other in above):
            raise yaml.MarkedYAMLError(problem="an alias contains itself", problem_mark=node.start_mark)
        self._document.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, (*above, node))
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*path, number), (*above, node)) for number, item in enumerate(node.value)]
        value: object = self._loader.construct_object(node)
        return value

    def _mapping(self, node: yaml.MappingNode, path: Path, above: tuple[yaml.Node, ...]) -> dict[str, object]:
        first: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be one word", problem_mark=key.start_mark)
            line = key.start_mark.line + 1
            if key.tag != _MERGE and key.value in first:
                reason = f"stands twice, first in line {first[key.value]}"
                self._document.problems.append(Problem((*path, key.value), line, reason))
            first.setdefault(key.value, line)
        self._loader.flatten_mapping(node)  # `<<: *defaults`; what is merged in comes first, so own keys win
        data: dict[str, object] = {}
        for key, value in node.value:
            self._document.lines[(*path, key.value)] = key.start_mark.line + 1
            data[key.value] = self.build(value, (*path, key.value), above)
        return data


def _line(error: yaml.MarkedYAMLError) -> int:
    mark = error.problem_mark or error.context_mark
    return mark.line + 1 if mark else 0


def _reason(error: yaml.MarkedYAMLError) -> str:
    said = " ".join(part for part in (error.context, error.problem) if part)
    hint = ""
    if "alias" in said and "contains itself" not in said:
        hint = '; a value that begins with * stands in quotes: "*"'
    elif "\\t" in said or "cannot start any token" in said:
        hint = "; indent with spaces, and put a value with special characters in quotes"
    elif "mapping values are not allowed" in said:
        hint = '; a value that holds ": " stands in quotes'
    return f"this is not YAML: {said}{hint}"
