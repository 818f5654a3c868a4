"""deploy/: what can't be run here is held to its schema, to a linter, and to what it names."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastjsonschema
import pytest
import yaml

from shared.config.fleet import Fleet
from shared.version import VERSION
from tests.support import forked

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE_DIR = DEPLOY / "compose"
COMPOSE: dict[str, Any] = yaml.safe_load((COMPOSE_DIR / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (DEPLOY / "docker/Dockerfile").read_text()
SCHEMA = json.loads((ROOT / "tests/support/schemas/compose-spec.json").read_text())
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
# The compose specification's of 2021, but for `name`, which came later; fastjsonschema reads draft 7, of which this is.
IS_COMPOSE = fastjsonschema.compile(
    {
        **SCHEMA,
        "$schema": "http://json-schema.org/draft-07/schema#",
        "properties": {**SCHEMA["properties"], "name": {"type": "string"}},
    },
    formats={"duration": r"^\d+[smh]$"},
)


def parses(arguments: list[str]) -> bool:
    """Whether the command exists, with these options: `--help` is answered only once all has been understood."""
    command = [sys.executable, "-m", "cli.main", *arguments, "--help"]
    return forked.run(command, cwd=ROOT, capture_output=True, timeout=60).returncode == 0


# -- compose ----------------------------------------------------------------------------------------


def test_the_compose_file_fits_its_schema() -> None:
    """As the specification has it; and what is none does not."""
    IS_COMPOSE(COMPOSE)
    with pytest.raises(fastjsonschema.JsonSchemaException):
        IS_COMPOSE({**COMPOSE, "services": {"redis": {"imagination": "none"}}})


def test_the_system_is_whole() -> None:
    """Each part is there; two workers; each has a check of its health, but those that end."""
    assert set(SERVICES) == {
        *("redis", "site-a", "site-b", "sites", "scheduler", "worker", "exporter", "command"),
        *("prometheus", "alertmanager", "grafana"),
    }
    assert SERVICES["worker"]["deploy"]["replicas"] == 2
    assert {name for name, service in SERVICES.items() if "healthcheck" not in service} == {"sites", "command"}


def test_images_are_pinned() -> None:
    """To a version, and Holdfast's own to the one of this checkout."""
    images = {service["image"] for service in SERVICES.values()}
    assert {image for image in images if not re.fullmatch(r"[\w./-]+:(RELEASE\.|v)?\d[\w.-]+", image)} == set()
    assert f"holdfast:{VERSION}" in images


def test_what_is_mounted_exists() -> None:
    """Each file and folder of the checkout that a service mounts, and each volume, secret and network that it names."""
    missing = []
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            there = (COMPOSE_DIR / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]
            missing += [] if there else [(name, source)]
        named = {one if isinstance(one, str) else one["source"] for one in service.get("secrets", [])}
        missing += [(name, secret) for secret in named - set(COMPOSE["secrets"])]
        missing += [(name, network) for network in set(service.get("networks", [])) - set(COMPOSE["networks"])]
        missing += [(name, other) for other in set(service.get("depends_on", {})) - set(SERVICES)]
    assert missing == []


def test_only_this_machine_reaches_it() -> None:
    """Ports are published on the loopback alone; Redis and the sites publish none."""
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(ports) == {"prometheus", "alertmanager", "grafana"}
    assert all(port.startswith("127.0.0.1:") for one in ports.values() for port in one)


def test_no_secret_stands_in_the_file() -> None:
    """Each is a file, and no setting of the environment holds one."""
    assert all(set(secret) == {"file"} for secret in COMPOSE["secrets"].values())
    settings = [name for service in SERVICES.values() for name in service.get("environment", {})]
    assert [
        name for name in settings if re.search("PASSWORD|SECRET|KEY|USER", name) and not name.endswith("_FILE")
    ] == []


