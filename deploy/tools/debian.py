"""One package from Debian, unpacked without root and without touching the system.

apt runs with a state of its own, on the mirror that this machine's own configuration names, and
checks the signatures by Debian's key ring; on top of that the packages known to the caller are
pinned by SHA-256.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence

from toolcache import Unavailable, run, say

_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

Pins = Mapping[tuple[str, str], str]  # SHA-256 by version and architecture


def unpack(package: str, version: str, suite: str, pins: Pins, work: str, *, also: Sequence[str] = ()) -> None:
    """Fetch the package's version that begins with `version.` and unpack it into `work`, an empty directory.

    `also`: packages that come with it, in whatever version the suite has. Raises Unavailable.
    """
    if not os.path.exists(_KEYRING):
        raise Unavailable(f"this is no Debian: there is no {_KEYRING}")
    options = _apt_options(work)
    _update(work, options, suite)
    offered = re.findall(r"^Version: (\S+)$", run(["apt-cache", *options, "show", package]), re.MULTILINE)
    exact = next((name for name in offered if name.startswith(f"{version}.")), None)
    if exact is None:
        raise Unavailable(f"Debian {suite} has no {package} {version}, but {', '.join(offered)}")
    file = _download(work, options, f"{package}={exact}")
    _check_pin(file, package, exact, pins)
    run(["dpkg-deb", "-x", file, work])
    for other in also:
        run(["dpkg-deb", "-x", _download(work, options, other), work])


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


def _download(work: str, apt_options: Sequence[str], wanted: str) -> str:
    directory = os.path.join(work, "packages", wanted)
    os.makedirs(directory)
    run(["apt-get", *apt_options, "--quiet", "download", wanted], cwd=directory)
    (name,) = os.listdir(directory)
    return os.path.join(directory, name)


def _check_pin(file: str, package: str, exact: str, pins: Pins) -> None:
    architecture = run(["dpkg", "--print-architecture"]).strip()
    pinned = pins.get((exact, architecture))
    if pinned is None:
        say(f"{package}: {exact} for {architecture} is not pinned here; Debian's signature vouches for it")
        return
    with open(file, "rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != pinned:
        raise Unavailable(
            f"the package {package} {exact} is not the pinned one: expected SHA-256 {pinned}, got {found}"
        )
