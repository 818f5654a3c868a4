"""The fleet's file as a whole: shared.config.fleet, loader and checks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.config.choice import PolicyChoice
from shared.config.fleet import Fleet
from shared.config.models import Policy
from shared.config.problems import ConfigInvalid
from shared.errors import ConfigError

SCHEDULE = 'a cron line of five or six fields in quotes ("0 2 * * *"), or an interval ("15m", "1d")'

HEAD = """\
secret: {file: fleet.secret}
recovery_password: {file: recovery.password}
"""

GOOD = (
    HEAD
    + """\
regions:
  eu: {broker: "redis://:hunter2@redis:6379/0"}
  us: {broker: {env: US_BROKER}}
sites:
  fra: {url: "s3:https://fra.example.org:9000/backups/x", region: eu, credentials: {env: FRA}}
  ams: {url: /srv/ams, region: us}
  wit: {url: ./witness, witness: true, region: us}
policies:
  databases:
    select: kind=db
    primary: ams
    copies: {sites: [fra]}
    full: "0 2 * * 0"
    incremental: 15m
    rpo: 1h
    retention: {keep_daily: 7, keep_within: 2d}
  rest:
    primary: fra
    copies: {number: 1, across: regions}
    full: 1d
    timezone: Europe/Berlin
sources:
  web1:
    labels: {tier: 1}
    host: web1
    paths: [/srv, /etc/]
    excludes: ["*.tmp"]
    exclude_larger_than: 1 GiB
  db/orders:
    labels: {kind: db}
    command: [pg_dump, orders]
  web2: {pool: nfs, paths: /srv, repository: shared/web}
"""
)


def write(folder: Path, text: str) -> str:
    """A file named fleet.yaml."""
    path = folder / "fleet.yaml"
    path.write_text(text)
    return str(path)


def problems(folder: Path, text: str) -> list[str]:
    """What loading says, a line a problem, without the folder."""
    with pytest.raises(ConfigInvalid) as caught:
        Fleet.load(write(folder, text))
    return str(caught.value).replace(f"{folder}/", "").splitlines()


def sited(more: str, sites: str = "sites: {a: {url: /srv/a}}\n") -> str:
    """A file with one site and more."""
    return HEAD + sites + more


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    """Every section arrives in its model."""
    fleet = Fleet.load(write(tmp_path, GOOD))
    web1 = fleet.source("web1")
    got = (list(fleet.sites), list(fleet.policies), list(fleet.sources), web1.id, web1.paths, web1.exclude_larger_than)
    sources = ["web1", "db/orders", "web2"]
    assert got == (["fra", "ams", "wit"], ["databases", "rest"], sources, "web1", ("/srv", "/etc"), 1 << 30)


def test_the_most_specific_policy_that_selects_a_source_counts(tmp_path: Path) -> None:
    """A policy for all takes what is left, wherever it stands."""
    fleet = Fleet.load(write(tmp_path, GOOD))
    got = {name: policy.id for name in fleet.sources if (policy := fleet.policy_for(name))}
    assert got == {"web1": "rest", "db/orders": "databases", "web2": "rest"}
    assert [source.id for source in fleet.sources_of("rest")] == ["web1", "web2"]


def test_repositories_are_one_per_source_unless_shared(tmp_path: Path) -> None:
    """A source's own id names its repository."""
    fleet = Fleet.load(write(tmp_path, GOOD))
    assert [fleet.repository_of(name) for name in fleet.sources] == ["web1", "db/orders", "shared/web"]


def test_paths_of_the_file_start_at_its_directory(tmp_path: Path) -> None:
    """A file works from whatever directory it is named."""
    fleet = Fleet.load(write(tmp_path, GOOD))
    got = (fleet.site("wit").url, fleet.secret.file, fleet.state_dir, fleet.cache_dir)
    want = ("witness", "fleet.secret", ".holdfast/state", ".holdfast/cache")
    assert got == tuple(str(tmp_path / name) for name in want)


