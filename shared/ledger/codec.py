"""A run as its hash in Redis holds it: times in milliseconds, what is empty left out.

What lies in a host's realm its agent may have written as it likes. So what is not what it should be is no run
(`NoRun`), and is not guessed at; and a run of a host is rung on that host's queues alone, whatever it says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from shared.ledger import tales
from shared.ledger.keys import host_queues
from shared.ledger.model import ATTEMPTS, Attempt, Run, RunKind, RunRequest, RunState, slot_time

ERROR_AT_MOST = 1000  # characters of an error that are kept
FIELDS = (
    *("id", "kind", "source", "policy", "slot", "queue", "options", "parent", "tries", "state", "attempt", "rings"),
    *("lost", "opened", "started", "began", "ended", "owner", "lease", "progress", "result", "error", "exit_code"),
    *("attempts", "cancel", "finisher"),
)
_DIGITS_AT_MOST = 13  # of a time in milliseconds: until 2286
_TEXT_AT_MOST = ERROR_AT_MOST + 100  # characters: what a script says, and an error
_NAME_AT_MOST = 300  # characters of a source or a policy
_WORD_AT_MOST = 30  # characters of a kind or a state, a newer release's too
_CODES = 255


class NoRun(ValueError):
    """What lies there is no run."""


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


def decode_run(fields: Mapping[str, str], host: str, run_id: str) -> Run:
    """The run of this id, of one hash (empty texts: what is not there) in a host's realm or (empty) the pools'.

    Raises NoRun.
    """
    try:
        run = _run(fields, host)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise NoRun(f"run {run_id}: {type(error).__name__}") from error
    if run.id != run_id:
        raise NoRun(f"run {run_id} calls itself by another id")
    return run


def whole(text: str, otherwise: int = 0) -> int:
    """A whole number, or what it is where there is none. Raises NoRun."""
    if not text:
        return otherwise
    if len(text) > _DIGITS_AT_MOST or not (text.isascii() and text.isdecimal()):
        raise NoRun("no number")
    return int(text)


def seconds(text: str) -> float:
    """A time, 0 where there is none. Raises NoRun."""
    return whole(text) / 1000


def kind_of(text: str, host: str) -> RunKind:
    """Raises NoRun: also for a kind that no host's agent does, in its realm."""
    kind = RunKind(_word(text))
    if host and (kind.at_site or kind is RunKind.SHARD):
        raise NoRun("a kind that no agent does")
    return kind


def state_of(text: str) -> RunState:
    """Raises NoRun."""
    return RunState(_word(text))


def queue_in(queue: str, host: str) -> str:
    """Where a run of this realm is rung: of a host on its own queues alone."""
    if not host or queue in (own := host_queues(host)):
        return queue
    return own[0]


def _run(fields: Mapping[str, str], host: str) -> Run:
    get = fields.get
    request = RunRequest(
        id=fields["id"],
        kind=kind_of(fields["kind"], host),
        source=_name(fields["source"]),
        policy=_name(get("policy", "")),
        slot=_slot(get("slot", "")),
        queue=queue_in(get("queue", ""), host),
        options=tales.anything(get("options", ""), host),
        parent=_text(get("parent", "")),
        attempts=whole(get("tries", ""), ATTEMPTS),
    )
    code = whole(get("exit_code", ""))
    if host and code > _CODES:
        raise NoRun("no exit code")
    return Run(
        request=request,
        state=state_of(fields["state"]),
        host=host,
        attempt=whole(get("attempt", "")),
        rings=whole(get("rings", "")),
        lost=whole(get("lost", "")),
        opened=seconds(get("opened", "")),
        started=seconds(get("started", "")),
        began=seconds(get("began", "")),
        ended=seconds(get("ended", "")),
        owner=_text(get("owner", "")),
        lease_until=seconds(get("lease", "")),
        progress=tales.progress(get("progress", ""), host),
        result=tales.result(get("result", ""), host, request.kind),
        error=_text(get("error", "")),
        exit_code=code,
        attempts=_attempts(fields),
        cancel_by=_text(get("cancel", "")),
    )


def _attempts(fields: Mapping[str, str]) -> tuple[Attempt, ...]:
    """Those that were noted, and the one that ended the run, which stands in the run's own fields."""
    noted = []
    for number, owner, started, ended, error, *_ in json.loads(fields.get("attempts") or "[]"):
        if not isinstance(owner, str) or not isinstance(error, str):
            raise NoRun("an attempt without its owner")
        times = [whole(str(int(at))) for at in (number, started, ended)]
        noted.append(Attempt(times[0], _text(owner), times[1] / 1000, times[2] / 1000, _text(error)))
    if fields.get("finisher"):
        began, over = (seconds(fields.get(name, "")) for name in ("started", "ended"))
        owner, error = (_text(fields.get(name, "")) for name in ("owner", "error"))
        noted.append(Attempt(whole(fields.get("attempt", "")), owner, began, over, error))
    return tuple(noted)


def _word(text: str) -> str:
    if not text or len(text) > _WORD_AT_MOST or not text.isprintable():
        raise NoRun("a kind or a state that is no word")
    return text


def _name(text: str) -> str:
    if len(text) > _NAME_AT_MOST:
        raise NoRun("a name that is none")
    return text


def _text(text: str) -> str:
    return text[:_TEXT_AT_MOST]


def _slot(text: str) -> str:
    if text:
        slot_time(text)
    return text