def test_commands_of_holdfast_exist() -> None:
    """Each command line of a service is understood by the command, with its options."""
    own = {name: service for name, service in SERVICES.items() if service["image"].startswith("holdfast:")}
    lines = {name: service["command"] for name, service in own.items() if "entrypoint" not in service}
    assert set(lines) == {"scheduler", "worker", "exporter", "command"}
    assert [line for line in lines.values() if not parses(line)] == []
    checks = [service["healthcheck"]["test"][1] for service in own.values() if "healthcheck" in service]
    called = [found.split() for check in checks for found in re.findall(r"holdfast ([\w -]+?) \|", check)]
    assert called == [["status", "--json"], ["worker", "list", "--json"]]
    assert [line for line in called if not parses(line)] == []
    assert parses(["worker", "start", "--imagined"]) is False


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """The secrets, written as docs/fleet.md says."""
    subprocess.run([sys.executable, COMPOSE_DIR / "make_secrets.py", tmp_path / "secrets"], check=True)
    return tmp_path / "secrets"


def contents(folder: Path) -> dict[str, str]:
    """Each file and what is in it."""
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_the_secrets_are_those_that_compose_reads(secrets: Path) -> None:
    """All and no other, in a folder that only its owner may enter; twice is the same; half a pair is refused."""
    wanted = {os.path.basename(secret["file"]) for secret in COMPOSE["secrets"].values()}
    first = contents(secrets)
    assert set(first) == wanted
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    again = [sys.executable, COMPOSE_DIR / "make_secrets.py", secrets]
    (secrets / "fleet.secret").unlink()
    subprocess.run(again, check=True)
    second = contents(secrets)
    assert (set(second), second.pop("fleet.secret") == first.pop("fleet.secret")) == (wanted, False)
    assert second == first
    (secrets / "users.acl").unlink()
    done = subprocess.run(again, capture_output=True, text=True, check=False)
    assert (done.returncode, "its twin is there" in done.stderr) == (1, True)


def test_the_fleet_of_compose_is_valid(secrets: Path) -> None:
    """`holdfast config check` takes it with the secrets that were written; each source has a policy."""
    config = secrets.parent / "holdfast.yaml"
    shutil.copy(COMPOSE_DIR / "config/holdfast.yaml", config)
    command = [sys.executable, "-m", "cli.main", "-c", config, "config", "check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    fleet = Fleet.load(str(config))
    assert {name: policy.id for name in fleet.sources if (policy := fleet.policy_for(name))} == {
        "docs": "standard",
        "decisions": "archive",
    }
    targets = {one["target"] for one in SERVICES["worker"]["secrets"]}
    assert {f"/etc/holdfast/{name}" for name in re.findall(r"file: ([\w./-]+)", config.read_text())} == targets
    mounted = {volume.split(":")[1] for volume in SERVICES["worker"]["volumes"]}
    assert [path for source in fleet.sources.values() for path in source.paths or () if not within(path, mounted)] == []


def within(path: str, folders: set[str]) -> bool:
    """Whether one of these folders holds a path."""
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)


# -- the image --------------------------------------------------------------------------------------


def test_the_linter_accepts_the_dockerfile() -> None:
    """hadolint, without exceptions."""
    hadolint = os.path.join(sysconfig.get_path("scripts"), "hadolint")
    done = subprocess.run(
        [hadolint, DEPLOY / "docker/Dockerfile"], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "")


def copied() -> Iterator[tuple[str, str]]:
    """What the image is given of the checkout, and where it lies."""
    for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE):
        source, target = [word for word in line.split() if not word.startswith("--")]
        yield source, target


def test_the_image_gets_what_exists_and_is_let_through() -> None:
    """Each COPY names what is there and what .dockerignore lets pass, and nothing else passes."""
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    let_through = {line[1:] for line in ignored if line.startswith("!")}
    assert {source for source, _ in copied()} == let_through
    assert [source for source in let_through if not (ROOT / source).exists()] == []
    packages = {path.parent.name for path in ROOT.glob("*/py.typed")}
    assert packages <= let_through


