"""A Prometheus, an Alertmanager and an exporter as real processes, and a receiver of what is alerted."""

from __future__ import annotations

import http.client
import http.server
import json
import os
import sys
import threading
from types import TracebackType
from typing import Any, Self

from tests.support import tools
from tests.support.tools import Server

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")
PROMETHEUS_DIR = os.path.join(ROOT, "deploy", "prometheus")
RULES = os.path.join(PROMETHEUS_DIR, "holdfast.rules.yml")
ALERTMANAGER_CONFIG = os.path.join(ROOT, "deploy", "alertmanager", "alertmanager.yml")


def promtool() -> str:
    """Return the path of promtool."""
    return tools._tool("promtool")


def amtool() -> str:
    """Return the path of amtool."""
    return tools._tool("amtool")


def get(port: int, path: str) -> tuple[int, str]:
    """Status and body of a page on a loopback port. Raises OSError."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def post(port: int, path: str, data: object) -> int:
    """Post JSON to a loopback port; the status of the answer. Raises OSError."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", path, json.dumps(data), {"Content-Type": "application/json"})
        return connection.getresponse().status
    finally:
        connection.close()


class _WebServer(Server):
    ready_path = "/-/ready"

    def _answers(self) -> bool:
        try:
            return get(self.port, self.ready_path)[0] == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False

    def _write(self, name: str, data: object) -> str:
        path = os.path.join(self.directory, name)
        with open(path, "w") as file:
            json.dump(data, file)  # YAML enough
        return path


class PrometheusServer(_WebServer):
    """A Prometheus that scrapes and evaluates each second."""

    name = "prometheus"

    def __init__(self, directory: str, *, target: int, rules: str, alertmanager: int) -> None:
        super().__init__(directory)
        self.target = target
        self.rules = rules
        self.alertmanager = alertmanager

    def _command(self) -> list[str]:
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [self.rules],
            "scrape_configs": [
                {"job_name": "holdfast", "static_configs": [{"targets": [f"127.0.0.1:{self.target}"]}]},
            ],
            "alerting": {
                "alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{self.alertmanager}"]}]}],
            },
        }
        command = [tools._tool("prometheus"), "--config.file", self._write("prometheus.yml", config)]
        command += ["--storage.tsdb.path", os.path.join(self.directory, "data")]
        # What fired before it had found the Alertmanager would be told again after a minute only.
        command += ["--rules.alert.resend-delay=1s"]
        return [*command, f"--web.listen-address=127.0.0.1:{self.port}"]


class AlertmanagerServer(_WebServer):
    """An Alertmanager with this configuration file; without one it tells a webhook of each alert at once."""

    name = "alertmanager"

    def __init__(self, directory: str, *, webhook: str = "", config: str = "") -> None:
        super().__init__(directory)
        self.webhook = webhook
        self.config = config

    def _command(self) -> list[str]:
        plain = {
            "route": {
                "receiver": "test",
                "group_by": ["..."],
                "group_wait": "0s",
                "group_interval": "1s",
                "repeat_interval": "1h",
            },
            "receivers": [{"name": "test", "webhook_configs": [{"url": self.webhook, "send_resolved": True}]}],
        }
        config = self.config or self._write("alertmanager.yml", plain)
        command = [tools._tool("alertmanager"), f"--config.file={config}"]
        command += [f"--storage.path={os.path.join(self.directory, 'data')}", "--cluster.listen-address="]
        return [*command, f"--web.listen-address=127.0.0.1:{self.port}"]


class ExporterServer(_WebServer):
    """`python -m scheduler.exporter` on a configuration."""

    name = "exporter"
    ready_path = "/metrics"

    def __init__(self, directory: str, *, config: str, environment: dict[str, str] | None = None) -> None:
        super().__init__(directory)
        self.config = config
        self.environment = environment or {}

    def metrics(self) -> str:
        """One scrape."""
        return get(self.port, "/metrics")[1]

    def said(self) -> str:
        """What it has logged so far."""
        return self._said()

    def _command(self) -> list[str]:
        listen = f"127.0.0.1:{self.port}"
        return [sys.executable, "-m", "scheduler.exporter", "--config", self.config, "--listen", listen]

    def _environment(self) -> dict[str, str]:
        return {"PYTHONPATH": ROOT, **self.environment}


class Webhook:
    """Collects what an Alertmanager sends: (alert's name, status, labels), in order, and to which path each came."""

    def __init__(self) -> None:
        self.alerts: list[tuple[str, str, dict[str, str]]] = []
        self.paths: list[str] = []
        self.messages = 0
        collected = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                collected.messages += 1
                for alert in body["alerts"]:
                    labels = dict(alert["labels"])
                    collected.paths.append(self.path)
                    collected.alerts.append((labels.pop("alertname"), alert["status"], labels))
                self.send_response(http.HTTPStatus.OK)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)

    @property
    def url(self) -> str:
        """Where to post to."""
        return f"http://127.0.0.1:{self._server.server_port}/"

    def has(self, alert: str, status: str) -> bool:
        """Whether this alert came with this status ("firing", "resolved")."""
        return any((name, state) == (alert, status) for name, state, _ in self.alerts)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
