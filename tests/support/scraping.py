"""An exporter in the test's own process, and what it serves."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from scheduler.exporter import FleetCollector
from shared.config.watch import FleetWatch
from shared.observability.metrics import METRICS

FAMILIES = {metric.name.removesuffix("_total"): metric for metric in METRICS}


class Scraper:
    """An exporter in this process, and its answers as {name: {labels: value}}."""

    def __init__(self, path: str) -> None:
        self.watch = FleetWatch(path)
        self._registry = CollectorRegistry()
        self._collector = FleetCollector(self.watch)
        self._registry.register(self._collector)

    def scrape(self) -> dict[str, dict[tuple[str, ...], float]]:
        """One scrape; labels in the order of the table."""
        found: dict[str, dict[tuple[str, ...], float]] = {}
        for family in text_string_to_metric_families(generate_latest(self._registry).decode()):
            metric = FAMILIES[family.name]
            found[metric.name] = {
                tuple(sample.labels[label] for label in metric.labels): sample.value for sample in family.samples
            }
        return found
