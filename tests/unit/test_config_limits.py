"""Limits in the configuration: shared.config.limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shared.config.fleet import Fleet
from shared.config.limits import Limits
from shared.config.models import Policy
from shared.config.problems import ConfigInvalid
from shared.errors import ConfigError
from shared.ledger.model import ATTEMPTS, RunKind, RunRequest
from workers import specs, upkeep_specs
from workers.limits import EngineLimits

HEAD = "secret: {file: fleet.secret}\nrecovery_password: {file: recovery.password}\n"
SITES = "sites: {a: {url: /srv/a}}\n"


def load(folder: Path, text: str) -> Fleet:
    """A configuration of this text, with secrets that can be read."""
    for name in ("fleet.secret", "recovery.password"):
        (folder / name).write_text("0123456789abcdef" * 4)
    path = folder / "fleet.yaml"
    path.write_text(HEAD + text)
    return Fleet.load(str(path))


def problem(folder: Path, text: str) -> str:
    """The one thing that is wrong."""
    with pytest.raises(ConfigInvalid) as caught:
        load(folder, text)
    return str(caught.value).replace(f"{folder}/", "")


def test_without_limits_nothing_is_limited(tmp_path: Path) -> None:
    """And what a worker did before is the default."""
    fleet = load(tmp_path, SITES)
    assert fleet.limits == Limits()
    assert (fleet.limits.runs, fleet.lines("a")) == (2, [])
    assert specs.engine_limits(fleet) == EngineLimits() == EngineLimits(cores=0, nice=0, io="normal")


def test_limits_reach_every_kind_of_engine(tmp_path: Path) -> None:
    """The machine's line and the site's, each with a bucket of its own, and what an engine may take."""
    fleet = load(
        tmp_path,
        "limits:\n  cores: 2\n  nice: 10\n  io: idle\n  upload: 20 MB\n"
        "sites:\n  a: {url: /srv/a, limits: {upload: {windows: [{hours: 8:00-18:30, rate: 1MiB/s}], timezone: UTC}}}\n"
        "  b: {url: /srv/b}\npolicies: {all: {primary: a, full: 1d}}\nsources: {web1: {paths: /srv/web}}\n",
    )
    limits = {"cores": 2, "nice": 10, "io": "idle"}
    lines: list[dict[str, Any]] = [
        {"direction": "upload", "bucket": "upload", "base": 20_000_000, "windows": [], "timezone": ""},
        {
            "direction": "upload",
            "bucket": "upload.a",
            "base": 0,
            "windows": [[480, 1110, 1 << 20]],
            "timezone": "UTC",
        },
    ]
    for line in lines:
        line["bucket"] = f"{tmp_path}/.holdfast/cache/limits/{line['bucket']}"
    for kind in RunKind:
        named = {RunKind.FORGET: {"snapshots": ["ab" * 32]}, RunKind.REPLICATE: {"site": "b"}}.get(kind, {})
        spec = specs.spec_for(fleet, RunRequest("0" * 32, kind, "web1", options=named))
        assert (spec["limits"], spec.get("origin", spec["site"])["lines"]) == (limits, lines)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ("{run: 3}", 'limits.run: unknown key (did you mean "runs"?)'),
        ("{runs: 0}", "limits.runs: expected a whole number of runs, from 1 to 1024, found 0"),
        ("{cores: many}", 'limits.cores: expected a whole number of cores, found "many"'),
        ("{nice: 20}", "limits.nice: expected a whole number, from 0 to 19, found 20"),
        ("{nice: -5}", "limits.nice: expected a whole number, from 0 to 19, found -5"),
        ("{io: idel}", 'limits.io: expected normal, low or idle, found "idel" (did you mean "idle"?)'),
        ("3", "limits: expected a mapping of limits, found 3"),
        (
            "{upload: fast}",
            'limits.upload: expected a rate in bytes a second, as "20 MB" or "512 KiB/s", found "fast"',
        ),
        ("{upload: 100}", "limits.upload: expected a rate of 16 KB a second or more, found 100"),
        ("{upload: {}}", "limits.upload: limits nothing: give a rate, windows or both"),
        ("{upload: {speed: 1 MB}}", "limits.upload.speed: unknown key; known are: rate, windows, timezone"),
        (
            "{download: {rate: 1 MB, timezone: Mars/Base}}",
            'limits.download.timezone: expected a time zone as "Europe/Berlin", found "Mars/Base"',
        ),
        (
            "{upload: {windows: [{hour: 8:00-9:00, rate: 1 MB}]}}",
            'limits.upload.windows[0].hour: unknown key (did you mean "hours"?)',
        ),
        ("{upload: {windows: [{hours: 8:00-9:00}]}}", "limits.upload.windows[0].rate: is missing"),
        (
            "{upload: {windows: [{hours: 8-18, rate: 1 MB}]}}",
            'limits.upload.windows[0].hours: expected hours of the day as "08:00-18:00", found "8-18"',
        ),
        (
            "{upload: {windows: [{hours: 8:00-24:01, rate: 1 MB}]}}",
            'limits.upload.windows[0].hours: expected hours of the day from "00:00" to "24:00", found "8:00-24:01"',
        ),
        (
            "{upload: {windows: [{hours: 8:00-8:00, rate: 1 MB}]}}",
            "limits.upload.windows[0].hours: expected hours that end at another time than they begin",
        ),
        (
            "{upload: {windows: [{hours: 22:00-06:00, rate: 1 MB}, {hours: 5:59-9:00, rate: 2 MB}]}}",
            "limits.upload: has windows that overlap: 22:00-06:00 and 5:59-9:00",
        ),
    ],
)
def test_wrong_limits_are_named(tmp_path: Path, limits: str, said: str) -> None:
    """File, line, key, what was found and what was expected."""
    found = problem(tmp_path, f"{SITES}limits: {limits}\n").splitlines()
    assert [line for line in found if line.startswith(f"fleet.yaml:4: {said}")] != [], found


def test_a_site_has_no_cores(tmp_path: Path) -> None:
    """What is the machine's can't be said of a site."""
    said = problem(tmp_path, "sites: {a: {url: /srv/a, limits: {cores: 2}}}\n")
    assert said == "fleet.yaml:3: sites.a.limits.cores: unknown key; known are: upload, download"


def test_a_sites_time_zone_is_looked_up_too(tmp_path: Path) -> None:
    """With the key that names it."""
    said = problem(tmp_path, "sites: {a: {url: /a, limits: {upload: {rate: 1 MB, timezone: X}}}}\n")
    assert said.startswith("fleet.yaml:3: sites.a.limits.upload.timezone: expected a time zone")


def test_limits_of_several_files_are_joined(tmp_path: Path) -> None:
    """As other sections are; a key that two files have is an error that names both."""
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "line.yaml").write_text("limits: {upload: 5 MB}\n")
    fleet = load(tmp_path, f"{SITES}limits: {{nice: 5}}\n")
    assert (fleet.limits.nice, fleet.limits.upload and fleet.limits.upload.rate) == (5, 5_000_000)
    said = problem(tmp_path, f"{SITES}limits: {{upload: 1 MB}}\n")
    assert "limits.upload: is defined twice, first at fleet.yaml:4" in said


def test_a_policys_attempts_are_the_ledgers_unless_it_says_otherwise(tmp_path: Path) -> None:
    """One number, known at both ends."""
    assert Policy.model_fields["attempts"].default == ATTEMPTS
    said = problem(tmp_path, f"{SITES}policies: {{all: {{full: 1d, attempts: 0}}}}\n")
    assert said == "fleet.yaml:4: policies.all.attempts: expected a whole number of attempts, of 1 or more, found 0"


@pytest.mark.parametrize(
    ("health", "said"),
    [
        ("{slow_after: 5s}", "health: slow_after is not shorter than timeout"),
        ("{interval: 10}", "health.interval: expected a length of time"),
        ("{probes: true}", "health.probes: "),
        ("{place: Paris!}", "health.place: expected a name of lower-case letters"),
        ("{min_free: plenty}", "health.min_free: expected a size"),
    ],
)
def test_wrong_settings_of_health_are_named(tmp_path: Path, health: str, said: str) -> None:
    """The same of how the sites are looked at."""
    found = problem(tmp_path, f"{SITES}health: {health}\n").splitlines()
    assert [line for line in found if line.startswith(f"fleet.yaml:4: {said}")] != [], found


def test_what_was_seen_counts_as_long_as_an_observer_may_be_late(tmp_path: Path) -> None:
    """Three intervals and a time-out."""
    assert load(tmp_path, SITES).health.expires == 35.0
    assert load(tmp_path, f"{SITES}health: {{interval: 1m, timeout: 10s}}\n").health.expires == 190.0


def test_a_healing_asks_the_other_sites_in_the_order_in_which_they_are_likely_to_help(tmp_path: Path) -> None:
    """The primary, those of the policy, the rest; no witness; one that can't be opened here is told; or one alone."""
    fleet = load(
        tmp_path,
        "sites:\n  a: {url: /srv/a}\n  b: {url: /srv/b}\n  c: {url: /srv/c}\n  w: {url: /srv/w, witness: true}\n"
        "  s: {url: 's3:https://host/bucket', credentials: {env: NO_SUCH}}\n"
        "policies: {all: {primary: b, copies: {sites: [c]}, full: 1d}}\nsources: {web1: {paths: /srv/web}}\n",
    )

    def asked(**options: Any) -> tuple[list[str], list[str]]:
        spec = upkeep_specs.verify_spec(fleet, "web1", {"heal": True, **options})
        return [site.id for site in spec.others], spec.left_out

    assert asked(site="a") == (["b", "c"], ["s"])
    assert asked() == (["c", "a"], ["s"])
    assert asked(origin="a") == (["a"], [])
    for origin in ("b", "w"):
        with pytest.raises(ConfigError, match=f"site b can't be healed from site {origin}"):
            asked(origin=origin)
    assert upkeep_specs.verify_spec(fleet, "web1", {}).others == []
