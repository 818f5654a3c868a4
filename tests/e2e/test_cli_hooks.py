"""Hooks as a person writes them: a real configuration, the command, and what is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.support.command import Shop, open_shop


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A shop with a secret in a file."""
    shop = open_shop(tmp_path)
    (shop.conf / "word").write_text("hunter2")
    (shop.conf / "word").chmod(0o600)
    return shop


def put_hooks(shop: Shop, before: str, after: str, **more: object) -> None:
    """Give the source hooks: scripts of a shell, which get the secret as $WORD."""
    file = shop.conf / "holdfast.yaml"
    fleet = yaml.safe_load(file.read_text())
    hooks = {"before": ["sh", "-ec", before], "after": ["sh", "-ec", after], **more}
    fleet["sources"]["data"] |= {"hooks": hooks, "env": {"WORD": {"file": "word"}}}
    file.write_text(yaml.safe_dump(fleet))


def test_hooks_run_around_a_backup_with_the_sources_environment(shop: Shop) -> None:
    """And with words about the run; the secret comes from its file."""
    log = shop.base / "log"
    said = f'echo "$0 $HOLDFAST_SOURCE $HOLDFAST_KIND $HOLDFAST_RESULT ${{#WORD}}" >> {log}'
    put_hooks(shop, said, said)
    shop.run("backup", "data", "--direct")
    assert log.read_text().splitlines() == ["sh data full  7", "sh data full succeeded 7"]


def test_a_before_that_fails_is_told_without_its_secret(shop: Shop) -> None:
    """Exit code 44, and no snapshot."""
    put_hooks(shop, 'echo "can not freeze with $WORD" >&2; exit 3', "true")
    said = shop.run("backup", "data", "--direct", code=44)
    assert "source data: hook before: sh ended with code 3: can not freeze with ***; nothing was read" in said
    assert shop.ask("snapshots", "data")["snapshots"] == []


def test_an_after_that_fails_leaves_the_snapshot_and_says_so(shop: Shop) -> None:
    """Exit code 3; the next run tries it first, and says 44 while it fails."""
    put_hooks(shop, "true", "echo still frozen >&2; exit 1")
    assert "hook after: sh ended with code 1: still frozen" in shop.run("backup", "data", "--direct", code=3)
    assert len(shop.ask("snapshots", "data")["snapshots"]) == 1
    assert "still frozen" in shop.run("backup", "data", "--direct", code=44)


def test_what_hooks_are_is_shown_without_arguments(shop: Shop) -> None:
    """They may hold what is nobody's business."""
    put_hooks(shop, "echo swordfish", "true", timeout="90s", private_mounts=True)
    shown = shop.ask("config", "show", "--source", "data")["sources"]["data"]
    assert shown["hooks"] == {
        "before": "sh (and 2 arguments, not shown)",
        "after": "sh (and 2 arguments, not shown)",
        "timeout": "1m30s",
        "private_mounts": True,
    }
    assert "swordfish" not in str(shown)
