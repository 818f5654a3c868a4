"""`holdfast keys` and `holdfast unlock` on real repositories; stock restic opens with the new password alone."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli.main import main
from tests.support.command import Shop, environment, open_shop
from tests.support.tools import restic

NEW = "a new password, quite long"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A shop with one backup, made once, by a program whose keys are as they are."""
    shop = open_shop(tmp_path_factory.mktemp("made"))
    shop.changed = {}
    shop.run("backup", "data", "--direct")
    return shop


@pytest.fixture
def shop(made: Shop, tmp_path: Path) -> Shop:
    """A copy of that shop; its source is read where it was made."""
    shutil.copytree(made.conf, tmp_path / "conf")
    return Shop(tmp_path, changed={})


def put(shop: Shop, text: str, name: str = "new.password") -> str:
    """A password's file."""
    (shop.conf / name).write_text(f"{text}\n")
    return name


def opens(shop: Shop, password: str) -> bool:
    """Whether stock restic opens the repository with this password and finds no errors."""
    done = subprocess.run(
        [restic("0.18"), "-r", str(shop.conf / "backups/repos/data"), "--no-cache", "check", "--no-lock"],
        env={**environment(), "RESTIC_PASSWORD": password},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in {0, 12}, done.stdout + done.stderr
    return done.returncode == 0


def recovery(shop: Shop) -> str:
    """The configured recovery password."""
    return (shop.conf / "recovery.password").read_text().strip()


def test_keys_are_listed(shop: Shop) -> None:
    """Both, who made them and which of our passwords they open with; no password is shown."""
    listed = shop.ask("keys", "data", "list")["keys"]
    assert [(one["opens_with"], one["opened"], one["scrypt_n"]) for one in listed] == [
        ("machine password", True, 1024),
        ("recovery password", False, 32768),
    ]
    said = shop.run("keys", "data")
    assert f"* {listed[0]['id'][:8]}" in said
    assert f"{listed[0]['username']}@{listed[0]['hostname']}  machine password" in said
    assert recovery(shop) not in said


def test_a_password_is_added_and_removed(shop: Shop) -> None:
    """Stock restic opens with it while it is there; a key's own id is enough to undo it."""
    added = shop.ask("keys", "data", "add", "--password-file", put(shop, NEW))["added"]
    assert (opens(shop, NEW), opens(shop, recovery(shop))) == (True, True)
    assert "opens the repository already" in shop.run("keys", "data", "add", "--password-file", "new.password", code=2)
    assert "removed key" in shop.run("keys", "data", "remove", added[:8])
    assert (opens(shop, NEW), opens(shop, recovery(shop))) == (False, True)
    assert (shop.conf / "backups/repos/data/holdfast/forgotten" / added).exists()
    shop.run("backup", "data", "--direct")


def test_keys_in_use_stay(shop: Shop) -> None:
    """Neither of the two configured passwords may be left without a key."""
    for key in shop.ask("keys", "data", "list")["keys"]:
        assert "no other opens with a password that is in use" in shop.run("keys", "data", "remove", key["id"], code=27)
    assert len(shop.ask("keys", "data")["keys"]) == 2


def test_the_recovery_password_is_changed(shop: Shop) -> None:
    """The new opens, the old does not; the configuration is named as what is to follow, and works until then."""
    old = recovery(shop)
    said = shop.run("keys", "data", "password", "--password-file", put(shop, NEW))
    assert ("the configuration still names the old recovery password" in said, NEW in said) == (True, False)
    assert (opens(shop, NEW), opens(shop, old)) == (True, False)
    shop.run("backup", "data", "--direct")
    put(shop, NEW, "recovery.password")
    listed = shop.ask("keys", "data")["keys"]
    assert [one["opens_with"] for one in listed] == ["machine password", "recovery password"]
    assert "the new password is the old one" in shop.run(
        "keys", "data", "password", "--password-file", "new.password", code=2
    )


def test_a_change_that_was_killed_is_taken_up(shop: Shop) -> None:
    """The new key is there and the old one too: asked again, only the old one goes."""
    added = shop.ask("keys", "data", "add", "--password-file", put(shop, NEW))["added"]
    got = shop.ask("keys", "data", "password", "--password-file", "new.password")
    assert (got["added"], len(got["removed"])) == (added, 1)
    assert (opens(shop, NEW), opens(shop, recovery(shop))) == (True, False)


def test_a_password_that_the_configuration_names_already(shop: Shop) -> None:
    """Then it is not known which key is to go, and --replace names it."""
    old, key = recovery(shop), shop.ask("keys", "data")["keys"][1]["id"]
    put(shop, NEW, "recovery.password")
    arguments = ("keys", "data", "password", "--password-file", "recovery.password")
    assert "Name it with --replace" in shop.run(*arguments, code=2)
    assert shop.ask(*arguments, "--replace", key[:8])["removed"] == [key]
    assert (opens(shop, NEW), opens(shop, old)) == (True, False)


def test_the_machine_key_is_not_changed_by_hand(shop: Shop) -> None:
    """It derives from the fleet's secret; after that has changed, --machine adds the new one."""
    machine = shop.ask("keys", "data")["keys"][0]["id"]
    said = shop.run("keys", "data", "password", "--replace", machine, "--password-file", put(shop, NEW), code=2)
    assert "derives from the fleet's secret" in said
    (shop.conf / "fleet.secret").write_text("another secret of the fleet, long enough\n")
    assert [one["opened"] for one in shop.ask("keys", "data")["keys"]] == [False, True]
    shop.run("keys", "data", "add", "--machine")
    shop.run("keys", "data", "remove", machine)
    assert [one["opens_with"] for one in shop.ask("keys", "data")["keys"]] == ["machine password", "recovery password"]


@pytest.mark.parametrize(
    ("password", "said"),
    [("short", "fewer than 12 characters"), ("long enough\nin two lines", "more than one line"), ("", "fewer than")],
)
def test_weak_passwords_are_refused(shop: Shop, password: str, said: str) -> None:
    """Before anything is written; the password is not repeated."""
    got = shop.run("keys", "data", "add", "--password-file", put(shop, password), code=2)
    assert (said in got, bool(password) and password in got) == (True, False)
    assert len(shop.ask("keys", "data")["keys"]) == 2


def test_a_password_comes_from_the_environment(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its variable; without any of the three there is nothing to ask on."""
    monkeypatch.chdir(shop.conf)
    monkeypatch.delenv("HOLDFAST_CONFIG", raising=False)
    monkeypatch.setenv("HOLDFAST_NEW_PASSWORD", NEW)
    assert main(["keys", "data", "add"]) == 0
    assert NEW not in "".join(capsys.readouterr())
    assert opens(shop, NEW)
    assert "there is no terminal to ask on" in shop.run("keys", "data", "add", code=2)


def test_what_does_not_fit_is_refused(shop: Shop) -> None:
    """Options of another action, an id that is missing or unknown."""
    for arguments, said in (
        (["list", "abcd"], "list takes no ID"),
        (["remove"], "remove needs the ID of a key"),
        (["remove", "zzzz"], "no key of an id that begins with zzzz"),
        (["remove", "abcd", "--machine"], "remove takes no --machine"),
        (["add", "--machine", "--password-file", "x"], "exclude each other"),
        (["add", "--password-file", "none"], "can't read the password file none"),
    ):
        assert said in shop.run("keys", "data", *arguments, code=2)


# -- unlock -----------------------------------------------------------------------------------------


def lock(shop: Shop, *, age: float) -> Path:
    """A lock that stock restic left when it was killed, last refreshed `age` seconds ago."""
    folder = shop.conf / "backups/repos/data/locks"
    whole = "[0-9a-f]" * 64  # not a file that is being written
    before = set(folder.glob(whole))
    process = subprocess.Popen(
        [restic("0.18"), "-r", str(shop.conf / "backups/repos/data"), "--no-cache", "backup", "--stdin"],
        env={**environment(), "RESTIC_PASSWORD": recovery(shop)},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 30
    while not (new := set(folder.glob(whole)) - before) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    (path,) = new
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def test_stale_locks_are_removed_and_live_ones_stay(shop: Shop) -> None:
    """By age alone: a dead holder's fresh lock stays, for it can't be known here that it is dead."""
    assert shop.run("unlock", "data") == "there are no locks\n"
    old, fresh = lock(shop, age=3600), lock(shop, age=60)
    got = shop.ask("unlock", "data")
    assert ([one["id"] for one in got["removed"]], [one["id"] for one in got["kept"]]) == ([old.name], [fresh.name])
    assert (old.exists(), fresh.exists()) == (False, True)
    said = shop.run("unlock", "data")
    assert f"kept:    shared lock {fresh.name[:8]} of {os.uname().nodename} (pid " in said


def test_all_locks_are_removed_where_that_is_meant(shop: Shop) -> None:
    """Without a terminal only with --yes; the refusal names the holder, its age and the way out."""
    path = lock(shop, age=90)
    said = shop.run("unlock", "data", "--all", code=2)
    assert (path.name[:8] in said, "1m 30s old" in said or "1m 31s old" in said, "With --yes" in said) == (True,) * 3
    assert path.exists()
    assert "removed: shared lock" in shop.run("unlock", "data", "--all", "--yes")
    assert not path.exists()
    assert "--yes goes with --all" in shop.run("unlock", "data", "--yes", code=2)


# -- on a terminal ------------------------------------------------------------------------------------


TAKE_TERMINAL = """\
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "cli.main", *sys.argv[1:]])
"""


def on_terminal(shop: Shop, *arguments: str, answers: list[tuple[str, str]]) -> tuple[int, str]:
    """Run a command on a terminal of its own, answer each question as it comes; exit code and all that was shown."""
    terminal, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", TAKE_TERMINAL, *arguments],
        cwd=shop.conf,
        env=environment(),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown, rest = "", list(answers)
    try:
        while select.select([terminal], [], [], 60)[0]:
            try:
                read = os.read(terminal, 4096)
            except OSError:  # the other side has closed
                break
            shown += read.decode()
            if rest and rest[0][0] in shown.rpartition("\n")[2]:
                os.write(terminal, f"{rest.pop(0)[1]}\n".encode())
                shown += "\n"
    finally:
        os.close(terminal)
    return process.wait(60), shown


def test_a_new_password_is_asked_for_twice_and_not_shown(shop: Shop) -> None:
    """On a terminal, without a file or a variable."""
    answers = [("New password", NEW), ("Repeat for confirmation", NEW)]
    code, shown = on_terminal(shop, "keys", "data", "add", answers=answers)
    assert (code, "added key" in shown, NEW in shown) == (0, True, False)
    assert opens(shop, NEW)


def test_the_holders_of_live_locks_are_named_before_a_question(shop: Shop) -> None:
    """No is the default, and leaves them; yes removes them."""
    path = lock(shop, age=90)
    code, shown = on_terminal(shop, "unlock", "data", "--all", answers=[("Remove these locks?", "")])
    assert (code, path.exists(), f"shared lock {path.name[:8]} of {os.uname().nodename}" in shown) == (0, True, True)
    code, shown = on_terminal(shop, "unlock", "data", "--all", answers=[("Remove these locks?", "y")])
    assert (code, path.exists(), "removed: shared lock" in shown) == (0, False, True)
