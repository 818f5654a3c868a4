"""deploy/alertmanager: the file itself in a running Alertmanager. Who is told of what, and what is held back."""

from __future__ import annotations

import http
import os
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from tests.support.ledgers import until
from tests.support.monitoring import ALERTMANAGER_CONFIG, AlertmanagerServer, Webhook, amtool, post

CONFIG = Path(ALERTMANAGER_CONFIG).read_text()


class Alerts:
    """Fires alerts at an Alertmanager, as Prometheus does; each receiver's webhook is the test's."""

    def __init__(self, server: AlertmanagerServer, webhook: Webhook) -> None:
        self.webhook = webhook
        self._port = server.port

    def fire(self, *alerts: dict[str, str]) -> None:
        """Send them all at once."""
        ends = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        sent = [{"labels": labels, "endsAt": ends} for labels in alerts]
        assert post(self._port, "/api/v2/alerts", sent) == http.HTTPStatus.OK

    def told(self) -> set[tuple[str, str, str]]:
        """Receiver, alert and source of what was told so far, but for the watchdog."""
        told = zip(self.webhook.paths, self.webhook.alerts, strict=False)
        return {
            (path.strip("/"), name, labels.get("source", ""))
            for path, (name, _, labels) in told
            if name != "HoldfastWatchdog"
        }


def of_a_source(alert: str, source: str, owner: str, *, site: str = "fra", executor: str = "pool:") -> dict[str, str]:
    """The labels of an alert of a source."""
    about = {"source": source, "owner": owner, "site": site, "executor": executor, "policy": "all"}
    return {"alertname": alert, "scope": "source", "severity": "critical", **about}


@pytest.fixture
def alerts(tmp_path: Path) -> Iterator[Alerts]:
    """The file as it stands, but for the receivers' addresses and the time for which a group is waited for."""
    with Webhook() as webhook:
        text = CONFIG.replace("http://127.0.0.1:8080/", webhook.url).replace("group_wait: 30s", "group_wait: 2s")
        path = tmp_path / "alertmanager.yml"
        path.write_text(text)
        with AlertmanagerServer(os.path.join(tmp_path, "data"), config=str(path)) as server:
            yield Alerts(server, webhook)


def test_amtool_accepts_the_file() -> None:
    """As whoever changes it is told to check it."""
    command = [amtool(), "check-config", ALERTMANAGER_CONFIG]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_the_file_names_exists() -> None:
    """An alert that is matched by name is one of the rules."""
    rules = (Path(ALERTMANAGER_CONFIG).parents[1] / "prometheus/holdfast.rules.yml").read_text()
    known = {rule.get("alert") for group in yaml.safe_load(rules)["groups"] for rule in group["rules"]}
    matchers = [
        matcher
        for rule in yaml.safe_load(CONFIG)["inhibit_rules"]
        for matcher in rule["source_matchers"] + rule["target_matchers"]
    ]
    matchers += [one for route in yaml.safe_load(CONFIG)["route"]["routes"] for one in route["matchers"]]
    named = {name for one in matchers if one.startswith("alertname") for name in one.split('"')[1].split("|")}
    assert named - known == set()


def test_an_alert_goes_to_its_owner(alerts: Alerts) -> None:
    """To the owner's receiver alone; without an owner, or with one that has no route, to those who run Holdfast."""
    alerts.fire(
        of_a_source("HoldfastRPOMissed", "db", "payments"),
        of_a_source("HoldfastRPOMissed", "www", "shop"),
        of_a_source("HoldfastRPOMissed", "nas", ""),
        of_a_source("HoldfastRPOMissed", "lab", "science"),
        {"alertname": "HoldfastNoLeader", "severity": "critical"},
    )
    expected = {
        ("payments", "HoldfastRPOMissed", "db"),
        ("shop", "HoldfastRPOMissed", "www"),
        ("backup-team", "HoldfastRPOMissed", "nas"),
        ("backup-team", "HoldfastRPOMissed", "lab"),
        ("backup-team", "HoldfastNoLeader", ""),
    }
    until(lambda: alerts.told() >= expected, what="all told")
    assert alerts.told() == expected


