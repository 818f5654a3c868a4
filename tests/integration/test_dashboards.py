"""deploy/grafana: each query of each dashboard is one that a running Prometheus takes, and reads what exists."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.observability.metrics import METRICS
from tests.support.fleets import SmallFleet
from tests.support.ledgers import own_ledger, until
from tests.support.monitoring import ROOT, RULES, ExporterServer, PrometheusServer, get

GRAFANA = Path(ROOT) / "deploy/grafana"
DASHBOARDS = {path.name: json.loads(path.read_text()) for path in sorted((GRAFANA / "dashboards").glob("*.json"))}
QUERIES = [
    (name, panel["title"], target["expr"], target["legendFormat"])
    for name, dashboard in DASHBOARDS.items()
    for panel in dashboard["panels"]
    for target in panel["targets"]
]
LABELS = {metric.name: set(metric.labels) for metric in METRICS}
RULE_LIST = [rule for group in yaml.safe_load(Path(RULES).read_text())["groups"] for rule in group["rules"]]
RECORDS = {rule["record"]: str(rule["expr"]) for rule in RULE_LIST if "record" in rule}
CHOSEN = {"owner": "ops", "source": "web1", "queue": ".*", "label": "team"}


def labels_of(expression: str) -> set[str]:
    """The labels that the series of an expression may bear, through what is recorded."""
    found = {label for name in re.findall(r"(?<![:\w])holdfast_[a-z_]+", expression) for label in LABELS[name]}
    for record in re.findall(r"\w+:holdfast_\w+:\w+", expression):
        found |= labels_of(RECORDS[record])
    return found


def test_the_files_are_what_is_written_down() -> None:
    """dashboards.yml is what people change; `build.py` makes the rest."""
    spec = importlib.util.spec_from_file_location("build", GRAFANA / "build.py")
    assert spec is not None
    assert spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    written = {path.name: path.read_text() for path in (GRAFANA / "dashboards").iterdir()}
    assert written == build.all_dashboards()


@pytest.mark.parametrize(("name", "title", "expression", "legend"), QUERIES)
def test_queries_read_what_exists(name: str, title: str, expression: str, legend: str) -> None:
    """Metrics, recorded series, labels and variables are all there; a typing error would be an empty panel."""
    assert set(re.findall(r"(?<![:\w])holdfast_[a-z_]+", expression)) <= set(LABELS), (name, title)
    assert set(re.findall(r"\w+:holdfast_\w+:\w+", expression)) <= set(RECORDS), (name, title)
    used = re.findall(r"\b(?:by|on|group_left) \(([\w, ]+)\)", expression)
    wanted = {label for group in used for label in group.split(", ")} | set(re.findall(r"(\w+)!?=~?\"", expression))
    wanted |= set(re.findall(r"{{(\w+)}}", legend))
    assert wanted <= labels_of(expression), (name, title)
    variables = {variable["name"] for variable in DASHBOARDS[name]["templating"]["list"]}
    assert set(re.findall(r"\$(\w+)", f"{title} {expression}")) <= variables, (name, title)


def test_every_variable_is_filled_and_used() -> None:
    """Its values are those of a label that the metric has, and something depends on it."""
    for name, dashboard in DASHBOARDS.items():
        for variable in dashboard["templating"]["list"]:
            (parts,) = re.findall(r"^label_values\((\w+), (\w+)\)$", variable["definition"])
            assert parts[1] in LABELS[parts[0]], name
            assert any(f"${variable['name']}" in query[2] for query in QUERIES if query[0] == name), name


def test_dashboards_fit_together() -> None:
    """Panels lie within the 24 columns and on no other; each names the data source that is provisioned."""
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    for name, dashboard in DASHBOARDS.items():
        assert name == f"{dashboard['uid']}.json"
        taken: set[tuple[int, int]] = set()
        for panel in dashboard["panels"]:
            at = panel["gridPos"]
            cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
            assert (max(x for x, _ in cells) < 24, cells & taken) == (True, set()), (name, panel["title"])
            taken |= cells
            assert {one["datasource"]["uid"] for one in (panel, *panel["targets"])} == {source["uid"]}
    assert len({dashboard["uid"] for dashboard in DASHBOARDS.values()}) == len(DASHBOARDS) == 4


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusServer]:
    """A Prometheus with the rules, that has scraped an exporter."""
    here = tmp_path_factory.mktemp("dashboards")
    with own_ledger(os.path.join(here, "valkey")) as (_, valkey):
        small = SmallFleet(os.path.join(here, "fleet"), broker=valkey.url, policy="full: 1d, rpo: 1h")
        small.change("web1: {", "web1: {owner: ops, labels: {team: shop}, ")
        with (
            ExporterServer(os.path.join(here, "exporter"), config=small.path) as exporter,
            PrometheusServer(
                os.path.join(here, "prometheus"), target=exporter.port, rules=os.path.abspath(RULES), alertmanager=9
            ) as server,
        ):
            until(lambda: asked(server, "source:holdfast_info:one")["result"], seconds=60, what="a scrape")
            yield server


def asked(server: PrometheusServer, expression: str) -> Any:
    """What Prometheus answers to a query; it must take it."""
    status, body = get(server.port, f"/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
    answer = json.loads(body)
    assert (status, answer["status"]) == (200, "success"), f"{expression}: {answer.get('error')}"
    return answer["data"]


@pytest.mark.parametrize(("name", "title", "expression", "legend"), QUERIES)
def test_a_real_prometheus_takes_each_query(
    prometheus: PrometheusServer, name: str, title: str, expression: str, legend: str
) -> None:
    """With the variables filled in; on series that are there, so that joins are tried, too."""
    for variable, value in CHOSEN.items():
        expression = expression.replace(f"${variable}", value)
    data = asked(prometheus, expression)
    legends = set(re.findall(r"{{(\w+)}}", legend))
    assert [series["metric"] for series in data["result"] if not legends <= set(series["metric"])] == []


@pytest.mark.parametrize(
    ("expression", "labels"),
    [
        ("sum by (owner) (source:holdfast_info:one)", {"owner": "ops"}),
        ("holdfast_source_label", {"label": "team", "value": "shop"}),
    ],
)
def test_the_fleet_is_seen(prometheus: PrometheusServer, expression: str, labels: dict[str, str]) -> None:
    """So that the queries above were asked of something."""
    (series,) = asked(prometheus, expression)["result"]
    assert series["metric"].items() >= labels.items()
