"""`holdfast init`: a first configuration, commented, and strong secrets. What exists is never overwritten."""

from __future__ import annotations

import json
import os
import re
import secrets

import click

from cli.app import App, global_options, pass_app
from cli.passwords import strong_password
from shared.errors import HoldfastError, UsageError

CONFIG_NAME = "holdfast.yaml"
FLEET_SECRET_NAME = "fleet.secret"  # noqa: S105 - the file's name
PASSWORD_NAME = "recovery.password"  # noqa: S105 - the file's name

_S3 = ("s3:", "http://", "https://")

_TEMPLATE = """\
# The configuration of Holdfast. `holdfast backup SOURCE --direct` uses it at once; `holdfast up` runs by it.
# Paths that do not begin with / start at this file's directory.

# From these two files everything can be decrypted. Keep a copy of both, and of this file, somewhere else:
# without them nobody, you included, can read the backups.
secret:            {{file: {secret}}}  # machine passwords and keys derive from it
recovery_password: {{file: {password}}}  # for people: stock restic opens every repository with it

# exporter: {{listen: "127.0.0.1:9321"}}  # metrics for Prometheus, served by `holdfast up`; off: none

sites:                      # where backups are kept
  {site_id}:
    url: {site}
#   s3:
#     url: s3:https://minio.example.org:9000/backups
#     credentials: {{env: BACKUP}}  # reads BACKUP_ACCESS_KEY_ID and BACKUP_SECRET_ACCESS_KEY

policies:                   # what sources get; of those that select a source the one with most terms counts
  standard:
    select: "*"             # all sources; or by label: "tier=1, team=web"
    primary: {site_id}
    full: "0 2 * * 0"       # cron, five or six fields, in quotes; in UTC unless `timezone:` says otherwise
    incremental: 1h         # or an interval: 30s, 15m, 1h, 1d
    rpo: 2h                 # no more than this may be lost
    verify: 1d              # the structure of what is stored, so often
    restore_test: 30d       # some files of each source are restored to a scratch folder and compared, so often
#   verify_data: 30d        # and every byte of it is read within so long
#   heal: true              # and what is damaged is mended, from other sites
#   retention: {{keep_daily: 7, keep_weekly: 5, keep_monthly: 12}}  # without it all snapshots stay

sources:                    # what is backed up{sources}
"""

_SOURCE = """
  {id}:
    paths: {paths}{excludes}
"""

_NO_SOURCE = """
#   web1:
#     paths: [/etc, /srv]
#     excludes: ["*.tmp", "cache/"]   # patterns as in .gitignore, below each path
  {{}}
"""


@click.command(
    epilog="""\b
Examples:
  holdfast init                                    # asks on a terminal
  holdfast init --source /srv/www --site /mnt/usb
  holdfast init /etc/holdfast --source /etc --source /srv
  holdfast init --site s3:https://minio:9000/backups --source /srv""",
)
@click.argument("directory", default=".", required=False)
@click.option("--site", metavar="URL", help="Where backups go: a directory, or s3:https://host/bucket.")
@click.option("--source", "sources", metavar="PATH", multiple=True, help="What to back up; may be repeated.")
@global_options
@pass_app
def command(app: App, directory: str, site: str | None, sources: tuple[str, ...]) -> None:
    """Write a first configuration and strong secrets.

    Makes holdfast.yaml, fleet.secret and recovery.password in DIRECTORY (here by default). What exists is never
    overwritten: with a holdfast.yaml there nothing is done, and secrets that are there are used.
    """
    directory = os.path.abspath(directory)
    config = os.path.join(directory, CONFIG_NAME)
    if os.path.lexists(config):
        raise UsageError(f"{config} exists, and is left as it is", hint="Edit it, or name another directory")
    if app.is_interactive and os.isatty(0):
        if site is None:
            site = click.prompt("Where shall backups go (a directory, or s3:https://host/bucket)?", default="./backups")
        if not sources:
            answer = click.prompt("What shall be backed up (a path; empty for later)?", default="", show_default=False)
            sources = (answer,) if answer.strip() else ()
    text = config_text(directory, site or "./backups", sources)
    written = write_all(directory, text)
    made = _make_site(directory, site or "./backups")
    data = {"config": config, "written": written, "made": made}
    lines = [f"wrote {path}" for path in written] + [f"made {path}/" for path in made]
    names = list(_source_ids(sources))
    lines += ["", f"Keep copies of {FLEET_SECRET_NAME} and {PASSWORD_NAME} elsewhere: without them no backup opens."]
    option = "" if os.path.samefile(directory, ".") else f" -c {config}"
    if names:
        lines.append(f"next: holdfast{option} backup {names[0]} --direct")
        lines.append(f"  or: holdfast{option} up                     (everything, by the schedule)")
    else:
        lines.append(f"next: name a source in {config}, then: holdfast{option} backup SOURCE --direct")
    if app.json:
        app.result(data)
    else:
        for line in lines:
            app.say(line)


