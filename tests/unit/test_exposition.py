"""Metrics as text: to the byte what prometheus_client would write, in both formats, and what promtool takes."""

from __future__ import annotations

import gzip
import subprocess
from collections.abc import Iterable, Iterator
from wsgiref.util import setup_testing_defaults

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest, make_wsgi_app
from prometheus_client.metrics_core import Metric as KnownFamily
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from scheduler.exposition import Family, Sample, page, serving
from shared.observability.metrics import BUILD, LEADER, RUNNING, RUNS, SOURCE_INFO, UPLOADED, Metric, MetricType
from tests.support.monitoring import promtool

ODD = 'a "quoted" \\ back\nslash, {braces} and ünïcode'
FAMILIES = [
    Family(BUILD, [(("1.0",), 1)]),
    Family(LEADER, [((), True)]),
    Family(RUNS, [(("backup-full", "failed"), 3), (("prune", "succeeded"), 0)]),
    Family(SOURCE_INFO, [((f"s{n}", "p", ODD, "host:h", "fra"), 1) for n in range(3)]),
    Family(RUNNING, []),
    Family(UPLOADED, [(("web1",), 12345678901234567), (("web2",), 1e21)]),
    Family(Metric("holdfast_odd", MetricType.GAUGE, ("b", "a"), 'says "so" \\ and\nmore'), [(("2", "1"), 0.1)]),
]


class Known:
    """The same families for prometheus_client."""

    def __init__(self, families: Iterable[Family]) -> None:
        self.families = families

    def collect(self) -> Iterator[KnownFamily]:
        """All of them."""
        return (family.known() for family in self.families)


def slowly(families: Iterable[Family]) -> tuple[bytes, bytes]:
    """What prometheus_client makes of them: plain, and OpenMetrics."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Known(families))
    return generate_latest(registry), openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]


def test_a_page_is_to_the_byte_what_prometheus_client_writes() -> None:
    """In both formats, with whatever a label or a help may hold."""
    assert (page(FAMILIES, openmetrics=False), page(FAMILIES, openmetrics=True)) == slowly(FAMILIES)


numbers = st.floats().map(lambda value: value + 0.0)  # the one number that has two names is 0, and none of ours is -0
samples = st.tuples(st.tuples(st.text(), st.text()), numbers | st.integers(-(2**70), 2**70) | st.booleans())


@given(st.lists(samples))
def test_any_label_and_any_value_is_written_alike(found: list[Sample]) -> None:
    """Quotes, line ends and signs of any script; huge, tiny and no numbers."""
    families = [Family(RUNS, found)]
    assert (page(families, openmetrics=False), page(families, openmetrics=True)) == slowly(families)


def test_parsers_read_back_what_was_written() -> None:
    """prometheus_client's own, of both formats; and promtool finds nothing wrong with it."""
    expected = {(family.metric.name, values): float(value) for family in FAMILIES for values, value in family.samples}
    labels = {family.metric.name: family.metric.labels for family in FAMILIES}
    for parse, is_open in ((parse_plain, False), (parse_openmetrics, True)):
        text = page(FAMILIES, openmetrics=is_open).decode()
        read = [sample for family in parse(text) for sample in family.samples]
        got = {(one.name, tuple(one.labels[label] for label in labels[one.name])): one.value for one in read}
        assert got == expected
    fine = [family for family in FAMILIES if family.metric.help.isascii() and "\n" not in family.metric.help]
    linted = subprocess.run([promtool(), "check", "metrics"], input=page(fine, openmetrics=False), check=False)
    assert linted.returncode == 0


def asked(
    method: str = "GET", path: str = "/metrics", query: str = "", **headers: str
) -> tuple[str, dict[str, str], bytes]:
    """Status, headers and body."""
    environ: dict[str, object] = {}
    setup_testing_defaults(environ)
    environ |= {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query}
    environ |= {f"HTTP_{name.upper()}": value for name, value in headers.items()}
    registry = CollectorRegistry(auto_describe=True)  # else it knows no names to choose from
    registry.register(Known(FAMILIES))
    said: list[tuple[str, list[tuple[str, str]]]] = []
    answers = []
    for app in (serving(make_wsgi_app(registry), lambda: FAMILIES), make_wsgi_app(registry)):
        body = b"".join(app(environ, lambda status, found, _=None: said.append((status, found))))  # type: ignore[arg-type]
        status, found = said.pop()
        own = dict(found)
        answers.append((status, own, gzip.decompress(body) if own.get("Content-Encoding") == "gzip" else body))
    assert answers[0] == answers[1]
    return answers[0]


PROMETHEUS_2 = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4"
)


@pytest.mark.parametrize(
    ("accepts", "content_type"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        (PROMETHEUS_2, "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores"),
        (PROMETHEUS_3, "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=allow-utf-8"),
        ("text/plain;version=1.0.0", "text/plain; version=1.0.0; charset=utf-8; escaping=underscores"),
        (
            "application/openmetrics-text;version=1.0.0;escaping=dots",
            "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=dots",
        ),
    ],
)
@pytest.mark.parametrize("encoding", ["", "gzip"])
def test_who_asks_gets_the_format_that_it_wants(accepts: str, content_type: str, encoding: str) -> None:
    """As prometheus_client would negotiate it, compressed where that is taken."""
    status, headers, body = asked(accept=accepts, accept_encoding=encoding)
    assert (status, headers["Content-Type"]) == ("200 OK", content_type)
    assert headers.get("Content-Encoding", "") == encoding
    assert body.endswith(b"# EOF\n") == content_type.startswith("application/openmetrics-text")


def test_what_is_no_page_of_all_is_prometheus_clients_own() -> None:
    """Some names alone, another method, a browser's icon."""
    _, _, some = asked(query="name[]=holdfast_build_info")
    assert b"holdfast_build_info{" in some
    assert b"holdfast_runs_total" not in some
    assert asked(method="POST")[0].startswith("405")
    assert asked(method="OPTIONS")[1]["Allow"] == "OPTIONS,GET"
    assert asked(path="/favicon.ico")[2] == b""
