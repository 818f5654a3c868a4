"""Logging: one stream, a run's context in every line, and no secret in any (some are planted)."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from shared.observability.logs import set_up
from shared.observability.masks import mask_url

PLANTED = "correct horse battery staple"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where log lines go; afterwards logging is as before."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    out = io.StringIO()
    set_up(stream=out)
    yield out
    root.handlers[:] = before
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def test_a_line_is_json_with_the_runs_context(stream: io.StringIO) -> None:
    """What is bound stands in lines of structlog and of the standard library alike."""
    structlog.contextvars.bind_contextvars(run="r1")
    structlog.get_logger("holdfast.worker").info("run started", source="web1")
    logging.getLogger("somewhere").warning("told %s", "so")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["event"], first["run"], first["source"], first["level"]) == ("run started", "r1", "web1", "info")
    assert (second["event"], second["run"], second["logger"]) == ("told so", "r1", "somewhere")


@pytest.mark.parametrize(
    "said",
    [
        {"password": PLANTED},
        {"spec": {"site": {"secret_key": PLANTED}}},
        {"fleet_secret": PLANTED},
        {"passwords": [PLANTED]},
        {"credentials": {"env": PLANTED}},
        {"broker": f"redis://user:{PLANTED.replace(' ', '%20')}@host:6379/0"},
        {"notes": [f"rediss://:{PLANTED.replace(' ', '-')}@host"]},
        {"url": "HTTPS://user:battery@horse@host/x"},
        {"error": ValueError("can't reach redis://:horse@host")},
        {"seen": {"redis://:horse@host"}},
        {"said": "aws_secret_access_key=horse region=eu"},
        {"said": """{'access': 'AK', 'secret_key': 'correct horse', "password": "a horse"}"""},
        {"raw": b"secret_key=horse"},
    ],
)
def test_a_secret_is_never_logged(stream: io.StringIO, said: dict[str, object]) -> None:
    """Neither by its name, at any depth, nor within a URL."""
    structlog.get_logger("holdfast").error("look", **said)
    assert "horse" not in stream.getvalue()
    assert "***" in stream.getvalue()


def test_a_secret_in_an_error_is_masked(stream: io.StringIO) -> None:
    """An exception's text passes the same way."""
    try:
        raise ConnectionError("redis://:hunter2@host:6379 refused")
    except ConnectionError:
        logging.getLogger("celery").exception("Cannot connect to %s", "redis://:hunter2@host:6379")
    assert "hunter2" not in stream.getvalue()


def test_what_celery_says_of_each_message_is_left_out(stream: io.StringIO) -> None:
    """A tick every two seconds would fill a disk."""
    logging.getLogger("celery.beat").info("Scheduler: Sending due task tick")
    logging.getLogger("celery.beat").warning("lost the lock")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["lost the lock"]


def test_urls_without_a_password_stay_as_they_are() -> None:
    """Only what stands between :// and @ is hidden."""
    assert mask_url("redis://host:6379/0 and mail a@b.c") == "redis://host:6379/0 and mail a@b.c"
    assert mask_url("s3:https://key:secret@host/b") == "s3:https://***@host/b"


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_traceback_holds_no_secret(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, *, is_terminal: bool
) -> None:
    """The message of an error that is logged with its trace is masked, in JSON and on a terminal."""
    monkeypatch.setattr(stream, "isatty", lambda: is_terminal)
    set_up(stream=stream)
    try:
        raise ValueError("no way to redis://:horse@host with secret_key=horse")
    except ValueError:
        structlog.get_logger("holdfast").exception("failed")
        logging.getLogger("celery").exception("failed")
    assert stream.getvalue().count("Traceback") == 2
    # The line of source that a trace quotes is ours; the message comes after the error's name.
    assert [line for line in stream.getvalue().split("ValueError: ")[1:] if "horse" in line.split("\n")[0]] == []


def test_a_reason_is_not_taken_for_a_secret(stream: io.StringIO) -> None:
    """What an error says about a password stays readable."""
    structlog.get_logger("holdfast").error("recovery password: no key opens with it, see docs")
    assert "recovery password: no key opens with it, see docs" in stream.getvalue()


def test_what_somebody_else_wrote_does_not_steer_the_terminal(stream: io.StringIO) -> None:
    """Where lines are shown and not JSON: an error of an agent's, a traceback, a standard library's message."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert not stream.isatty()
    shown = Terminal()
    set_up(stream=shown)
    log = structlog.get_logger("holdfast.scheduler")
    log.warning("given up", reason="\x1b[2Jgone\u202e", source="web1\r")
    logging.getLogger("somewhere").warning("told %s", "\x9b2J")
    try:
        raise ValueError("\x1b]0;t\x07")
    except ValueError:
        log.exception("broken")
    said = shown.getvalue()
    assert [part for part in ("\x1b[2J", "\u202e", "\r", "\x9b", "\x1b]", "\x07") if part in said] == []
    assert "\\x1b[2Jgone\\u202e" in said
