"""An engine that misbehaves on request, for tests of supervision. It speaks the protocol of `workers.engine_process`.

What it does stands in `engine.json` in the first path of its source; each start is noted in `starts` there.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time

from workers.helpers import HelperDied


def main() -> int:
    """Read the spec, and behave as asked."""
    spec = json.loads(sys.stdin.readline())
    base = spec["selection"]["paths"][0]
    with open(os.path.join(base, "engine.json")) as file:
        plan = json.load(file)
    with open(os.path.join(base, "starts"), "a") as file:
        note = {"pid": os.getpid(), "run": spec["run"], "journal": spec["journal"], "slot": spec["slot"]}
        file.write(json.dumps(note) + "\n")
    once = os.path.join(base, "behaved")
    behaviour = plan["do"]
    if plan.get("once") and os.path.exists(once):
        behaviour = "done"
    open(once, "w").close()
    if behaviour == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: _flushed(spec))
    say(event="progress", files=1, bytes=100)
    say(event="packed", pack="aa" * 32)
    if behaviour == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "garbage":
        sys.stdout.write("what?\n[1,2]\n\xff\n" + "x" * 100_000 + "\n")
    if behaviour == "complain":
        sys.stderr.write("Traceback (most recent call last):\nValueError: secret_key='planted horse'\n")
        os._exit(1)
    if behaviour == "error":
        say(event="error", message="site a: denied", exit_code=32)
        return 32
    if behaviour == "bereft":
        say(event="error", message="helper process 7 ended unexpectedly", exit_code=HelperDied.exit_code)
        return HelperDied.exit_code
    if behaviour in {"hang", "deaf"}:
        wait(plan.get("seconds", 3600.0))
    say(
        event="done",
        snapshot="bb" * 32,
        site=spec["site"]["id"],
        repository=spec["repository"],
        kind=spec["kind"],
        complete=behaviour != "incomplete",
        files_new=1,
        files_changed=0,
        superseded=behaviour == "superseded",
    )
    return 3 if behaviour == "incomplete" else 0


def say(**event: object) -> None:
    """One event."""
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def wait(seconds: float) -> None:
    """Work for so long; a supervisor that is gone ends it."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if select.select([sys.stdin], [], [], 0.05)[0] and not sys.stdin.read(1):
            os._exit(1)
        say(event="progress", files=2, bytes=200)


def _flushed(spec: dict[str, object]) -> None:
    say(event="packed", pack="cc" * 32)
    say(event="error", message=f"stopped: {spec['run']}", exit_code=143)
    sys.stdout.flush()
    os._exit(143)


if __name__ == "__main__":
    sys.exit(main())
