"""The text in a kit: how everything comes back, with the exact commands, for somebody who has never seen Holdfast.

The commands of stock restic need Holdfast nowhere. They hold no secret: they read it from the files beside the text.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from shared import topology
from shared.errors import ConfigError
from shared.storage.open import restic_repository
from shared.version import VERSION

if TYPE_CHECKING:
    from shared.config.fleet import Fleet
    from shared.config.models import Site, Source

RESTICS = ("0.14.0", "0.18.0")  # with which these commands were tried, by our tests
_PASSWORD = "secrets/recovery_password"  # noqa: S105 - the file's name


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a kit beside the configuration. `made` in POSIX seconds; the mappings by key."""

    made: float
    path: str
    left_out: Mapping[str, str]
    temporary: Mapping[str, str | None]
    files: frozenset[str]


def instructions(fleet: Fleet, known: Known) -> str:
    """The whole text."""
    return "\n".join(_lines(fleet, known)) + "\n"


def _lines(fleet: Fleet, known: Known) -> Iterator[str]:
    now = topology.current(fleet)
    yield from _head(fleet, known)
    yield from _missing(known)
    yield from _with_holdfast(fleet)
    yield "## With stock restic alone"
    yield ""
    yield "Nothing of Holdfast is needed: a repository is one of restic's, version 2. These commands were tried with"
    yield f"restic {' and '.join(RESTICS)}; 0.14 or newer will do. Run them in the directory in which this file lies,"
    yield "in one shell: first the lines of a site, then those of a source at that site."
    yield ""
    for site in fleet.sites.values():
        if not site.witness:
            yield from _site(site, known)
    yield "# Sources"
    yield ""
    for source in fleet.sources.values():
        yield from _source(fleet, now, source, known)


def _head(fleet: Fleet, known: Known) -> Iterator[str]:
    yield "# How everything comes back"
    yield ""
    yield f"The recovery kit of {_code(known.path)}, made {_moment(known.made)} by Holdfast {VERSION}:"
    yield f"{len(fleet.sources)} sources, {len(fleet.sites)} sites. **It holds every password and key of this fleet.**"
    yield "Remove this directory when you are done."
    yield ""
    yield "| in this directory | what |"
    yield "|---|---|"
    yield "| `holdfast.yaml` | the configuration in one file; it refers to the files beside it |"
    yield "| `secrets/` | the fleet's secret, the recovery password, the sites' credentials, and others, a file each |"
    yield "| `files/` | certificates of authorities, and lists of patterns |"
    yield "| `state/topology.json` | which site was primary; it may be missing |"
    yield "| `original/` | the configuration's files as they were |"
    yield ""
    owners: dict[str, list[str]] = {}
    for source in fleet.sources.values():
        if source.owner:
            owners.setdefault(source.owner, []).append(source.id)
    if owners:
        yield "Who is to be told:"
        yield ""
        yield from (f"- {owner}: {', '.join(names)}" for owner, names in sorted(owners.items()))
        yield ""


def _missing(known: Known) -> Iterator[str]:
    if known.left_out:
        yield "**What this kit does not have**, and where it belongs if you find it:"
        yield ""
        for key, reason in known.left_out.items():
            yield f"- `{key}` ({reason})"
        yield ""
    if known.temporary:
        yield "**Temporary credentials**, which will have run out. Ask for others, and write them to the same files:"
        yield ""
        for key, until in known.temporary.items():
            yield f"- `secrets/{key}`{f', until {until}' if until else ''}"
        yield ""


