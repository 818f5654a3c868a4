"""Whatever a host's agent tells of a run can be shown: by lists, by `runs show`, and by who follows it."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.app import App
from cli.commands import backup, restore
from cli.progress import LineView, describe, pace
from cli.runs import exit_code_of
from cli.runview import as_json, details, table
from shared.ledger import tales
from shared.ledger.codec import NoRun, decode_run
from workers.reporter import line

ID = "8f21" * 8
NOW = 1_772_000_100.0
KEYS = sorted({*tales._NUMBERS, *tales._TEXTS, *tales._LISTS, *tales._PROGRESS, "complete", "existed", "superseded"})
PLAIN = st.one_of(
    *(st.none(), st.booleans(), st.integers(-5, 1 << 60), st.floats(), st.text(max_size=8)),
    st.fixed_dictionaries({"path": st.text(max_size=3), "message": st.integers()}),
)
VALUES = st.one_of(PLAIN, st.lists(PLAIN, max_size=3), st.dictionaries(st.text(max_size=3), PLAIN, max_size=2))


def _sound(name: str) -> st.SearchStrategy[Any]:
    """What a run tells under this name."""
    if name in tales._LISTS:
        return st.lists(st.text(max_size=5), max_size=12)
    if name in tales._NUMBERS | tales._PROGRESS:
        return st.one_of(st.integers(0, 1 << 52), st.floats(0, 1e12), st.booleans())
    return st.one_of(st.text(max_size=8), st.booleans())


def _told(name: str) -> st.SearchStrategy[tuple[str, Any]]:
    return st.tuples(st.just(name), st.one_of(*[_sound(name)] * 9, VALUES))


NAMES = st.sampled_from([*KEYS, "dry_run", "resumed", "current", "host", "rate"])
TALES = st.lists(NAMES.flatmap(_told), max_size=8).map(dict)


@given(
    kind=st.sampled_from(["backup-full", "backup-incremental", "restore", "backup-newer", "other"]),
    state=st.sampled_from(["queued", "running", "waiting", "succeeded", "failed", "incomplete", "cancelled", "newer"]),
    result=TALES,
    progress=TALES,
)
def test_any_tale_can_be_shown(kind: str, state: str, result: dict[str, Any], progress: dict[str, Any]) -> None:
    """Or the run is none."""
    fields = {"id": ID, "kind": kind, "source": "web1", "state": state, "opened": "1772000000000", "started": "1"}
    fields |= {"ended": "1772000000000", "result": json.dumps(result), "progress": json.dumps(progress)}
    with suppress(NoRun):
        run = decode_run(fields, "web1", ID)
        json.dumps(as_json(run))
        assert (details(run, NOW), table([run], NOW), line(run)) > ([], [], "")
        assert isinstance(exit_code_of(run), int)
        view = LineView("web1")
        view.update(run.progress)
        pace(run.progress, 5, 1.0)
        describe(run.progress)
        if run.request.kind.is_backup:
            backup._report(App(quiet=True), run.result)
        elif kind == "restore":
            restore._report(App(quiet=True), run.result, host="web1")


@pytest.mark.parametrize(
    "result", [{"complete": False, "snapshot": "x"}, {"program": "x"}, {"files": 1.5, "bytes": True}]
)
def test_what_is_left_out_is_no_fault(result: dict[str, Any]) -> None:
    """A sound type, and not all that a backup or a restore tells."""
    for kind in ("backup-full", "restore"):
        fields = {"id": ID, "kind": kind, "source": "web1", "state": "succeeded", "result": json.dumps(result)}
        assert details(decode_run(fields, "web1", ID), NOW)