def test_what_the_image_is_given_suffices(tmp_path: Path) -> None:
    """Laid out as in the image, the command runs, and needs nothing else of the checkout."""
    for source, target in copied():
        place = tmp_path / target
        place = place / source if target.endswith("/") else place
        place.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / source).is_dir() else shutil.copy)(ROOT / source, place)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    for arguments in (["version"], ["scheduler", "--help"], ["worker", "start", "--help"], ["exporter", "--help"]):
        command = [sys.executable, tmp_path / ".venv/bin/holdfast", *arguments]
        done = subprocess.run(
            command, cwd="/", env=environment, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
    where = [sys.executable, "-c", "import cli, workers.up; print(cli.__file__, workers.up.__file__)"]
    printed = subprocess.run(where, cwd="/", env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert [path.startswith(str(tmp_path)) for path in printed.split()] == [True, True]


def test_the_image_is_not_root() -> None:
    """Its last USER is a number that is not 0, and the base is one of a whole version, twice the same."""
    assert re.findall(r"^USER (\d+)$", DOCKERFILE, re.MULTILINE) == ["10001"]
    (base,) = set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE))
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base)


# -- systemd ----------------------------------------------------------------------------------------


def test_units_start_commands_that_exist() -> None:
    """Each ExecStart is understood by the command; what stands after `--config FILE` is its command line."""
    lines = [
        re.findall(r"^ExecStart=\S+/holdfast --config \S+ (.*)$", path.read_text(), re.MULTILINE) for path in UNITS
    ]
    assert [line for (line,) in lines if not parses(line.replace("%H", "web1").split())] == []
    assert len(UNITS) >= 4


@pytest.mark.parametrize("unit", UNITS, ids=[path.stem for path in UNITS])
def test_systemd_accepts_the_units(unit: Path, tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing to say of it, where the program that it starts is there."""
    text = unit.read_text()
    program = tmp_path / "holdfast"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (tmp_path / unit.name).write_text(re.sub(r"^ExecStart=\S+", f"ExecStart={program}", text, flags=re.MULTILINE))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / unit.name],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("unit", UNITS, ids=[path.stem for path in UNITS])
def test_units_are_sandboxed(unit: Path) -> None:
    """`systemd-analyze security` finds less exposed than before: those that read all files keep the rights for that."""
    most = {"holdfast-exporter": 2.0, "holdfast-scheduler": 3.5, "holdfast-worker": 5.0, "holdfast": 5.0}.get(
        unit.stem, 8.0
    )
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", f"--threshold={most * 10:g}", unit],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


# -- docs/fleet.md ----------------------------------------------------------------------------------

FLEET_PAGE = (ROOT / "docs/fleet.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", FLEET_PAGE, re.MULTILINE | re.DOTALL)


def test_the_three_hosts_are_a_valid_fleet(tmp_path: Path) -> None:
    """The file of the page is taken as it stands, and gives each host its policy."""
    (text,) = [text for language, text in BLOCKS if language == "yaml"]
    files = {"holdfast.yaml": text, "fleet.secret": "0123456789abcdef" * 4, "recovery.password": "a long password"}
    files |= {"broker.url": "redis://hub:6379/0", "site.keys": "access_key = a\nsecret_key = b"}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o600)
    command = [sys.executable, "-m", "cli.main", "-c", tmp_path / "holdfast.yaml", "config", "check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    fleet = Fleet.load(str(tmp_path / "holdfast.yaml"))
    followed = {name: policy.id for name in fleet.sources if (policy := fleet.policy_for(name))}
    assert followed == {"hub": "standard", "web1": "standard", "db1": "databases"}
    assert fleet.hosts == ("db1", "hub", "web1")


def test_the_page_names_commands_that_exist() -> None:
    """Each `holdfast ...` of its blocks is understood by the command."""
    lines = [line for _, text in BLOCKS for line in re.findall(r"^holdfast (.*)$", text, re.MULTILINE)]
    assert len(lines) >= 6
    assert [line for line in lines if not parses(line.split())] == []


def test_the_pages_users_are_those_of_the_files(tmp_path: Path) -> None:
    """The line that makes users.acl makes the file that `make_secrets.py` makes of the same password."""
    (block,) = [text for _, text in BLOCKS if "sed -e" in text]
    (line,) = re.findall(r"^(sed -e .*?)> /etc/redis/users\.acl$", block, re.MULTILINE | re.DOTALL)
    script = line.replace("/opt/holdfast/", f"{ROOT}/")
    made = subprocess.run(
        ["bash", "-c", f"PASSWORD=abc; {script}"], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    spec = importlib.util.spec_from_file_location("make_secrets", COMPOSE_DIR / "make_secrets.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert made.strip() == module._users("abc")
    assert "#HOLDFAST" not in made
