"""`holdfast config check` and `config show`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cli.effective import size
from cli.main import main
from shared.retention import span

PLANTED = "hunter2-planted"
TEXT = f"""\
secret: {{command: [vault, --token, {PLANTED}]}}
recovery_password: {{file: recovery.password}}
regions:
  eu: {{broker: "redis://me:{PLANTED}@redis:6379/0?password={PLANTED}"}}
sites:
  fra: {{url: "s3:https://fra.example.org/backups", credentials: {{command: [keys, {PLANTED}]}}}}
  ams: {{url: ./ams}}
policies:
  databases: {{select: "tier=1, kind=db", primary: ams, full: "0 1 * * *", incremental: 15m, rpo: 90m}}
  web: {{select: kind=web, primary: fra, full: 1d, retention: {{keep_daily: 7, keep_within: 2d}}}}
sources:
  db/orders: {{labels: {{tier: 1, kind: db}}, command: [pg_dump, "postgres://me:{PLANTED}@db/orders"]}}
  web1: {{labels: {{tier: 2, kind: web}}, host: web1, paths: [/srv], excludes: ["*.tmp"], exclude_larger_than: 1 GiB}}
  lone: {{labels: {{tier: 2}}, paths: [/lone]}}
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recovery.password").write_text(PLANTED)
    (tmp_path / "recovery.password").chmod(0o600)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HOLDFAST_CONFIG", raising=False)


def put(text: str, name: str = "holdfast.yaml") -> None:
    """Write a file here."""
    Path(name).write_text(text)


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    """What a command says, on both streams; nothing planted is in it."""
    got = main(list(arguments))
    said = capsys.readouterr()
    assert got == code, said.out + said.err
    assert PLANTED not in said.out + said.err
    return said.out + said.err


