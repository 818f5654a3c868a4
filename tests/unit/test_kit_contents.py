"""What a kit holds: a configuration that needs nothing of the machine it came from, and the text beside it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shared.config.fleet import Fleet
from shared.errors import ConfigError
from shared.kit import archive, folder
from shared.kit.archive import Kit
from shared.kit.compare import changes
from shared.kit.contents import collect
from shared.kit.errors import KitDamaged, KitError, NewerKit

MAIN = """\
secret: {file: fleet.secret}
recovery_password: {command: [echo, a word of recovery]}
include: more/*.yaml
inventory: {command: [cat, cmdb.yaml]}
regions: {one: {broker: {file: broker}}}
sites:
  near: {url: ./backups}
  far: {url: "s3:https://s3.example.org/bucket/below", credentials: {env: FAR}, ca_file: ca.pem}
  vote: {url: ./vote, witness: true}
policies:
  all: {primary: near, full: 1d, copies: {sites: [far]}}
sources:
  web1: {paths: [/srv/it's], owner: web team, exclude_files: patterns}
"""
MORE = """\
sources:
  db/orders:
    preset: postgresql
    options: {database: orders}
    env: {PGPASSWORD: {file: pg.password}}
    owner: payments
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration of several files, with secrets of each kind."""
    home = tmp_path / "home"
    files = {
        "holdfast.yaml": MAIN,
        "more/db.yaml": MORE,
        "conf.d/web2.yaml": 'sources: {web2: {paths: [/srv/2], labels: {a: "yes", b: "0123"}}}\n',
        "fleet.secret": "0123456789abcdef" * 4,
        "broker": "redis://:broker-password@hub/0",
        "ca.pem": "a certificate",
        "pg.password": "pg-password",
        "patterns": "*.tmp",
        ".holdfast/state/inventory/sources.json": '{"sources": {"inv": {"paths": ["/srv/inv"]}}, "gone": {"old":'
        ' {"since": 1700000000, "source": {"paths": ["/srv/old"]}}}}',
        ".holdfast/state/topology.json": '{"seen": {}, "state": null}',
    }
    for name, text in files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    for name, value in (("ACCESS_KEY_ID", "far-key"), ("SECRET_ACCESS_KEY", "far-secret")):
        monkeypatch.setenv(f"FAR_{name}", value)
    return home


def load(place: Path) -> Fleet:
    """The configuration."""
    return Fleet.load(str(place / "holdfast.yaml"))


def test_an_opened_kit_means_what_the_files_meant(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no file, variable, program or inventory of the machine it came from."""
    before = load(place)
    packed = archive.pack(collect(before).kit)
    monkeypatch.delenv("FAR_SECRET_ACCESS_KEY")
    place.rename(tmp_path / "gone")
    folder.publish(str(tmp_path / "opened"), archive.unpack(packed, "kit").files)
    after = Fleet.load(str(tmp_path / "opened/holdfast.yaml"))
    assert {name: site.url for name, site in after.sites.items()} == {n: site.url for n, site in before.sites.items()}
    assert (after.secret.read(), after.recovery_password.read()) == (b"0123456789abcdef" * 4, b"a word of recovery")
    assert after.broker_url() == "redis://:broker-password@hub/0"
    ca_file = after.site_access("far").ca_file
    assert (ca_file, Path(str(ca_file)).read_text()) == (f"{tmp_path}/opened/files/sites.far.ca_file", "a certificate")
    from shared.config.stores import current_credentials

    keys = current_credentials(after.site_access("far"))
    assert keys is not None
    assert (keys.access_key, keys.secret_key) == ("far-key", "far-secret")
    assert set(after.sources) == set(before.sources) == {"web1", "db/orders", "web2", "inv", "old"}
    assert after.source("db/orders").command == before.source("db/orders").command
    assert after.source("db/orders").env["PGPASSWORD"].read() == b"pg-password"  # type: ignore[union-attr] # a Secret
    assert Path(after.source("web1").exclude_files[0]).read_text() == "*.tmp"
    assert after.source("web2").labels == {"a": "yes", "b": "0123"}
    assert after.source("old").is_over
    assert (after.state_dir, after.inventory) == (f"{tmp_path}/opened/state", None)
    assert (tmp_path / f"opened/original{place}/more/db.yaml").read_text() == MORE
    assert (tmp_path / "opened/state/topology.json").exists()


def test_the_text_has_commands_and_no_secret(place: Path) -> None:
    """For each source at each of its sites, those who own what, and nothing that opens anything."""
    text = collect(load(place)).kit.files[archive.INSTRUCTIONS].decode()
    assert [secret for secret in ("far-secret", "0123456789", "a word of", "password@") if secret in text] == []
    for source in ("web1", "web2", "db/orders", "inv"):
        section = text.partition(f"## {source}\n")[2].partition("\n## ")[0]
        commands = re.findall(r"^restic -r (\S+) .* restore latest --tag hf\.source=(\S+)", section, re.MULTILINE)
        places = [f"{place}/backups/repos/{source}", f"s3:https://s3.example.org/bucket/below/repos/{source}"]
        assert commands == [(one, source) for one in places]
    assert ("- payments: db/orders" in text, "vote" in text.partition("With stock")[2]) == (True, False)
    assert "--cacert files/sites.far.ca_file" in text


def test_a_secret_that_can_not_be_read_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them at once, and no kit; left out by a word, the text says so, and it can be put back."""
    monkeypatch.delenv("FAR_SECRET_ACCESS_KEY")
    (place / "pg.password").unlink()
    with pytest.raises(KitError) as error:
        collect(load(place))
    assert "FAR_SECRET_ACCESS_KEY, which is not set" in str(error.value)
    assert "--without sites.far.credentials --without sources.db/orders.env.PGPASSWORD" in error.value.hint
    made = collect(load(place), ["sites.*", "sources.*"])
    assert len(made.warnings) == 2
    assert "- `sites.far.credentials` (" in made.kit.files[archive.INSTRUCTIONS].decode()
    assert b"file: secrets/sites.far.credentials" in made.kit.files[archive.CONFIG]
    (place / "fleet.secret").unlink()
    (place / "holdfast.yaml").write_text(MAIN.replace("[echo, a word of recovery]", '["false"]'))
    with pytest.raises(KitError, match="it would open no repository"):
        collect(load(place), ["*"])


def test_temporary_credentials_are_said_so(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a warning and in the text; that they are others by now is no change."""
    monkeypatch.setenv("FAR_SESSION_TOKEN", "a token")
    first = collect(load(place))
    assert first.warnings == ("sites.far.credentials are temporary: the kit needs others by then",)
    text = first.kit.files[archive.INSTRUCTIONS].decode()
    assert ("**Temporary credentials**" in text, "export AWS_SESSION_TOKEN=" in text) == (True, True)
    monkeypatch.setenv("FAR_SESSION_TOKEN", "another token")
    assert changes(first.kit, collect(load(place)).kit) == []


def test_what_has_changed_since_is_named(place: Path) -> None:
    """Sources, sites, keys, and who is primary; comments are nothing."""
    old = collect(load(place)).kit
    text = MAIN.replace("/srv/it's", "/srv/other").replace("  vote: {url: ./vote, witness: true}\n", "")
    (place / "holdfast.yaml").write_text(f"# a comment\n{text}prune: {{grace: 2d}}\n")
    (place / "conf.d/web2.yaml").unlink()
    (place / "pg.password").write_text("another")
    (place / ".holdfast/state/topology.json").write_text('{"seen": {}, "state": {"stand_ins": {"near": "far"}}}')
    assert [(one.what, one.how) for one in changes(old, collect(load(place)).kit)] == [
        ("prune", "new"),
        ("sites.vote", "gone"),
        ("sources.db/orders.env.PGPASSWORD", "changed"),
        ("sources.web1", "changed"),
        ("sources.web2", "gone"),
        ("topology", "changed"),
    ]


def test_an_agents_machine_can_not_make_one(place: Path) -> None:
    """It has no secret of the fleet."""
    (place / "etc").mkdir()
    (place / "etc/own.yaml").write_text("agent: web1\nmachine_passwords: {file: x}\nsites: {near: {url: ./backups}}\n")
    with pytest.raises(ConfigError, match="the file of web1's agent, which does not hold the fleet's secret"):
        collect(Fleet.load(str(place / "etc/own.yaml")))


def test_what_is_no_kit_inside_is_told(tmp_path: Path) -> None:
    """A newer form, a file that would lie elsewhere, half an archive, another archive."""
    files = {archive.CONFIG: b"", archive.INSTRUCTIONS: b""}
    head = {"format": 1, "id": "x", "made": 1.0, "by": "Holdfast 9"}
    with pytest.raises(NewerKit, match=r"of a newer release \(Holdfast 9\): its form is 2, and this release knows 1"):
        archive.unpack(archive.pack(Kit({**head, "format": 2}, files)), "kit")
    for name in ("../outside", "/etc/passwd", "a/../b"):
        with pytest.raises(KitDamaged, match="which is no file of a kit"):
            archive.unpack(archive.pack(Kit(head, {**files, name: b""})), "kit")
    whole = archive.pack(Kit(head, files))
    for wrong in (whole[:-20], whole[:1], b"", archive.pack(Kit({"made": 1}, files))):
        with pytest.raises(KitDamaged, match="kit"):
            archive.unpack(wrong, "kit")