def test_state_directories_can_be_named(tmp_path: Path) -> None:
    """Both are taken as they stand."""
    fleet = Fleet.load(write(tmp_path, sited("state_dir: /var/s\ncache_dir: c\n")))
    assert (fleet.state_dir, fleet.cache_dir) == ("/var/s", str(tmp_path / "c"))


@pytest.mark.parametrize(
    ("more", "address"),
    [
        ("", "127.0.0.1:9321"),
        ("exporter: {}\n", "127.0.0.1:9321"),
        ("exporter: {listen: '[::1]:0'}\n", "[::1]:0"),
        ("exporter: {listen: off}\n", ""),
        ("exporter: {listen: ''}\n", ""),
    ],
)
def test_where_metrics_are_served(tmp_path: Path, more: str, address: str) -> None:
    """On this machine alone unless the file says otherwise; empty: nowhere."""
    assert Fleet.load(write(tmp_path, sited(more))).metrics_address == address


def test_one_region_is_there_without_being_named(tmp_path: Path) -> None:
    """Without regions there is `local`, whose Redis `holdfast up` runs."""
    fleet = Fleet.load(write(tmp_path, sited("")))
    assert (list(fleet.regions), fleet.region().id, fleet.broker_url()) == (["local"], "local", None)


def test_a_broker_may_be_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its URL can hold a password, so it can come from the environment."""
    monkeypatch.setenv("US_BROKER", "redis://us:6379/1")
    fleet = Fleet.load(write(tmp_path, GOOD))
    assert (fleet.broker_url("eu"), fleet.broker_url("us")) == ("redis://:hunter2@redis:6379/0", "redis://us:6379/1")


def test_a_brokers_secret_file_starts_at_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As every path does: not where the process happens to run."""
    (tmp_path / "broker.url").write_text("redis://:hunter2@redis:6379/0\n")
    (tmp_path / "fleet.yaml").write_text(
        "secret: {file: s}\nrecovery_password: {file: r}\nsites: {a: {url: site}}\n"
        "regions: {eu: {broker: {file: broker.url}}}\n"
    )
    monkeypatch.chdir("/")
    assert Fleet.load(str(tmp_path / "fleet.yaml")).broker_url() == "redis://:hunter2@redis:6379/0"


def test_a_password_in_a_broker_url_is_not_shown(tmp_path: Path) -> None:
    """Neither in a repr nor in an error."""
    fleet = Fleet.load(write(tmp_path, GOOD))
    said = [repr(fleet), repr(fleet.regions), *problems(tmp_path, GOOD.replace("redis://:", "http://:"))]
    assert [line for line in said if "hunter2" in line] == []


def test_several_regions_must_be_told_apart(tmp_path: Path) -> None:
    """Which of two control planes is meant is never guessed."""
    fleet = Fleet.load(write(tmp_path, GOOD))
    with pytest.raises(ConfigError, match="has 2 regions: say which"):
        fleet.region()


def test_the_configured_primary_is_the_policys_or_the_only_site(tmp_path: Path) -> None:
    """A source that no policy selects has one too, where there is one site."""
    many = Fleet.load(write(tmp_path, GOOD))
    one = Fleet.load(write(tmp_path, sited("sources: {a: {paths: /srv}}\n")))
    assert (many.configured_primary("db/orders"), one.configured_primary("a")) == ("ams", "a")


def test_a_source_without_a_primary_says_what_to_do(tmp_path: Path) -> None:
    """With several sites and no policy nothing is guessed."""
    sites = "sites: {a: {url: /srv/a}, b: {url: /srv/b}}\n"
    fleet = Fleet.load(write(tmp_path, sited("sources: {x: {paths: /srv}}\n", sites)))
    with pytest.raises(ConfigError, match=r"no policy of .* selects it\. Name a site \(a, b\)"):
        fleet.configured_primary("x")


