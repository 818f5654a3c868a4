"""Write Grafana's dashboards from dashboards.yml: `python deploy/grafana/build.py`. A test holds one to the other."""

from __future__ import annotations

import json
import os
from typing import Any

import yaml

HERE = os.path.dirname(os.path.abspath(__file__))
DASHBOARDS = os.path.join(HERE, "dashboards")
DATASOURCE = {"type": "prometheus", "uid": "prometheus"}
_COLUMNS = 24
_SCHEMA = 39  # of Grafana 10 and newer
_KINDS = ("stat", "timeseries", "table", "bargauge")
_TECHNICAL = ("Time", "__name__", "instance", "job")


def all_dashboards() -> dict[str, str]:
    """The text of each file by its name."""
    with open(os.path.join(HERE, "dashboards.yml"), encoding="utf-8") as file:
        told = yaml.safe_load(file)
    return {f"{uid}.json": json.dumps(_dashboard(uid, one), indent=1) + "\n" for uid, one in told.items()}


def _dashboard(uid: str, told: dict[str, Any]) -> dict[str, Any]:
    panels = []
    x = y = tallest = 0
    for number, panel in enumerate(told["panels"], 1):
        width, height = panel["size"]
        if x + width > _COLUMNS:
            x, y, tallest = 0, y + tallest, 0
        panels.append({"id": number, "gridPos": {"x": x, "y": y, "w": width, "h": height}, **_panel(panel)})
        x, tallest = x + width, max(tallest, height)
    return {
        "uid": uid,
        "title": told["title"],
        "tags": ["holdfast"],
        "schemaVersion": _SCHEMA,
        "version": 1,
        "editable": True,
        "refresh": "1m",
        "time": {"from": "now-24h", "to": "now"},
        "links": [{"type": "dashboards", "tags": ["holdfast"], "title": "Holdfast", "asDropdown": True}],
        "templating": {
            "list": [_variable(name, values, several=told["several"]) for name, values in told["variables"].items()]
        },
        "panels": panels,
    }


def _panel(told: dict[str, Any]) -> dict[str, Any]:
    (kind,) = (kind for kind in _KINDS if kind in told)
    now = kind != "timeseries"
    targets = [
        {
            "refId": chr(ord("A") + number),
            "datasource": DATASOURCE,
            "expr": expression,
            "legendFormat": legend,
            "instant": now,
            "range": not now,
            **({"format": "table"} if kind == "table" else {}),
        }
        for number, (expression, legend) in enumerate(told["queries"])
    ]
    defaults = {"unit": told.get("unit", "short"), **_thresholds(told.get("red_above"), told.get("red_below"))}
    made: dict[str, Any] = {
        "type": kind,
        "title": told[kind],
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {},
        "targets": targets,
    }
    if "says" in told:
        made["description"] = told["says"]
    hidden = [name for one in told.get("hide", ()) for name in (_TECHNICAL if one == "technical" else (one,))]
    if hidden:
        made["transformations"] = [{"id": "organize", "options": {"excludeByName": dict.fromkeys(hidden, True)}}]
    return made


def _thresholds(red_above: float | None, red_below: float | None) -> dict[str, Any]:
    if red_above is None and red_below is None:
        return {}
    low, high, turn = ("green", "red", red_above) if red_above is not None else ("red", "green", red_below)
    steps = [{"color": low, "value": None}, {"color": high, "value": turn}]
    return {"thresholds": {"mode": "absolute", "steps": steps}}


def _variable(name: str, values: str, *, several: bool) -> dict[str, Any]:
    made: dict[str, Any] = {
        "name": name,
        "type": "query",
        "datasource": DATASOURCE,
        "definition": values,
        "query": {"query": values, "refId": name},
        "refresh": 2,  # whenever the range of time changes
        "sort": 1,
        "multi": several,
        "includeAll": several,
    }
    if several:
        made["allValue"] = ".*"  # what has no such label, too
        made["current"] = {"text": "All", "value": "$__all"}
    return made


def main() -> None:
    """Write them all."""
    for name, text in all_dashboards().items():
        with open(os.path.join(DASHBOARDS, name), "w", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    main()
