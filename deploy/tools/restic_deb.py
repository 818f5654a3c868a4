"""Stock restic in two versions, from Debian's packages, unpacked without root and without touching the system.

apt runs with a state of its own, on the mirror that this machine's own configuration names, and
checks the signatures by Debian's key ring; on top of that the packages known here are pinned by
SHA-256. Elsewhere the restic on PATH serves for every version that is not newer than itself.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Sequence

from toolcache import Unavailable, publish, run, say, scratch, tool_path

SUITES = {"0.14": "bookworm", "0.18": "trixie"}

_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_PINS = {
    ("0.14.0-1+b5", "amd64"): "9d7e8c210736f3f15ed7cf425ab56aa5259b07d8422b958494bfd4359b5024d1",
    ("0.14.0-1+b5", "arm64"): "d0fb9c3b51aef8e58fbb185f2455d038424ba9e301c219d00e46f2a6a1effcfd",
    ("0.18.0-1+b4", "amd64"): "4888fb20b272a28b84ac39171b7d7f0d9a58c2aeae51ec28e54684648d66e12c",
    ("0.18.0-1+b4", "arm64"): "3877c6ef8efe052e80a6417b0ac0a672e644fd8bf5ef14e8b803ab6744e43be2",
}


def path(version: str) -> str | None:
    """Return a restic that serves for `version` ("0.14"), from the cache or else from PATH, or None."""
    program = tool_path(f"restic-{version}", "restic")
    if os.access(program, os.X_OK):
        return program
    return _on_path(version)


def install(version: str) -> None:
    """Fetch and publish this version of restic (about 18 MB, most of it Debian's package list).

    Raises Unavailable.
    """
    if not os.path.exists(_KEYRING):
        raise Unavailable(f"this is no Debian: there is no {_KEYRING}")
    say(f"restic: fetching {version} from Debian {SUITES[version]}")
    with scratch() as work:
        apt_options = _apt_options(work)
        _update(work, apt_options, SUITES[version])
        offered = re.findall(r"^Version: (\S+)$", run(["apt-cache", *apt_options, "show", "restic"]), re.MULTILINE)
        exact = next((name for name in offered if name.startswith(f"{version}.")), None)
        if exact is None:
            raise Unavailable(f"Debian {SUITES[version]} has no restic {version}, but {', '.join(offered)}")
        package = _download(work, apt_options, exact)
        _check_pin(package, exact)
        run(["dpkg-deb", "-x", package, work])
        program = os.path.join(work, "usr", "bin", "restic")
        _check_runs(program, version)
        publish(program, f"restic-{version}")


def _on_path(version: str) -> str | None:
    program = shutil.which("restic")
    if program is None:
        return None
    try:
        found = re.match(r"restic (\d+)\.(\d+)", run([program, "version"]))
    except Unavailable:
        return None
    wanted = tuple(map(int, version.split(".")))
    return program if found and (int(found[1]), int(found[2])) >= wanted else None


def _apt_options(work: str) -> list[str]:
    for name in ("state/lists/partial", "cache/archives/partial", "empty"):
        os.makedirs(os.path.join(work, name))
    for name in ("status", "preferences"):
        with open(os.path.join(work, name), "w", encoding="utf-8"):
            pass
    settings = {
        "Dir::State": f"{work}/state",
        "Dir::State::status": f"{work}/status",
        "Dir::Cache": f"{work}/cache",
        "Dir::Etc::sourcelist": f"{work}/sources.list",
        "Dir::Etc::sourceparts": f"{work}/empty",
        "Dir::Etc::preferences": f"{work}/preferences",
        "Dir::Etc::preferencesparts": f"{work}/empty",
        "Acquire::Languages": "none",
        "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
        # As root apt would download as a user who can't enter this directory, and complain.
        "APT::Sandbox::User": "root",
    }
    return [f"-o{name}={value}" for name, value in settings.items()]


def _mirrors() -> list[str]:
    """Return the archives that apt is configured with, those of security updates left out."""
    lines = run(["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"]).splitlines()
    pairs = [line.split() for line in lines if line.strip()]
    mirrors = dict.fromkeys(pair[0] for pair in pairs if "security" not in pair[1])
    if not mirrors:
        raise Unavailable("apt is configured with no archive")
    return list(mirrors)


def _update(work: str, apt_options: Sequence[str], suite: str) -> None:
    """Read the suite's package list from the first mirror that has it."""
    failure = Unavailable("no mirror")
    for mirror in _mirrors():
        with open(os.path.join(work, "sources.list"), "w", encoding="utf-8") as sources:
            sources.write(f"deb [signed-by={_KEYRING}] {mirror} {suite} main\n")
        try:
            # By default apt-get update succeeds when it could fetch nothing.
            run(["apt-get", *apt_options, "--error-on=any", "--quiet", "update"])
        except Unavailable as error:
            failure = error
        else:
            return
    raise failure


def _download(work: str, apt_options: Sequence[str], exact: str) -> str:
    directory = os.path.join(work, "package")
    os.mkdir(directory)
    run(["apt-get", *apt_options, "--quiet", "download", f"restic={exact}"], cwd=directory)
    (name,) = os.listdir(directory)
    return os.path.join(directory, name)


def _check_pin(package: str, exact: str) -> None:
    architecture = run(["dpkg", "--print-architecture"]).strip()
    pinned = _PINS.get((exact, architecture))
    if pinned is None:
        say(f"restic: {exact} for {architecture} is not pinned here; Debian's signature vouches for it")
        return
    with open(package, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != pinned:
        raise Unavailable(f"the package restic {exact} is not the pinned one: expected SHA-256 {pinned}, got {found}")


def _check_runs(program: str, version: str) -> None:
    said = run([program, "version"])
    if not said.startswith(f"restic {version}."):
        raise Unavailable(f"the unpacked restic is not {version}: it says {said.strip()!r}")