def test_an_unknown_name_is_answered_with_the_nearest(tmp_path: Path) -> None:
    """And with the names that there are."""
    fleet = Fleet.load(write(tmp_path, GOOD))
    with pytest.raises(ConfigError) as caught:
        fleet.source("wbe1")
    assert 'no source "wbe1"' in str(caught.value)
    assert '(did you mean "web1"?)' in str(caught.value)
    assert caught.value.hint == "There are: web1, db/orders, web2"


def test_hosts_are_those_of_sources_and_those_that_are_listed(tmp_path: Path) -> None:
    """Each is known once; another is answered with the nearest."""
    fleet = Fleet.load(write(tmp_path, GOOD + "hosts: [web1, spare]\n"))
    assert fleet.hosts == ("spare", "web1")
    fleet.require_host("spare")
    with pytest.raises(ConfigError) as caught:
        fleet.require_host("sparre")
    assert 'no host "sparre"' in str(caught.value)
    assert '(did you mean "spare"?)' in str(caught.value)


def test_all_problems_are_listed_with_their_lines(tmp_path: Path) -> None:
    """One attempt shows all that is wrong, in the order of the file."""
    bad = GOOD.replace("keep_daily: 7", 'keep_daily: "seven"').replace("15m", "15q").replace("excludes:", "exclude:")
    assert problems(tmp_path, bad) == [
        f'fleet.yaml:16: policies.databases.incremental: expected {SCHEDULE}, found "15q"',
        'fleet.yaml:18: policies.databases.retention.keep_daily: expected a whole number of days, found "seven"',
        'fleet.yaml:29: sources.web1.exclude: unknown key (did you mean "excludes"?)',
    ]


