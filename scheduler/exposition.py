"""Metrics as text, as prometheus_client writes them, for the hundreds of thousands of samples of a large fleet.

prometheus_client makes a dict and an object of each sample, and looks at each name anew; here a family has one form,
and what follows from the configuration alone is written once. The two say the same to the byte, in both formats: a test
holds that. prometheus_client serves, says which format is asked for, and answers whatever is asked but a page of all.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder, gzip_accepted
from prometheus_client.utils import floatToGoString

from shared.observability.metrics import MetricType

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from prometheus_client.metrics_core import Metric as KnownFamily

    from shared.observability.metrics import Metric

Sample = tuple[tuple[str, ...], float]  # the labels' values, in the order of the table; the value

_OPENMETRICS = "application/openmetrics-text"
_QUICKLY = 1  # of gzip's levels: lines are alike, and the best one takes ten times as long to save a fifth

_number = lru_cache(maxsize=1 << 12)(floatToGoString)  # most are 0 or 1


class Family:
    """One metric and its samples. They don't change."""

    def __init__(self, metric: Metric, samples: Iterable[Sample]) -> None:
        self.metric = metric
        self.samples: Sequence[Sample] = list(samples)

    @cached_property
    def lines(self) -> str:
        """A line for each sample."""
        name, labels = self.metric.name, self.metric.labels
        if not labels:
            return "".join(f"{name} {_number(value)}\n" for _, value in self.samples)
        order = sorted(range(len(labels)), key=labels.__getitem__)
        pairs = ",".join(f'{labels[at]}="%s"' for at in order)
        form = f"{name}{{{pairs}}} %s\n"
        if order == [0]:
            return "".join([form % (_escaped(one), _number(value)) for (one,), value in self.samples])
        return "".join(
            [form % (*[_escaped(values[at]) for at in order], _number(value)) for values, value in self.samples]
        )

    def text(self, *, openmetrics: bool) -> str:
        """The whole family."""
        name, about = self.metric.name, self.metric.help.replace("\\", r"\\").replace("\n", r"\n")
        if openmetrics:
            name, about = name.removesuffix("_total"), about.replace('"', r"\"")
        return f"# HELP {name} {about}\n# TYPE {name} {self.metric.type}\n{self.lines}"

    def known(self) -> KnownFamily:
        """The same for prometheus_client."""
        kind = CounterMetricFamily if self.metric.type is MetricType.COUNTER else GaugeMetricFamily
        family = kind(self.metric.name, self.metric.help, labels=self.metric.labels)
        for labels, value in self.samples:
            family.add_metric(labels, float(value))
        return family


def page(families: Iterable[Family], *, openmetrics: bool) -> bytes:
    """All that is served."""
    text = "".join([family.text(openmetrics=openmetrics) for family in families])
    return (text + ("# EOF\n" if openmetrics else "")).encode()


def serving(app: WSGIApplication, families: Callable[[], Iterable[Family]]) -> WSGIApplication:
    """prometheus_client's own application, but for a page of all metrics."""

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        _, content_type = choose_encoder(environ.get("HTTP_ACCEPT", ""))
        plain = environ["REQUEST_METHOD"] == "GET" and environ["PATH_INFO"] != "/favicon.ico"
        if not plain or environ.get("QUERY_STRING") or not _keeps_names(content_type):
            return app(environ, start_response)
        body = page(families(), openmetrics=content_type.startswith(_OPENMETRICS))
        headers = [("Content-Type", content_type)]
        if gzip_accepted(environ.get("HTTP_ACCEPT_ENCODING", "")):
            body = gzip.compress(body, _QUICKLY)
            headers.append(("Content-Encoding", "gzip"))
        start_response("200 OK", headers)
        return [body]

    return answer


def _keeps_names(content_type: str) -> bool:
    """Whether our names, of letters and underscores alone, stand as they are under the escaping that is asked for."""
    _, _, escaping = content_type.partition("escaping=")
    return escaping in {"", "underscores", "allow-utf-8"}


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
