"""The rules of deploy/prometheus: tested by promtool, and by a Prometheus and an Alertmanager that run."""

from __future__ import annotations

import os
import re
import subprocess
from datetime import UTC, datetime, timedelta

import pytest

from shared.ledger.model import Evidence, RunState, slot_text
from tests.support.fleets import SmallFleet
from tests.support.ledgers import a_run, own_ledger, until
from tests.support.monitoring import (
    PROMETHEUS_DIR,
    RULES,
    AlertmanagerServer,
    ExporterServer,
    PrometheusServer,
    Webhook,
    promtool,
)

_SHORTER = 300  # five minutes are a second


def _scaled(text: str) -> str:
    """The rules with each `for:` shortened; all else is as it is."""
    seconds = {"m": 60, "h": 3600}

    def shorter(found: re.Match[str]) -> str:
        return f"for: {max(1, int(found[1]) * seconds[found[2]] // _SHORTER)}s"

    return re.sub(r"\bfor: (\d+)([mh])\b", shorter, text)


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "rules", "holdfast.rules.yml"],
        ["check", "config", "prometheus.yml"],
        ["test", "rules", "holdfast.rules.test.yml"],
    ],
    ids=["rules", "config", "behaviour"],
)
def test_promtool_accepts_the_rules(arguments: list[str]) -> None:
    """The rules and the example are valid, and each alert fires and stays silent as the rules' own tests say."""
    done = subprocess.run(
        [promtool(), *arguments], cwd=PROMETHEUS_DIR, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_missed_rpo_fires_and_resolves(tmp_path: os.PathLike[str]) -> None:
    """A source whose last snapshot is older than its RPO is alerted, and resolved by the next backup."""
    here = str(tmp_path)
    rules = os.path.join(here, "rules.yml")
    with open(RULES) as real, open(rules, "w") as short:
        short.write(_scaled(real.read()))
    with own_ledger(os.path.join(here, "valkey")) as (ledger, valkey):
        small = SmallFleet(os.path.join(here, "fleet"), broker=valkey.url, policy="full: 1d, rpo: 10m")
        hour_ago = slot_text(datetime.now(UTC) - timedelta(hours=1))
        ledger.note_evidence("web1", "a", Evidence(hour_ago, hour_ago))
        with (
            Webhook() as webhook,
            ExporterServer(os.path.join(here, "exporter"), config=small.path) as exporter,
            AlertmanagerServer(os.path.join(here, "alertmanager"), webhook=webhook.url) as alertmanager,
            PrometheusServer(
                os.path.join(here, "prometheus"), target=exporter.port, rules=rules, alertmanager=alertmanager.port
            ),
        ):
            until(lambda: webhook.has("HoldfastRPOMissed", "firing"), seconds=30, what="firing")
            labels = next(labels for name, _, labels in webhook.alerts if name == "HoldfastRPOMissed")
            about = {"source": "web1", "policy": "all", "executor": "pool:", "site": "a"}
            assert labels == {**about, "severity": "critical", "scope": "source"}

            run = a_run()
            ledger.open(run)
            lease = ledger.claim(run.id, "worker").lease
            assert lease is not None
            ledger.finish(lease, RunState.SUCCEEDED, result={"site": "a"})
            until(lambda: webhook.has("HoldfastRPOMissed", "resolved"), seconds=30, what="resolved")
            assert webhook.has("HoldfastWatchdog", "firing") is True
            assert webhook.has("HoldfastNeverBackedUp", "firing") is False