def test_more_than_twenty_problems_are_cut(tmp_path: Path) -> None:
    """A terminal's height is enough to begin with."""
    text = sited("sources:\n" + "".join(f"  s{n}: {{path: /srv}}\n" for n in range(25)))
    lines = problems(tmp_path, text)
    assert (len(lines), lines[-1]) == (21, "fleet.yaml: and 5 more")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("sources: {Web: {paths: /a}}\n", "sources.Web: expected a name of lower-case letters"),
        ("sources: {a/../b: {paths: /a}}\n", "sources.a/../b: expected a name"),
        ("sources: {db/data: {paths: /a}}\n", '("data" is one)'),
        ("sources: {a: {paths: srv}}\n", 'sources.a.paths[0]: expected an absolute path, found "srv"'),
        ("sources: {a: {paths: []}}\n", "sources.a.paths: expected a list with at least one entry, found a list"),
        ("sources: {a: {paths: /a, command: [x]}}\n", "sources.a: has both paths and command"),
        ("sources: {a: {paths: /a, host: h, pool: p}}\n", "sources.a: has both host and pool"),
        ("sources: {a: {paths: /a, shards: 4}}\n", "sources.a: has shards and no pool"),
        ("sources: {a: {paths: /a, host: h, shards: 4}}\n", "sources.a: has shards and no pool"),
        ("sources: {a: {command: [x], pool: p, shards: 4}}\n", "sources.a: has shards and a command"),
        ("sources: {a: {paths: /a, pool: p, shards: 4, hooks: {before: [x]}}}\n", "sources.a: has shards and hooks"),
        ("sources: {a: {paths: /a, pool: p, shards: 1}}\n", "shards: expected a whole number of shards, from 2 to 64"),
        ("sources: {a: {paths: /a, host: h.restore}}\n", 'a.host: expected a name that does not end in ".restore"'),
        ("hosts: [h, h.restore]\n", 'hosts[1]: expected a name that does not end in ".restore"'),
        ("restore_to: [srv]\n", 'restore_to[0]: expected an absolute path, found "srv"'),
        ("sources: {a: {command: pg_dump}}\n", "sources.a.command: expected a list of a program and its arguments"),
        ("sources: {a: {paths: /a, one_file_system: yes}}\n", 'one_file_system: expected true or false, found "yes"'),
        ("sources: {a: {paths: /a, labels: {x: 1.5}}}\n", "expected labels of letters, digits"),
        ("sources: [a]\n", "sources: expected a mapping of sources by id, found a list"),
        ("sources: {a: 5}\n", "sources.a: expected a mapping, found 5"),
        ("sources: {a: {paths: /a, repository: db}, db/x: {paths: /b}}\n", "lie inside repository db of source a"),
        ("policies: {p: {full: 1d, primary: b}}\n", 'policies.p.primary: there is no site "b"; there are: a'),
        ("policies: {p: {full: 1d, copies: {sites: [b]}}}\n", 'policies.p.copies.sites[0]: there is no site "b"'),
        ("policies: {p: {full: 1d, copies: {number: 1}}}\n", "policies.p.copies.number: expected at most 0"),
        ("policies: {p: {full: 1d, copies: {}}}\n", "policies.p.copies: give either sites, or a number"),
        ("policies: {p: {rpo: 1h}}\n", "policies.p: has no schedule"),
        ("policies: {p: {full: 1d, retention: {}}}\n", "policies.p.retention: keeps nothing"),
        ("policies: {p: {full: 1d, retention: {keep_daily: 0}}}\n", "policies.p.retention: keeps nothing"),
        (
            "policies: {p: {full: 1d, retention: {keep_daily: 1, sites: {a: {keep_last: 0}}}}}\n",
            "policies.p.retention.sites.a: keeps nothing",
        ),
        (
            "policies: {p: {full: 1d, retention: {sites: {b: {keep_last: 1}}}}}\n",
            'policies.p.retention.sites.b: there is no site "b"; there are: a',
        ),
        ("policies: {p: {full: 1d, timezone: Mars/Olympus}}\n", 'expected a time zone as "Europe/Berlin"'),
        ("policies: {p: {full: 1d, rpo: 60}}\n", "policies.p.rpo: expected a length of time"),
        ("policies: {p: {full: 1d, select: web}}\n", "policies.p.select: expected labels to select by"),
        (
            "policies: {p: {full: 1d, select: x=y}, q: {full: 1d, select: '!z'}}\n"  # noqa: ISC004 - two lines of a file
            "sources: {a: &a {labels: {x: y}, paths: /a}, b: *a}\n",
            "policies.q: selects source a (and 1 more) as specifically as policy p does, by 1 term each: add a term",
        ),
        (
            "policies: {p: {full: 1d}, q: {full: 1d}}\nsources: {a: {paths: /a}}\n",
            "policies.q: selects source a as specifically as policy p does, by 0 terms each",
        ),
        ("policies: {p: {full: 1d, heal: true}}\n", "p.heal: needs verify, which says how often"),
        ("policies: {p: {full: 15m, jitter: 20m}}\n", "p.jitter: is longer than the 900 s between two slots of full"),
        (
            "policies: {p: {full: 1d, incremental: '*/5 8-9 * * *', jitter: 6m}}\n",
            "is longer than the 300 s between two slots of incremental (*/5 8-9 * * *)",
        ),
        ("policies: {p: {full: 1d, blackout: [{}]}}\n", "p.blackout[0]: leaves no time at all: give hours"),
        (
            "policies: {p: {full: 1d, blackout: [{days: mon-fri}, {days: 'sat, sun'}]}}\n",
            "policies.p.blackout: leaves no time at all in which a backup may begin",
        ),
        ("policies: {p: {full: 1d, blackout: [{days: monday}]}}\n", 'days of the week as "mon-fri" or "sat, sun"'),
        ("scheduling: {runs: 0}\n", "scheduling.runs: expected a whole number of runs, of 1 or more, found 0"),
        ("sources: {a: {paths: /a, hooks: {before: x}}}\n", "sources.a.hooks.before: expected a list of a program"),
        ("sources: {a: {paths: /a, hooks: {befor: [x]}}}\n", 'hooks.befor: unknown key (did you mean "before"?)'),
        ("sources: {a: {paths: /a, filename: b}}\n", "sources.a: has a filename and no command"),
        ("sources: {a: {command: [x], filename: b/c}}\n", "sources.a.filename: expected the name of a file, without a"),
        ("sources: {a: {command: [x], options: {b: c}}}\n", "sources.a: has options and no preset"),
        ("sources: {a: {command: [sh, -c, x | y]}}\n", "sources.a.command: a shell's pipe ends well where its last"),
        ("sources: {a: {command: [x], timeout: 5}}\n", "sources.a.timeout: expected a length of time"),
        ("sources: {a: {command: [x], env: {A-B: c}}}\n", 'sources.a.env: expected names of variables (look at "A-B")'),
        ("sources: {a: {command: [x], env: {A: [hunter2]}}}\n", "sources.a.env: expected A as a text, or one of file"),
        ("sources: {a: {command: [x], env: {A: {}}}}\n", "sources.a.env: give exactly one of file, env or command"),
        ("defaults: {compression: maxx}\n", 'found "maxx" (did you mean "max"?)'),
        ("defaults: {pack_size: big}\n", 'defaults.pack_size: expected a size in bytes, or as "64 MiB", "1.5 GB"'),
        ("exporter: off\n", 'exporter: expected a mapping of settings: {listen: ...}, found "off"'),
        ("exporter: {listen: 9321}\n", 'exporter.listen: expected an address as "127.0.0.1:9321"'),
        ("exporter: {listen: 'h:99999'}\n", 'or off, found "h:99999"'),
        ("sorces: {}\n", 'sorces: unknown key (did you mean "sources"?)'),
        ("secret: {file: x}\n", "secret: stands twice, first in line 1"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, more: str, said: str) -> None:
    """Each mistake has a message that names the key, what was expected and what was found."""
    lines = problems(tmp_path, sited(more))
    assert [said in line for line in lines] == [True]
    assert lines[0].startswith("fleet.yaml:")


