"""A run as its hash in Redis holds it: times in milliseconds, what is empty left out."""

from __future__ import annotations

import json
from collections.abc import Mapping

from shared.ledger.model import ATTEMPTS, Attempt, Run, RunKind, RunRequest, RunState

ERROR_AT_MOST = 1000  # characters of an error that are kept


def milliseconds(seconds: float) -> int:
    """As Redis counts."""
    return round(seconds * 1000)


def error_text(error: str) -> str:
    """An error as it is kept: bounded, and without what is not UTF-8 (names of files may be anything)."""
    return error.encode("utf-8", "backslashreplace").decode()[:ERROR_AT_MOST]


def encode_request(request: RunRequest) -> list[str]:
    """Names and values, in turn."""
    fields = {
        "kind": request.kind.value,
        "source": request.source,
        "policy": request.policy,
        "slot": request.slot,
        "queue": request.queue,
        "options": json.dumps(dict(request.options)) if request.options else "",
        "parent": request.parent,
        "tries": str(request.attempts) if request.attempts != ATTEMPTS else "",
    }
    return [text for name, value in fields.items() if value for text in (name, value)]


def decode_run(fields: Mapping[str, str], host: str) -> Run:
    """The run of one hash."""
    request = RunRequest(
        id=fields["id"],
        kind=RunKind(fields["kind"]),
        source=fields["source"],
        policy=fields.get("policy", ""),
        slot=fields.get("slot", ""),
        queue=fields.get("queue", ""),
        options=json.loads(fields.get("options", "{}")),
        parent=fields.get("parent", ""),
        attempts=int(fields.get("tries", ATTEMPTS)),
    )
    return Run(
        request=request,
        state=RunState(fields["state"]),
        host=host,
        attempt=int(fields["attempt"]),
        rings=int(fields["rings"]),
        lost=int(fields.get("lost", "0")),
        opened=_seconds(fields, "opened"),
        started=_seconds(fields, "started"),
        began=_seconds(fields, "began"),
        ended=_seconds(fields, "ended"),
        owner=fields.get("owner", ""),
        lease_until=_seconds(fields, "lease"),
        progress=json.loads(fields.get("progress", "{}")),
        result=json.loads(fields.get("result", "{}")),
        error=fields.get("error", ""),
        exit_code=int(fields.get("exit_code", "0")),
        attempts=_attempts(fields),
        cancel_by=fields.get("cancel", ""),
    )


def _attempts(fields: Mapping[str, str]) -> tuple[Attempt, ...]:
    """Those that were noted, and the one that ended the run, which stands in the run's own fields."""
    noted = [
        Attempt(int(number), owner, int(started) / 1000, int(ended) / 1000, error)
        for number, owner, started, ended, error, *_ in json.loads(fields.get("attempts", "[]"))
    ]
    if "finisher" in fields:
        started, ended = _seconds(fields, "started"), _seconds(fields, "ended")
        noted.append(Attempt(int(fields["attempt"]), fields["owner"], started, ended, fields.get("error", "")))
    return tuple(noted)


def _seconds(fields: Mapping[str, str], name: str) -> float:
    return int(fields.get(name, "0")) / 1000