def ask(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    """The same with --json."""
    return json.loads(run(capsys, *arguments, "--json", code=code))


def test_a_right_file_is_said_to_be_right(capsys: pytest.CaptureFixture[str]) -> None:
    """With counts of what it has; --json has them too."""
    put(
        "secret: {file: recovery.password}\nrecovery_password: {file: recovery.password}\n"
        "sites: {a: {url: ./a}}\npolicies: {all: {full: 1d}}\nsources: {x: {paths: /x}, y: {paths: /y}}\n"
    )
    assert run(capsys, "config", "check") == "holdfast.yaml is right: 1 site, 1 policy, 2 sources\n"
    got = ask(capsys, "config", "check", str(Path("holdfast.yaml").absolute()))
    assert {key: got[key] for key in ("ok", "sites", "policies", "sources", "problems", "warnings")} == {
        "ok": True,
        "sites": 1,
        "policies": 1,
        "sources": 2,
        "problems": [],
        "warnings": [],
    }


def test_warnings_tell_what_may_not_be_meant(capsys: pytest.CaptureFixture[str]) -> None:
    """What this release does not do, what nobody follows, and secrets that are not there; the exit code stays 0."""
    put(TEXT.replace("recovery.password", "none.password"))
    warnings = ask(capsys, "config", "check")["warnings"]
    assert [line.partition(": ")[0] for line in warnings] == [
        "sources.lone",
        "sources.lone",
        "recovery_password",
    ]
    Path("recovery.password").chmod(0o644)
    put(TEXT)
    assert "is open to others (mode 0644)" in run(capsys, "config", "check")


def test_secrets_of_programs_are_looked_for_where_they_run(capsys: pytest.CaptureFixture[str]) -> None:
    """Of sources that are read here, and of programs for restores; another host's are its own business."""
    put(
        "secret: {file: recovery.password}\nrecovery_password: {file: recovery.password}\nsites: {a: {url: ./a}}\n"
        "policies: {all: {full: 1d}}\nrestore_into: {db: {command: [x], env: {A: {file: none}, B: text}}}\n"
        "sources: {x: {command: [x], env: {A: {file: none}}}, y: {host: far, command: [y], env: {A: {file: none}}}}\n"
    )
    warnings = ask(capsys, "config", "check")["warnings"]
    assert [line.partition(": ")[0] for line in warnings] == ["sources.x.env.A", "restore_into.db.env.A"]
    shown = ask(capsys, "config", "show")
    assert shown["restore_into"]["db"]["env"] == {"A": {"file": str(Path("none").absolute())}, "B": "***"}


def test_all_problems_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """Also beyond the twenty that another command would show; exit code 10."""
    put(TEXT + "".join(f"  s{number}: {{pahts: /x}}\n" for number in range(30)))
    said = run(capsys, "config", "check", code=10).splitlines()
    assert said[0] == 'holdfast.yaml:15: sources.s0.pahts: unknown key (did you mean "paths"?)'
    assert (len(said), said[-1]) == (31, "holdfast.yaml is wrong: 30 problems")
    got = ask(capsys, "config", "check", code=10)
    assert (got["ok"], len(got["problems"])) == (False, 30)
    assert got["problems"][0] == {
        "file": "holdfast.yaml",
        "line": 15,
        "key": "sources.s0.pahts",
        "reason": 'unknown key (did you mean "paths"?)',
    }


def test_a_file_that_can_not_be_read_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    """As with every command."""
    assert "can't read the configuration none.yaml" in run(capsys, "config", "check", "none.yaml", code=10)


def test_show_says_what_it_amounts_to(capsys: pytest.CaptureFixture[str]) -> None:
    """Defaults filled in, secrets by reference alone."""
    put(TEXT)
    got = ask(capsys, "config", "show")
    here = Path.cwd()
    assert got["secret"] == {"command": "vault (and 2 arguments, not shown)"}
    assert got["recovery_password"] == {"file": f"{here}/recovery.password"}
    assert got["defaults"] == {"compression": "default", "pack_size": "16 MiB", "read_concurrency": "one per core"}
    assert got["regions"] == {"eu": {"broker": "redis://***@redis:6379/0?***"}}
    assert got["sites"]["ams"] == {"url": f"{here}/ams", "kind": "directory", "region": "eu", "connections": 8}
    assert got["policies"]["databases"] == {
        "select": "tier=1, kind=db",
        "primary": "ams",
        "full": "0 1 * * *",
        "incremental": "15m",
        "timezone": "UTC",
        "rpo": "1h30m",
        "attempts": 5,
        "sources": ["db/orders"],
    }
    assert got["policies"]["web"]["retention"] == {"keep_daily": 7, "keep_within": "2d"}
    assert got["sources"]["db/orders"]["command"] == "pg_dump (and 1 argument, not shown)"
    assert got["state_dir"] == f"{here}/.holdfast/state"


def test_a_policy_that_does_nothing_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    """It selects nothing, or what it selects follows more specific ones."""
    more = "  none: {select: kind=mail, primary: ams, full: 1d}\n"
    more += "  idle: {select: '!os', primary: ams, full: 1d}\nsources:\n"
    put(
        TEXT.replace("sources:\n", more)
        .replace("{tier: 2}", "{tier: 2, os: bsd}")
        .replace("kind=web,", "'kind=web, !os',")
    )
    got = ask(capsys, "config", "check")["warnings"]
    assert [line for line in got if "no source follows it" in line] == [
        "policies.none: no source follows it: kind=mail selects none",
        "policies.idle: no source follows it: what it selects follows more specific ones (databases, web)",
    ]


def test_show_says_why_a_source_follows_its_policy(capsys: pytest.CaptureFixture[str]) -> None:
    """The most specific that selects it, what it lacks for others, or that there is none."""
    put(TEXT)
    got = {name: one["because"] for name, one in ask(capsys, "config", "show")["sources"].items()}
    assert got == {
        "db/orders": "its labels are those of select tier=1, kind=db",
        "web1": "its labels are those of select kind=web; databases wants tier=1, and this source has tier=2",
        "lone": "no policy selects it, so it is backed up only by hand "
        "(databases wants tier=1, and this source has tier=2; web wants kind=web, and this source has no kind)",
    }


def test_one_source_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """As YAML for people, with all that it gets; one that is not there names the nearest."""
    put(TEXT)
    assert run(capsys, "config", "show", "--source", "web1") == (
        "sources:\n  web1:\n    labels:\n      tier: '2'\n      kind: web\n    policy: web\n"
        "    because: its labels are those of select kind=web; databases wants tier=1, and this source has "
        "tier=2\n"
        "    full: 1d\n    primary: fra\n    repository: web1\n    read_by: the worker of host web1\n    paths:\n"
        "    - /srv\n    excludes:\n    - '*.tmp'\n    exclude_caches: false\n    one_file_system: false\n"
        "    exclude_larger_than: 1 GiB\n"
    )
    assert '(did you mean "web1"?)' in run(capsys, "config", "show", "--source", "web2", code=10)


@pytest.mark.parametrize(
    "broker",
    [
        f"redis://:{PLANTED}@h:1/0",
        f"unix://me:{PLANTED}@/run/redis.sock?db=1&password={PLANTED}",
        f"rediss://h/0?password={PLANTED}",
        f"redis://me:{PLANTED}/x@{PLANTED}@h",
    ],
)
def test_a_password_in_a_brokers_url_is_not_shown(capsys: pytest.CaptureFixture[str], broker: str) -> None:
    """However odd; nor by an error about that file."""
    put(TEXT.replace(f"redis://me:{PLANTED}@redis:6379/0?password={PLANTED}", broker))
    assert "***" in run(capsys, "config", "show")
    put(TEXT.replace(f"redis://me:{PLANTED}@redis:6379/0?password={PLANTED}", broker.partition("://")[2]))
    run(capsys, "config", "check", code=10)
    put(TEXT.replace("secret: {command", f"secret: {PLANTED}\nscret: {{command"))
    run(capsys, "config", "check", code=10)


def test_values_are_shown_as_the_file_says_them() -> None:
    """Lengths of time and sizes, such that they can be pasted back."""
    assert [span(seconds) for seconds in (1, 0.5, 90, 5400, 86400, 694861)] == [
        "1s",
        "0.5s",
        "1m30s",
        "1h30m",
        "1d",
        "1w1d1h1m1s",
    ]
    assert [size(count) for count in (0, 1000, 1024, 16 << 20, 1 << 40)] == ["0", "1000", "1 KiB", "16 MiB", "1 TiB"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("policies:", "polcies:", 'holdfast.yaml:8: polcies: unknown key (did you mean "policies"?)'),
        ("keep_daily: 7", "keep_daily: seven", 'expected a whole number of days, found "seven"'),
        ("  lone:", "  web1:", "holdfast.yaml:14: sources.web1: stands twice, first in line 13"),
        ('"0 1 * * *"', '"0 25 * * *"', "holdfast.yaml:9: policies.databases.full: expected a cron line"),
        ("primary: fra", "primary: far", 'there is no site "far" (did you mean "fra"?)'),
        ("host: web1", "host: web1, pool: nfs", "sources.web1: has both host and pool"),
        ("paths: [/lone]", "paths: lone", 'sources.lone.paths[0]: expected an absolute path, found "lone"'),
        ("policies:", "include: holdfast.yaml\npolicies:", "include: loops: holdfast.yaml -> holdfast.yaml"),
        ("sites:", "sites: [", "holdfast.yaml:7: this is not YAML"),
        (
            "https://fra.example.org",
            f"https://me:{PLANTED}@fra.example.org",
            "sites.fra.url: refused: open at s3:https://...@fra.example.org/backups",
        ),
        (
            "secret: {command: [vault, --token, ",
            f"secret: {{env: [{PLANTED}], x: [",
            "secret.env: expected a text, found a list",
        ),
    ],
)
def test_each_bad_input_is_told_with_its_place(
    capsys: pytest.CaptureFixture[str], old: str, new: str, said: str
) -> None:
    """File, line, key, what was found, what was expected, the nearest word; exit code 10, and no file is touched."""
    assert TEXT.count(old) >= 1
    put(TEXT.replace(old, new, 1))
    before = {path.name: path.read_bytes() for path in Path.cwd().iterdir()}
    for command in (["config", "check"], ["config", "show"], ["snapshots", "web1"], ["backup", "web1", "--direct"]):
        assert said in run(capsys, *command, code=10)
    assert {path.name: path.read_bytes() for path in Path.cwd().iterdir()} == before