def test_a_false_claim_reaches_owner_and_those_who_run_holdfast(alerts: Alerts) -> None:
    """Who owns the server may be the last to learn that it was stolen."""
    claim = of_a_source("HoldfastClaimDisproved", "www", "shop")
    del claim["scope"]
    alerts.fire(claim)
    expected = {("shop", "HoldfastClaimDisproved", "www"), ("backup-team", "HoldfastClaimDisproved", "www")}
    until(lambda: alerts.told() == expected, what="both told")


def test_sources_of_an_owner_come_as_one_message(alerts: Alerts) -> None:
    """Two hundred that missed their RPO are one message to their owner."""
    alerts.fire(*(of_a_source("HoldfastRPOMissed", f"web{number}", "shop") for number in range(200)))
    until(lambda: len(alerts.told()) == 200, what="all told")
    assert alerts.webhook.messages == 1


def test_a_site_that_is_out_is_one_alert(alerts: Alerts) -> None:
    """Not one for each source of it; sources of another site, and a claim that is false, are told all the same."""
    claim = of_a_source("HoldfastClaimDisproved", "web1", "shop")
    del claim["scope"]
    alerts.fire(
        {"alertname": "HoldfastSiteOut", "site": "fra", "severity": "critical"},
        of_a_source("HoldfastRPOMissed", "db", "payments"),
        *(of_a_source("HoldfastRunFailed", f"web{number}", "shop") for number in range(50)),
        of_a_source("HoldfastRPOMissed", "other", "shop", site="ams"),
        claim,
    )
    expected = {
        ("backup-team", "HoldfastSiteOut", ""),
        ("shop", "HoldfastRPOMissed", "other"),
        ("shop", "HoldfastClaimDisproved", "web1"),
        ("backup-team", "HoldfastClaimDisproved", "web1"),
    }
    until(lambda: alerts.told() >= expected, what="the others told")
    assert alerts.told() == expected


def test_a_host_without_its_agent_is_one_alert_to_each_owner(alerts: Alerts) -> None:
    """Its sources are held back, those of other hosts are not; and of one source only the worse is told."""
    alerts.fire(
        {"alertname": "HoldfastAgentGone", "executor": "host:web1", "owner": "shop", "severity": "warning"},
        of_a_source("HoldfastRPOMissed", "web1", "shop", executor="host:web1"),
        of_a_source("HoldfastRPOMissed", "web2", "shop", executor="host:web2"),
        of_a_source("HoldfastRunFailed", "web2", "shop", executor="host:web2"),
        {"alertname": "HoldfastNoWorker", "executor": "pool:dc1", "severity": "critical"},
        of_a_source("HoldfastRPOMissed", "nas", "shop", executor="pool:dc1"),
        {"alertname": "HoldfastQueueNotConsumed", "queue": "pool.dc1.backup", "severity": "critical"},
        {"alertname": "HoldfastQueueNotConsumed", "queue": "host.web9", "severity": "critical"},
    )
    expected = {
        ("shop", "HoldfastAgentGone", ""),
        ("shop", "HoldfastRPOMissed", "web2"),
        ("backup-team", "HoldfastNoWorker", ""),
        ("backup-team", "HoldfastQueueNotConsumed", ""),
    }
    until(lambda: alerts.told() >= expected, what="the others told")
    assert alerts.told() == expected
    queues = [labels["queue"] for name, _, labels in alerts.webhook.alerts if name == "HoldfastQueueNotConsumed"]
    assert queues == ["host.web9"]


def test_the_watchdog_goes_to_the_switch_at_once(alerts: Alerts) -> None:
    """And to nobody else."""
    alerts.fire({"alertname": "HoldfastWatchdog", "severity": "none"})
    until(lambda: alerts.webhook.has("HoldfastWatchdog", "firing"), what="the watchdog")
    assert set(alerts.webhook.paths) == {"/watchdog"}