def _with_holdfast(fleet: Fleet) -> Iterator[str]:
    yield "## With Holdfast"
    yield ""
    yield f"Install Holdfast {VERSION} or newer, and run it in this directory, where it finds `holdfast.yaml`."
    yield "If a site lies elsewhere now, as a disk that is mounted at another place, change its `url` there."
    yield "A restore needs no Redis and no server:"
    yield ""
    yield "```sh"
    for name in list(fleet.sources)[:1]:
        yield f"holdfast snapshots {name}"
        yield f"holdfast restore {name} --direct --to restored/{name}"
    yield "```"
    yield ""
    yield "`--site SITE` takes it from that site; without it, from the primary. For the whole control plane again:"
    yield ""
    yield "1. Put what is in this directory where the configuration was, all of it: the paths in it are relative."
    yield "2. Where the Redis of `regions:` is gone, name another, or take `regions:` out: `up` then runs one itself."
    yield "3. `holdfast config check`, then `holdfast sites --look`: which sites answer, and what they have."
    yield "4. A site that is gone: `holdfast failover --to SITE`; gone for good: `holdfast sites remove --lost SITE`."
    yield "5. `holdfast up`, then `holdfast rebuild`: Redis knows again what the sites have, at once. Without it the"
    yield "   scheduler asks them bit by bit; nothing is backed up twice for it either way."
    yield "6. Servers with agents of their own join again: `holdfast agent enroll HOST`."
    yield "7. `holdfast kit make`: this kit is old now."
    yield ""


def _site(site: Site, known: Known) -> Iterator[str]:
    yield f"### Site {site.id}"
    yield ""
    yield f"{_code(site.url)}{f', region {site.region}' if site.region else ''}"
    yield ""
    yield "```sh"
    if site.is_s3:
        file = f"secrets/sites.{site.id}.credentials"
        key = f"sites.{site.id}.credentials"
        for name, word in (("AWS_ACCESS_KEY_ID", "access_key"), ("AWS_SECRET_ACCESS_KEY", "secret_key")):
            yield f"export {name}=\"$(sed -n 's/^{word} = //p' {file})\""
        if key in known.temporary:
            yield f"export AWS_SESSION_TOKEN=\"$(sed -n 's/^session_token = //p' {file})\""
        else:
            yield "unset AWS_SESSION_TOKEN AWS_PROFILE"
    else:
        yield f"ls {shlex.quote(site.url)}/repos"
    yield "```"
    yield ""


def _source(fleet: Fleet, now: topology.Topology, source: Source, known: Known) -> Iterator[str]:
    repository = fleet.repository_of(source.id)
    yield f"## {source.id}"
    yield ""
    what = ", ".join(_code(path) for path in source.paths or ())
    if source.command is not None:
        what = f"what a program prints, in the file {_code(source.stream_path)}"
    yield f"- what: {what or 'said by the agent of its host alone'}"
    yield f"- repository: `{repository}`{'' if repository == source.first_name else ' (shared)'}"
    if source.host or source.pool:
        yield f"- read by: {f'host {source.host}' if source.host else f'workers of pool {source.pool}'}"
    if source.owner:
        yield f"- owner: {source.owner}"
    yield ""
    for number, name in enumerate(_sites_of(fleet, now, source.id)):
        site = fleet.sites[name]
        place = restic_repository(site.url, f"repos/{repository}", name=name)
        cacert = f"files/sites.{name}.ca_file"
        words = ["restic", "-r", place, "--password-file", _PASSWORD]
        words += ["--cacert", cacert if cacert in known.files else site.ca_file] if site.ca_file else []
        restic = shlex.join(words)
        tag = f"--tag hf.source={source.first_name}"
        yield f"At {name}{' (primary)' if number == 0 else ''}:"
        yield ""
        yield "```sh"
        yield f"{restic} snapshots {tag}"
        yield f"{restic} restore latest {tag} --target {shlex.quote(f'restored/{source.id}')}"
        yield "```"
        yield ""


def _sites_of(fleet: Fleet, now: topology.Topology, source: str) -> list[str]:
    """Where it should be: the primary, the copies; else every site that keeps any."""
    try:
        found = [now.primary(source), *topology.copying(fleet, now, source)]
    except ConfigError:
        found = []
    return [name for name in found if name in fleet.sites] or [
        one.id for one in fleet.sites.values() if not one.witness
    ]


def _code(text: str) -> str:
    return f"`{text}`"


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