def test_defaults_fill_in_what_a_policy_does_not_say(tmp_path: Path) -> None:
    """Also a value that equals the built-in one is the policy's own."""
    text = sited(
        "defaults: {timezone: Europe/Berlin, rpo: 2h, jitter: 5m, blackout: [{days: sun}]}\n"
        "policies: {p: {full: 1d}, q: {full: 1d, select: x=y, timezone: UTC, blackout: [], rpo: 1h}}\n"
    )
    policies = Fleet.load(write(tmp_path, text)).policies
    got = {p.id: (p.timezone, p.rpo, p.jitter, [str(one) for one in p.blackout]) for p in policies.values()}
    assert got == {"p": ("Europe/Berlin", 7200, 300, ["sun"]), "q": ("UTC", 3600, 300, [])}


LABELS = st.dictionaries(st.sampled_from("abc"), st.sampled_from("12"))
TERMS = st.sampled_from(["a=1", "a!=1", "a in (1, 2)", "b not in (1, 2)", "exists c", "!c", "b=2", "c=1"])


@given(selects=st.lists(st.lists(TERMS, max_size=3), max_size=8), labels=LABELS)
def test_policies_are_found_as_if_each_was_asked(selects: list[list[str]], labels: dict[str, str]) -> None:
    """The look-up by label finds what looking at each policy finds, the one of most terms first."""
    policies = [Policy.model_validate({"select": ", ".join(terms) or "*", "full": "1d"}) for terms in selects]
    asked = sorted((one for one in policies if one.select.matches(labels)), key=lambda one: -one.select.rank)
    choice = PolicyChoice(policies)
    assert [id(one) for one in choice.selecting(labels)] == [id(one) for one in asked]
    assert len(choice.best(labels)) == sum(one.select.rank == asked[0].select.rank for one in asked)


