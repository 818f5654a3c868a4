"""Logging: structlog and the standard library in one stream, with a run's context in every line and no secret in any.

Celery is told to leave logging alone by `connect_celery`. A line is JSON, or readable where it goes to a terminal.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from contextlib import AbstractContextManager
from typing import Any, TextIO

import structlog

_SECRET_NAME = re.compile(
    r"pass(word|phrase)|secret|credential|access_key|session_token|authori[sz]ation", re.IGNORECASE
)
# To the last @ before the host ends: a password may hold one.
_USERINFO = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/\s\"'<>]*@", re.IGNORECASE)
# In a text: `secret_key=...`, `"secret_key": "..."`, `'password': b'...'`. Not "the password: reason".
_ASSIGNED = re.compile(
    r"""([\w-]*(?:passw(?:or)?d|passphrase|secret|access_key|session_token)[\w-]*(?:=|["']\s*[:=]\s*)b?)"""
    r"""("[^"]*"|'[^']*'|[^\s"'&,;)}\]]+)""",
    re.IGNORECASE,
)
_RUN_ID = re.compile(r"[0-9a-f]{32}")
MASK = "***"

# What Celery says of each message, and beat of each tick, would fill a disk and says nothing that Holdfast does not.
_CHATTER = ("celery.beat", "celery.app.trace", "celery.worker.strategy")

Event = MutableMapping[str, Any]


def mask_url(text: str) -> str:
    """The same text with the user and password of every URL in it hidden."""
    return _USERINFO.sub(rf"\1{MASK}@", text)


def mask_text(text: str) -> str:
    """The same text with passwords in URLs, and what is assigned to a name that a secret would have, hidden."""
    return _ASSIGNED.sub(rf"\1{MASK}", mask_url(text))


def mask_secrets(_logger: object, _method: str, event: Event) -> Event:
    """Hide the values of what is named like a secret, at any depth, and those in texts, tracebacks too."""
    for name, value in event.items():
        event[name] = _masked(name, value)
    return event


def _masked(name: str, value: Any) -> Any:
    if _SECRET_NAME.search(name) and value not in (None, ""):
        return MASK
    if isinstance(value, str):
        return mask_text(value)
    if isinstance(value, bytes):
        return mask_text(value.decode(errors="backslashreplace"))
    if isinstance(value, Mapping):
        return {key: _masked(str(key), inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_masked("", inner) for inner in value]
    if value is None or isinstance(value, int | float):
        return value
    return mask_text(repr(value))  # as the renderer would show it: an error, an object of ours


def set_up(*, stream: TextIO | None = None, level: int = logging.INFO) -> None:
    """Send everything that is logged to `stream` (standard error if None). May be called again."""
    out = stream if stream is not None else sys.stderr
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    renderer: structlog.typing.Processor
    if out.isatty():
        renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    else:
        renderer = structlog.processors.JSONRenderer()
    # A traceback is made a text before secrets are looked for: an error's message may hold one.
    last: list[structlog.typing.Processor] = [structlog.processors.format_exc_info, mask_secrets]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _CHATTER:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def about_run(*, run: str, source: str, kind: str, site: str, attempt: int) -> AbstractContextManager[None]:
    """What is logged inside is about this run, and says so: the one place that binds a run's context.

    All are asked for, so that none is forgotten. `site` is empty where the configuration no longer says which;
    `attempt` is 0 where there has been none yet. Holds for this thread alone.
    """
    return structlog.contextvars.bound_contextvars(run=run, source=source, kind=kind, site=site, attempt=attempt)


def connect_celery(*, level: int = logging.INFO) -> None:
    """Take logging out of Celery's hands, and bind a task's context around it. To be called before a worker starts."""
    from celery import signals

    signals.setup_logging.connect(lambda **_: set_up(level=level), weak=False)
    signals.task_prerun.connect(_bind, weak=False)
    signals.task_postrun.connect(_unbind, weak=False)


def _bind(*, task: Any = None, args: Any = (), **_: Any) -> None:
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(task=getattr(task, "name", ""))
    run = args[0] if args else None
    if isinstance(run, str) and _RUN_ID.fullmatch(run):  # a forged message may hold anything, of any length
        structlog.contextvars.bind_contextvars(run=run)


def _unbind(**_: Any) -> None:
    structlog.contextvars.clear_contextvars()
