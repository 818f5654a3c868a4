"""Following a run while Redis comes and goes: cli.runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cli import runs
from cli.app import App, RunFailed
from shared.ledger.errors import LedgerAway
from shared.ledger.model import Run, RunKind, RunRequest, RunState
from shared.messaging import client

ID = "8f21" * 8


def view(state: RunState, **more: object) -> Run:
    """One look at the run."""
    return Run(RunRequest(ID, RunKind.FULL, "web1"), state, **more)  # type: ignore[arg-type] # a test's short way


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> App:
    """A quiet invocation with some configuration."""
    app = App(quiet=True)
    app.__dict__["fleet"] = None
    monkeypatch.setattr(runs, "_AGAIN", 0.0)
    return app


def answers(monkeypatch: pytest.MonkeyPatch, *script: list[Run | LedgerAway]) -> None:
    """What each call of the client's `follow` gives."""
    calls = iter(script)

    def follow(*_: object) -> Iterator[Run]:
        for answer in next(calls):
            if isinstance(answer, LedgerAway):
                raise answer
            yield answer

    monkeypatch.setattr(client, "follow", follow)


AWAY = LedgerAway("Redis does not answer.")


def test_redis_may_go_away_for_a_while(
    app: App, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run goes on without it, and so does the following; it is said once."""
    answers(monkeypatch, [view(RunState.RUNNING), AWAY], [AWAY], [view(RunState.RUNNING), view(RunState.SUCCEEDED)])
    assert runs.follow(app, ID, "web1").state is RunState.SUCCEEDED
    assert capsys.readouterr().err.count("waiting for it") == 1


def test_redis_that_stays_away_ends_the_following(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """With how to follow again."""
    monkeypatch.setattr(runs, "PATIENCE", -1.0)
    answers(monkeypatch, [view(RunState.RUNNING), AWAY], [AWAY])
    with pytest.raises(LedgerAway) as caught:
        runs.follow(app, ID, "web1")
    assert "holdfast runs follow 8f218f218f21" in caught.value.hint


def test_redis_that_was_never_there_is_said_at_once(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing to wait for."""
    answers(monkeypatch, [AWAY])
    with pytest.raises(LedgerAway):
        runs.follow(app, ID, "web1")


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        (view(RunState.FAILED, error="denied", exit_code=32), 32, "failed: denied"),
        (view(RunState.CANCELLED, error="cancelled by ada", exit_code=130), 130, "was cancelled by ada"),
    ],
)
def test_a_run_that_did_not_end_well_is_the_commands_error(
    app: App, monkeypatch: pytest.MonkeyPatch, end: Run, code: int, said: str
) -> None:
    """With its exit code, and who cancelled it."""
    answers(monkeypatch, [end])
    with pytest.raises(RunFailed, match=said) as caught:
        runs.follow(app, ID, "web1")
    assert caught.value.code == code