@pytest.mark.parametrize(
    ("sites", "said"),
    [
        ("sites: {}\n", "sites: expected at least one site that is no witness"),
        ("sites: {a: {url: /a, witness: true}}\n", "sites: expected at least one site that is no witness"),
        ("", "sites: is missing"),
        ("sites: {a: {}}\n", "sites.a.url: is missing"),
        ("sites: {a: {url: /a}, b: {url: /a/}}\n", "sites.b.url: is the place of site a too"),
        ("sites: {a: {url: /a, kind: s3}}\n", 'sites.a: kind is s3, but url is "/a"'),
        ("sites: {a: {url: /a, kind: ftp}}\n", 'sites.a.kind: expected directory or s3, found "ftp"'),
        ("sites: {a: {url: 's3:https://h/b'}}\n", "sites.a: an s3 site needs credentials"),
        ("sites: {a: {url: 's3:https://h', credentials: {env: A}}}\n", "sites.a.url: "),
        ("sites: {a: {url: 'ftp://h/b'}}\n", "sites.a.url: "),
        ("sites: {a: {url: /a, credentials: {env: A}}}\n", "sites.a: a directory needs neither credentials"),
        ("sites: {a: {url: /a, region: mars}}\n", 'sites.a.region: there is no region "mars"'),
        ("sites: {a: {url: /a, connections: 0}}\n", "expected a whole number of connections, from 1 to 256, found 0"),
    ],
)
def test_what_is_wrong_with_sites_is_named(tmp_path: Path, sites: str, said: str) -> None:
    """The same for places."""
    lines = problems(tmp_path, HEAD + sites)
    assert [said in line for line in lines] == [True]


def test_a_site_needs_a_region_where_there_are_several(tmp_path: Path) -> None:
    """Which region a site belongs to decides what fails together."""
    text = sited("regions: {eu: {}, us: {}}\n")
    assert problems(tmp_path, text) == ["fleet.yaml:3: sites.a: expected a region, since there are 2: eu, us"]


def test_a_secret_in_the_file_is_refused_and_not_repeated(tmp_path: Path) -> None:
    """Whoever pastes a secret where its place belongs does not find it in a log."""
    lines = problems(tmp_path, "secret: hunter2\nrecovery_password: {file: x, env: Y}\nsites: {a: {url: /a}}\n")
    assert [line for line in lines if "hunter2" in line] == []
    assert lines[0].startswith("fleet.yaml:1: secret: expected a mapping with one of file, env or command")
    assert lines[1] == "fleet.yaml:2: recovery_password: give exactly one of file, env or command"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "fleet.yaml: expected a mapping, found nothing"),
        (b"- a\n", "fleet.yaml: expected a mapping, found a list"),
        (b"a: 1\nb: \xff\n", "fleet.yaml:2: this is not UTF-8"),
        (b"full: * * * * *\n", "fleet.yaml:1: this is not YAML"),
    ],
)
def test_a_file_that_is_none_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    """Before any key is looked at."""
    path = tmp_path / "fleet.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigInvalid) as caught:
        Fleet.load(str(path))
    assert said in str(caught.value)


def test_a_file_that_is_not_there_says_how_to_get_one(tmp_path: Path) -> None:
    """The way out is in the message."""
    with pytest.raises(ConfigError, match=r"can't read the configuration .*: No such file.*holdfast init"):
        Fleet.load(str(tmp_path / "none.yaml"))


def test_an_opened_site_is_a_store(tmp_path: Path) -> None:
    """A directory site opens as it stands in the file."""
    fleet = Fleet.load(write(tmp_path, sited("", "sites: {a: {url: ./a}}\n")))
    os.mkdir(tmp_path / "a")
    store = fleet.open_site("a")
    store.put("x/y", b"z")
    assert (tmp_path / "a/x/y").read_bytes() == b"z"
    store.close()


def test_access_to_a_site_travels_as_plain_values_and_hides_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an engine is told; its repr is safe to log."""
    monkeypatch.setenv("FRA_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("FRA_SECRET_ACCESS_KEY", "hunter2")
    access = Fleet.load(write(tmp_path, GOOD)).site_access("fra")
    assert access.url == "s3:https://fra.example.org:9000/backups/x"
    assert access.credentials == {"access_key": "id", "secret_key": "hunter2"}
    assert "hunter2" not in repr(access)
