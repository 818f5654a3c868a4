"""docs/metrics.md, the rules and the runbook say what the table of metrics says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.main import COMMANDS
from shared.observability.metrics import ERROR_CLASSES, METRICS, OTHER, MetricType, error_class

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/metrics.md").read_text()
RUNBOOK = (ROOT / "docs/runbook.md").read_text()
RULES = (ROOT / "deploy/prometheus/holdfast.rules.yml").read_text()
RULE_TESTS = (ROOT / "deploy/prometheus/holdfast.rules.test.yml").read_text()
NAMES = {metric.name: metric for metric in METRICS}
ALL_RULES: list[dict[str, Any]] = [rule for group in yaml.safe_load(RULES)["groups"] for rule in group["rules"]]
ALERTS = [rule for rule in ALL_RULES if "alert" in rule]
RECORDS = {rule["record"]: str(rule["expr"]) for rule in ALL_RULES if "record" in rule}
TESTED: list[dict[str, Any]] = [one for test in yaml.safe_load(RULE_TESTS)["tests"] for one in test["alert_rule_test"]]
OF_A_SOURCE = {"source", "owner", "policy", "executor", "site"}


def test_every_metric_is_documented_as_it_is() -> None:
    """Each row of the page's tables is a metric with its type, labels and help, each metric once, and none else."""
    rows = re.findall(r"^\| `(holdfast_\w+)` \| (\w+) \| (.*?) ?\| (.*?) \|$", PAGE, re.MULTILINE)
    got = sorted((name, kind, tuple(re.findall(r"`(\w+)`", labels)), text) for name, kind, labels, text in rows)
    assert got == sorted((metric.name, metric.type.value, metric.labels, metric.help) for metric in METRICS)


@pytest.mark.parametrize("text", [PAGE, RUNBOOK, RULES, RULE_TESTS], ids=["page", "runbook", "rules", "tests"])
def test_every_metric_that_is_named_exists(text: str) -> None:
    """No document and no rule names a metric that is not served; `holdfast_queue_*` stands for several."""
    named = {name for name in re.findall(r"(?<!:)\bholdfast_[a-z_]+\b", text) if not name.endswith("_")}
    assert named - set(NAMES) == set()
    assert named != set()


def labels_of(expression: str) -> set[str]:
    """The labels that the series of an expression may bear: those of its metrics, through what is recorded."""
    found = {label for name in re.findall(r"(?<![:\w])holdfast_[a-z_]+", expression) for label in NAMES[name].labels}
    for record in re.findall(r"\w+:holdfast_\w+:\w+", expression):
        found |= labels_of(RECORDS[record])
    return found | ({"job", "instance"} if re.search(r"\bup\{", expression) else set())


def test_every_label_in_the_rules_exists() -> None:
    """What a rule selects or joins by is a label of some metric of that rule; what it reads is recorded."""
    for rule in ALL_RULES:
        expression = str(rule["expr"])
        used = re.findall(r"\b(?:by|on|group_left) \(([\w, ]*)\)", expression)
        selected = re.findall(r"(\w+)!?=~?\"", expression)
        wanted = {label for group in used for label in group.split(", ") if label} | set(selected)
        assert wanted - labels_of(expression) == set(), rule
    assert [name for name in RECORDS if not re.fullmatch(r"(?:source|fleet):holdfast_[a-z_]+:[a-z_]+", name)] == []


def test_alerts_on_sources_bear_what_they_are_routed_and_held_back_by() -> None:
    """Owner, site and executor come through each join, and `scope` says that a site's own alert stands for them."""
    scoped = [rule for rule in ALERTS if rule["labels"].get("scope") == "source"]
    assert [rule["alert"] for rule in scoped if not labels_of(str(rule["expr"])) >= OF_A_SOURCE] == []
    assert {rule["alert"] for rule in ALERTS if "$labels.source" in str(rule["annotations"])} == {
        *(rule["alert"] for rule in scoped),
        "HoldfastClaimDisproved",  # told even while the site is out
    }


def test_names_follow_prometheus() -> None:
    """A counter ends in _total, and nothing else does; what is measured ends in its unit."""
    for metric in METRICS:
        assert re.fullmatch(r"holdfast_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.type is MetricType.COUNTER)
        assert not metric.name.endswith(("_time", "_ms", "_minutes", "_mb", "_count", "_sum", "_bucket"))
    assert len(NAMES) == len(METRICS)


@pytest.mark.parametrize("rule", ALERTS, ids=[rule["alert"] for rule in ALERTS])
def test_every_alert_is_complete(rule: dict[str, Any]) -> None:
    """Severity, summary, description, a section of the runbook with its three questions, and a test by promtool."""
    alert = rule["alert"]
    assert rule["labels"]["severity"] in {"critical", "warning", "none"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{alert.lower()}"
    section = re.search(rf"^## {alert}\n(.*?)(?=^## |\Z)", RUNBOOK, re.MULTILINE | re.DOTALL)
    assert section is not None
    for question in ("**It means**", "**Look first**", "**Mend it**"):
        assert question in section[1]
    outcomes = {bool(test["exp_alerts"]) for test in TESTED if test["alertname"] == alert}
    assert outcomes == ({True} if alert == "HoldfastWatchdog" else {True, False})  # it fires, and it stays silent


def test_the_runbook_has_no_section_without_an_alert() -> None:
    """An alert that goes takes its section with it."""
    assert re.findall(r"^## (\w+)$", RUNBOOK, re.MULTILINE) == [rule["alert"] for rule in ALERTS]


def test_the_runbook_names_commands_that_exist() -> None:
    """At three in the morning a command that is not there is worse than none."""
    named = set(re.findall(r"`holdfast ([a-z]+)", RUNBOOK + PAGE))
    assert named - set(COMMANDS) == set()
    assert named != set()


def test_classes_of_errors_are_the_documented_ones() -> None:
    """The label `class` is the error's name in docs/exit-codes.md; what is not there is "other"."""
    page = (ROOT / "docs/exit-codes.md").read_text()
    documented = {int(code): name for code, name in re.findall(r"^\| (\d+) \| `(\w+)` \|", page, re.MULTILINE)}
    assert {code: documented.get(code) for code in ERROR_CLASSES} == ERROR_CLASSES
    assert (error_class(32), error_class(4711)) == ("Denied", OTHER)