def config_text(directory: str, site: str, sources: tuple[str, ...]) -> str:
    """The file's text. Raises UsageError for a source that is no directory or file, or lies in the site."""
    is_s3 = site.startswith(_S3)
    place = "" if is_s3 else os.path.normpath(os.path.join(directory, site))
    if not is_s3 and not os.path.isabs(site) and not site.startswith("./"):
        site = f"./{site}"
    blocks = ""
    for name, path in _source_ids(sources).items():
        if not os.path.lexists(path):
            raise UsageError(f"the source {path} does not exist")
        if place and _is_below(path, place):
            raise UsageError(f"the source {path} lies in the site {place}: a backup would back itself up")
        own = [inner for inner in (place, os.path.join(directory, ".holdfast")) if inner and _is_below(inner, path)]
        excludes = [f"/{_escape(os.path.relpath(inner, path))}/" for inner in own if inner != path]
        lines = f"\n    excludes: {json.dumps(excludes)}  # the backups themselves" if excludes else ""
        blocks += _SOURCE.format(id=name, paths=json.dumps([path]), excludes=lines).rstrip("\n")
    if is_s3:
        site = f"{json.dumps(site)}\n    credentials: {{env: BACKUP}}  # BACKUP_ACCESS_KEY_ID, BACKUP_SECRET_ACCESS_KEY"
    else:
        site = json.dumps(site, ensure_ascii=False)
    return _TEMPLATE.format(
        secret=FLEET_SECRET_NAME,
        password=PASSWORD_NAME,
        site_id="main",
        site=site,
        sources=blocks or _NO_SOURCE.format().rstrip("\n"),
    )


def write_all(directory: str, text: str) -> list[str]:
    """Write the secrets and then the configuration, so that there is never one without the other.

    Returns the paths written. Raises HoldfastError where the directory can't be written to.
    """
    from shared.config.loader import load_text
    from shared.storage.durable import make_directories, write_durable_if_absent

    config = os.path.join(directory, CONFIG_NAME)
    load_text(text, config)  # what we write, we can read
    files = (
        (FLEET_SECRET_NAME, f"{secrets.token_hex(32)}\n", 0o600),
        (PASSWORD_NAME, f"{strong_password()}\n", 0o600),
        (CONFIG_NAME, text, 0o644),
    )
    written = []
    try:
        make_directories(directory, mode=0o755)
        for name, content, mode in files:
            path = os.path.join(directory, name)
            if write_durable_if_absent(path, content.encode(), mode=mode):
                written.append(path)
            elif name == CONFIG_NAME:
                raise UsageError(f"{path} exists, and is left as it is")
    except OSError as error:
        raise HoldfastError(f"can't write to {directory}: {error.strerror}") from error
    return written


def _make_site(directory: str, site: str) -> list[str]:
    """Make the directory of a first site. Only its last part: what is missing above it may be a disk to be mounted."""
    if site.startswith(_S3):
        return []
    path = os.path.normpath(os.path.join(directory, site))
    if os.path.isdir(path):
        return []
    try:
        os.mkdir(path, 0o700)
    except OSError as error:
        hint = "The configuration is written; make the directory, or mount what it lies on"
        raise HoldfastError(f"can't make the site's directory {path}: {error.strerror}", hint=hint) from error
    return [path]


def _source_ids(sources: tuple[str, ...]) -> dict[str, str]:
    """An id for each path, from its last part."""
    ids: dict[str, str] = {}
    for given in sources:
        path = os.path.abspath(given)
        base = re.sub(r"[^a-z0-9._-]+", "-", os.path.basename(path).lower()).strip("-._") or "root"
        name, number = base, 2
        while name in ids:
            name, number = f"{base}-{number}", number + 1
        ids[name] = path
    return ids


def _escape(path: str) -> str:
    """A path as a pattern that means just this path."""
    return re.sub(r"([\\*?\[\]!# ])", r"\\\1", path)


def _is_below(path: str, outer: str) -> bool:
    """Whether `path` is `outer` or lies in it, symlinks followed."""
    path, outer = os.path.realpath(path), os.path.realpath(outer)
    return os.path.commonpath([path, outer]) == outer
