"""YAML with line numbers: shared.config.document."""

from __future__ import annotations

import pytest

from shared.config.document import parse


def test_lines_of_keys_and_items_are_known() -> None:
    """Every key and list entry has its line, from 1."""
    document = parse("a: 1\nb:\n  c:\n    - x\n    - y\n")
    got = {path: document.lines[path] for path in [("a",), ("b",), ("b", "c"), ("b", "c", 1)]}
    assert got == {("a",): 1, ("b",): 2, ("b", "c"): 3, ("b", "c", 1): 5}


def test_a_missing_key_has_the_line_of_what_holds_it() -> None:
    """An error about an absent key points at the mapping that lacks it."""
    document = parse("a: 1\nb:\n  c: 2\n")
    assert document.line(("b", "absent", "deeper")) == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("yes", "yes"),
        ("on", "on"),
        ("true", True),
        ("14:05", "14:05"),
        ("010", "010"),
        ("10", 10),
        ("-3", -3),
        ("1.5", 1.5),
        ("2026-01-01", "2026-01-01"),
        ("null", None),
        ("'5'", "5"),
        ("0 2 * * *", "0 2 * * *"),
    ],
)
def test_scalars_are_what_they_look_like(text: str, expected: object) -> None:
    """Words stay words, times stay text: YAML 1.1's surprises are off."""
    assert parse(f"key: {text}\n").data == {"key": expected}


def test_a_key_that_stands_twice_is_a_problem_at_its_line() -> None:
    """PyYAML would silently drop the first; a dropped policy is a lost backup."""
    document = parse("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n")
    got = [(problem.path, problem.line, problem.reason) for problem in document.problems]
    assert got == [(("b", "c"), 5, "stands twice, first in line 3")]


def test_anchors_and_merges_work_and_own_keys_win() -> None:
    """`<<` merges a mapping below the keys that stand beside it, which is no repetition."""
    document = parse("base: &base {a: 1, b: 2}\nown:\n  <<: *base\n  b: 3\n")
    assert (document.data, document.problems) == ({"base": {"a": 1, "b": 2}, "own": {"a": 1, "b": 3}}, [])


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nfull: * * * * *\n", 2, "stands in quotes"),
        ("a: 1\n\tb: 2\n", 2, "this is not YAML"),
        ("a: [1, 2\nb: 3\n", 2, "this is not YAML"),
        ("a: b: c\n", 1, "stands in quotes"),
        ("a: 1\nb: !!python/object:os.system x\n", 2, "this is not YAML"),
        ("a: &x [*x]\n", 1, "contains itself"),
        ("? [a, b]\n: 1\n", 1, "a key must be one word"),
        ("a: 1\n---\nb: 2\n", 2, "this is not YAML"),
    ],
)
def test_what_is_not_yaml_is_a_problem_with_its_line(text: str, line: int, words: str) -> None:
    """A syntax error names its line and, where one is known, the way out."""
    (problem,) = parse(text).problems
    assert (problem.line, words in problem.reason) == (line, True)


def test_aliases_that_multiply_end_in_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few lines of aliases must not fill the memory."""
    monkeypatch.setattr("shared.config.document._NODES_AT_MOST", 1000)
    lines = ["l0: &l0 [x]"] + [f"l{n}: &l{n} [*l{n - 1}, *l{n - 1}, *l{n - 1}]" for n in range(1, 12)]
    (problem,) = parse("\n".join(lines)).problems
    assert "too large" in problem.reason


@pytest.mark.parametrize(
    "text", ["- " * 200_000, "[" * 200_000, "{a: " * 100_000, "".join(f"{' ' * n}a:\n" for n in range(2000))]
)
def test_what_is_nested_without_end_is_a_problem(text: str) -> None:
    """A process that watches its files must not be ended by one: libyaml's stack would overflow."""
    (problem,) = parse(text).problems
    assert "nested too deeply" in problem.reason


def test_what_only_looks_deep_is_read() -> None:
    """Brackets in a text, and lines that stand far in."""
    text = "a: '" + "[" * 500 + "'\nb: >\n" + " " * 300 + "far in\n"
    assert parse(text).data == {"a": "[" * 500, "b": "far in\n"}


def test_characters_that_yaml_forbids_are_a_problem() -> None:
    """A control character is named instead of ending in a traceback."""
    (problem,) = parse("a: \x01\n").problems
    assert problem.reason.startswith("this is not YAML")


def test_an_empty_file_has_no_data() -> None:
    """Nothing is no mapping; the loader says so."""
    assert parse("").data is None
