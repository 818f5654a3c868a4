"""Sources from a command: what is believed of its answers, what stays in force, who sees what left. shared.config."""

from __future__ import annotations

import json
import os
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from shared.config import asking
from shared.config.fleet import Fleet
from shared.config.inventory import Place, State, trouble
from shared.config.watch import FleetWatch
from shared.errors import ConfigError
from tests.support.browsing import call
from tests.support.fleets import alive
from workers import upkeep_specs

CONFIG = """\
secret: {file: fleet.secret}
recovery_password: {file: recovery.password}
sites: {a: {url: ./a}}
policies: {all: {full: 1d, retention: {keep_last: 1}}}
sources: {own: {paths: /srv}}
inventory: {command: [sh, ask.sh], every: 1h, timeout: 20s}
"""


class Shop:
    """A configuration whose inventory is a script beside it."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.path = str(base / "holdfast.yaml")
        self.write("inventory: {command: [sh, ask.sh]", f"inventory: {{command: [sh, {base}/ask.sh]", CONFIG)
        self.place = Place(str(base / ".holdfast/state/inventory"))

    def write(self, old: str, new: str, text: str = "") -> None:
        """Change the file."""
        text = text or Path(self.path).read_text()
        assert old in text
        Path(self.path).write_text(text.replace(old, new))

    def script(self, text: str) -> None:
        """What the inventory does from now on."""
        (self.base / "ask.sh").write_text(text)

    def answers(self, *names: str) -> None:
        """It names these sources from now on."""
        said = {"sources": {name: {"paths": ["/srv"], "labels": {"from": "cmdb"}} for name in names}}
        self.script(f"cat <<'END'\n{json.dumps(said)}\nEND\n")

    @property
    def sources(self) -> list[str]:
        """Those in force, but for the file's own."""
        fleet = Fleet.load(self.path)
        return [name for name, one in fleet.sources.items() if not one.left and name != "own"]

    @property
    def gone(self) -> list[str]:
        """Those that left."""
        return [name for name, one in Fleet.load(self.path).sources.items() if one.left]


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A configuration with an inventory that was never asked."""
    return Shop(tmp_path)


def asked(shop: Shop, *names: str) -> Shop:
    """It has answered so."""
    shop.answers(*names)
    asking.ask(shop.path)
    return shop


MANY = tuple(f"web{number}" for number in range(10))


def test_its_sources_stand_beside_those_of_the_files(shop: Shop) -> None:
    """With their labels, so that policies select them."""
    asked(shop, "web1", "db/orders")
    fleet = Fleet.load(shop.path)
    assert list(fleet.sources) == ["own", "web1", "db/orders"]
    assert (fleet.source("web1").labels, str(fleet.policy_for("web1") and "all")) == ({"from": "cmdb"}, "all")


@pytest.mark.parametrize(
    "text",
    [
        "sources:\n  web1:\n    paths: [/srv]\n",
        "sources: {web1: {paths: /srv}}",
        '{"sources":{"web1":{"paths":"/srv"}}}',
    ],
)
def test_it_may_be_yaml_or_json(shop: Shop, text: str) -> None:
    """In the form that the file has."""
    shop.script(f"cat <<'END'\n{text}\nEND\n")
    assert (asking.ask(shop.path).new, shop.sources) == (("web1",), ["web1"])


def test_loading_asks_nobody(shop: Shop) -> None:
    """Every command loads the configuration: what was kept is what it reads."""
    asked(shop, "web1")
    shop.script(f"touch {shop.base}/was-asked")
    assert (shop.sources, os.path.exists(shop.base / "was-asked")) == (["web1"], False)


def test_what_is_kept_is_for_its_owner_alone(shop: Shop) -> None:
    """It says what runs where."""
    asked(shop, "web1")
    modes = {
        name: stat.S_IMODE(os.stat(shop.place.folder + "/" + name).st_mode) for name in ("sources.json", "state.json")
    }
    assert modes == {"sources.json": 0o600, "state.json": 0o600}
    assert stat.S_IMODE(os.stat(shop.place.folder).st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes what is another's")
def test_what_root_asks_for_stays_the_services(shop: Shop) -> None:
    """`sudo holdfast sources refresh` must not lock out the scheduler, which is another user."""
    state = shop.base / ".holdfast/state"
    state.mkdir(parents=True)
    os.chown(state, 65534, 65534)
    asked(shop, "web1")
    owned = {path.name: path.stat().st_uid for path in (state / "inventory", *(state / "inventory").iterdir())}
    assert owned == dict.fromkeys(("inventory", "sources.json", "state.json", "lock"), 65534)


def test_without_any_answer_yet_nothing_is_loaded(shop: Shop) -> None:
    """Fewer sources than there are would look as if all were well. It says why there is none, and the way out."""
    shop.script("echo 'cmdb: 503' >&2; exit 4")
    with pytest.raises(ConfigError, match="ended with code 4: cmdb: 503"):
        asking.ask(shop.path)
    with pytest.raises(ConfigError) as error:
        Fleet.load(shop.path)
    assert f"{shop.path}:6: inventory: has given no answer yet, so which sources there are is not known: " in str(
        error.value
    )
    assert "ended with code 4: cmdb: 503; `holdfast sources refresh` asks it now" in str(error.value)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("exit 3", "ended with code 3"),
        ("""echo '{"sources": {}}'; echo 'db: gone' >&2; exit 3""", "ended with code 3: db: gone"),
        ("kill -9 $$", "was ended by signal 9"),
        ("", "expected sources by id, as `sources:` has them, found nothing"),
        ("echo '[]'", "found a list"),
        ("echo 'sources: [web1]'", "found a list"),
        ("""printf '{"sources": {"web1": {"paths": ["/s'""", "is broken: line 1"),
        ("printf 'sources:\\n  web1: {paths: [/srv'", "is broken: line"),
        ("""echo '{"sources": {"web1": {"paths": "/a"}, "web1": {"paths": "/b"}}}'""", "web1: stands twice"),
        ("printf '\\377'", "is not UTF-8"),
        (
            "echo 'sources: {web1: {paths: /srv}}'; echo 'secret: {file: /etc/shadow}'",
            "has secret: nothing but sources",
        ),
        ("echo 'sites: {b: {url: /b}}'; echo 'sources: {web1: {paths: /srv}}'", "has sites: nothing but sources"),
        ("echo 'sources: {web1: {pahts: /srv}}'", 'sources.web1.pahts: unknown key (did you mean "paths"?)'),
        ("echo 'sources: {own: {paths: /srv}}'", "sources.own: is defined twice, first at"),
        ("python3 -c 'print(\"[\" * 100000)'", "is broken"),
    ],
)
def test_an_answer_that_is_none_leaves_the_last_good_one_in_force(shop: Shop, script: str, reason: str) -> None:
    """What is wrong with it is said by whoever asks, and noted for those who do not."""
    asked(shop, "web1", "web2")
    shop.script(script)
    with pytest.raises(ConfigError) as error:
        asking.ask(shop.path)
    assert reason in str(error.value)
    assert (shop.sources, shop.gone) == (["web1", "web2"], [])
    assert reason in shop.place.read_state().error


def test_a_command_that_can_not_be_started_is_named(shop: Shop) -> None:
    """As it is written."""
    asked(shop, "web1")
    shop.write("command: [sh, ", "command: [/no/such/program, ")
    with pytest.raises(ConfigError, match="/no/such/program can't be started: No such file or directory"):
        asking.ask(shop.path)
    assert shop.sources == ["web1"]


def test_a_command_that_hangs_is_killed_with_all_it_has_started(shop: Shop) -> None:
    """Also what has gone to the background with the pipe in its hand."""
    asked(shop, "web1")
    shop.write("timeout: 20s", "timeout: 1s")
    shop.script(f"sleep 600 & echo $! > {shop.base}/pid; echo 'sources: {{}}'; exit 0")
    with pytest.raises(ConfigError, match="gave no answer in 1 s"):
        asking.ask(shop.path)
    deadline = time.monotonic() + 10
    while alive((shop.base / "pid").read_text().strip()):
        assert time.monotonic() < deadline
    assert shop.sources == ["web1"]


def test_a_pipe_that_would_hide_a_failure_is_refused(shop: Shop) -> None:
    """When the file is read: half an answer would pass for a whole one."""
    asked(shop, "web1")
    shop.write(f"command: [sh, {shop.base}/ask.sh]", 'command: [sh, -c, "curl cmdb | jq ."]')
    with pytest.raises(ConfigError, match=r"inventory\.command: a shell's pipe .* half an answer"):
        Fleet.load(shop.path)


def test_one_that_prints_without_end_is_stopped(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """It fills no memory."""
    monkeypatch.setattr(asking, "_ANSWER_AT_MOST", 1 << 20)
    shop.script("exec cat /dev/zero")
    with pytest.raises(ConfigError, match="prints more than 1 MiB"):
        asking.ask(shop.path)


def test_secrets_of_its_environment_are_not_repeated(shop: Shop) -> None:
    """Nor is anything of Holdfast's own environment passed on."""
    (shop.base / "token").write_text("s3cr3t-token\n")
    shop.write("every: 1h", "every: 1h, env: {TOKEN: {file: token}}")
    shop.script('echo "denied for $TOKEN in $HOLDFAST_CONFIG." >&2; exit 1')
    with pytest.raises(ConfigError, match=r"denied for \*\*\* in \.$"):
        asking.ask(shop.path)


# -- an answer that lacks much ------------------------------------------------------------------------


def test_an_answer_that_lacks_most_sources_is_doubted(shop: Shop) -> None:
    """It is kept out until a person says that it is meant; what it lacks is named."""
    asked(shop, *MANY)
    shop.answers(*MANY[:4])
    code, _, err = call("sources", "refresh", "-c", shop.path)
    assert code == 10
    assert "lacks 6 of 10 sources (web4, web5, web6, web7, web8 and 1 more) and is doubted" in err
    assert "If they are meant to go: holdfast sources refresh --accept" in err
    assert (shop.sources, shop.place.read_state().lost) == (list(MANY), MANY[4:])
    code, _, err = call("config", "check", "-c", shop.path)
    assert (code, "warning: inventory: the inventory's last good answer is" in err, "is doubted" in err) == (
        0,
        True,
        True,
    )
    code, out, _ = call("sources", "refresh", "--accept", "-c", shop.path)
    assert (code, out.decode().splitlines()[0]) == (0, "left: web4, web5, web6, web7, web8, web9")
    assert (shop.sources, shop.gone) == (list(MANY[:4]), list(MANY[4:]))


@pytest.mark.parametrize(
    ("before", "after", "keys", "doubted"),
    [
        (MANY, MANY[:5], "", False),  # half is not more than half
        (MANY, MANY[:4], "", True),
        (MANY[:4], MANY[:1], "", False),  # three are a few
        (MANY[:4], ("other",), "", True),
        (MANY[:2], (), "", True),  # nothing at all is no fleet
        (MANY, MANY[:4], ", max_loss: 60", False),
        (MANY, MANY[:6], ", max_loss: 10", True),
        (MANY, MANY[:1], ", max_loss: 100", False),
    ],
)
def test_how_much_may_go_at_once(
    shop: Shop, before: tuple[str, ...], after: tuple[str, ...], keys: str, doubted: bool
) -> None:
    """A few always, and of more the share that the file allows; never all."""
    shop.write("every: 1h", f"every: 1h{keys}")
    asked(shop, *before)
    shop.answers(*after)
    try:
        asking.ask(shop.path)
    except ConfigError:
        assert doubted
    else:
        assert not doubted
    assert shop.sources == list(before if doubted else after)


def test_a_dry_run_changes_nothing(shop: Shop) -> None:
    """It says what would."""
    asked(shop, "web1", "web2")
    shop.answers("web2", "web3")
    code, out, _ = call("sources", "refresh", "--dry-run", "-c", shop.path)
    assert (code, out.decode().splitlines()) == (
        0,
        ["new: web3", "left: web1", "2 sources of the inventory would be in force"],
    )
    assert (shop.sources, shop.gone) == (["web1", "web2"], [])


# -- what left it -------------------------------------------------------------------------------------


def test_what_left_stays_in_sight(shop: Shop) -> None:
    """Nothing of it becomes due, no rule forgets its snapshots, and everybody says since when it is gone."""
    asked(shop, "web1", "web2")
    asked(shop, "web2")
    fleet = Fleet.load(shop.path)
    gone = fleet.source("web1")
    assert 0 <= time.time() - gone.left < 60
    assert gone.is_over
    assert gone.rests(time.time()).startswith("gone from the inventory since 20")
    with pytest.raises(ConfigError, match=r"is gone from the inventory since .*: no rule forgets any of them"):
        upkeep_specs.forget_spec(fleet, "web1", {}, run="ab" * 16)
    out = call("sources", "-c", shop.path)[1].decode()
    assert "web1    any worker  all (gone)" in out
    assert "web1: gone from the inventory since" in out
    said = json.loads(call("sources", "-c", shop.path, "--json")[1])
    assert [one["id"] for one in said["sources"] if one["gone"]] == ["web1"]
    assert "sources.web1: gone from the inventory" in call("config", "check", "-c", shop.path)[2]


def test_since_when_does_not_change(shop: Shop) -> None:
    """However often the inventory is asked; one that is back is as it was."""
    asked(shop, "web1", "web2")
    asked(shop, "web2")
    since = Fleet.load(shop.path).source("web1").left
    asked(shop, "web2", "web3")
    assert Fleet.load(shop.path).source("web1").left == since
    shop.answers("web1", "web2", "web3")
    change = asking.ask(shop.path)
    assert (change.back, change.new, shop.gone) == (("web1",), (), [])


def test_one_that_went_into_a_file_is_the_files(shop: Shop) -> None:
    """It is gone no more."""
    asked(shop, "web1", "web2")
    asked(shop, "web2")
    shop.write("sources: {own: {paths: /srv}", "sources: {own: {paths: /srv}, web1: {paths: /data}")
    source = Fleet.load(shop.path).source("web1")
    assert (source.paths, source.left) == (("/data",), 0.0)


def test_what_left_can_be_dropped(shop: Shop) -> None:
    """By a person, and only what left."""
    asked(shop, "web1", "web2")
    asked(shop, "web2")
    code, _, err = call("sources", "drop", "web2", "-c", shop.path)
    assert (code, "source web2 has not left the inventory" in err, "These have: web1" in err) == (10, True, True)
    code, out, _ = call("sources", "drop", "web1", "-c", shop.path)
    assert (code, out.decode()) == (0, "dropped: web1; its snapshots stay\n")
    assert (shop.sources, shop.gone) == (["web2"], [])


# -- who asks -----------------------------------------------------------------------------------------


def settle(watch: FleetWatch) -> None:
    """Wait until the asking that has begun is over."""
    if watch._asker._thread is not None:
        watch._asker._thread.join(30)
    watch._asker._next = 0.0


def test_what_runs_asks_by_itself_and_follows(shop: Shop) -> None:
    """First when it starts, then when it is time; nobody waits for the command meanwhile."""
    shop.answers("web1")
    watch = FleetWatch(shop.path)
    assert list(watch.fleet.sources) == ["own", "web1"]
    watch.check()
    assert watch._asker._thread is None  # it is not time
    settle(watch)
    shop.answers("web1", "web2")
    shop.place.note(State(**{**_state(shop), "asked": time.time() - 3601}))
    watch.check()
    settle(watch)
    assert [watch.check() for _ in range(3)].count(True) == 1
    assert list(watch.fleet.sources) == ["own", "web1", "web2"]


def _state(shop: Shop) -> dict[str, object]:
    state = shop.place.read_state()
    return {"asked": state.asked, "answered": state.answered, "command": state.command}


def test_a_failing_inventory_is_told_of_once(shop: Shop) -> None:
    """And asked again only when it is time; the configuration stays in force and is not read anew."""
    asked(shop, "web1")
    shop.script("echo 'cmdb: 503' >&2; exit 1")
    watch = FleetWatch(shop.path)
    with capture_logs() as logs:
        for _ in range(3):
            shop.place.note(State(**{**_state(shop), "asked": 0.0}))
            watch._asker._next = 0.0
            watch.check()
            settle(watch)
    assert [line["event"] for line in logs] == ["the inventory's answer is not used; the last good one stays"]
    assert "cmdb: 503" in logs[0]["reason"]
    assert list(watch.fleet.sources) == ["own", "web1"]


def test_a_process_does_not_start_without_any_answer(shop: Shop) -> None:
    """It has asked, and says why there is none."""
    shop.script("exit 7")
    with pytest.raises(ConfigError, match=r"has given no answer yet.*ended with code 7"):
        FleetWatch(shop.path)


def test_another_command_is_asked_at_once(shop: Shop) -> None:
    """However lately the one before was."""
    asked(shop, "web1")
    inventory = Fleet.load(shop.path).inventory
    assert inventory is not None
    assert not asking.is_due(shop.place.read_state(), inventory, time.time())
    shop.write("every: 1h", "every: 2h")
    shop.write("command: [sh, ", "command: [bash, ")
    changed = Fleet.load(shop.path).inventory
    assert changed is not None
    assert asking.is_due(shop.place.read_state(), changed, time.time())


def test_an_agents_file_has_none(shop: Shop) -> None:
    """Its sources are its own."""
    shop.write(
        "secret: {file: fleet.secret}\nrecovery_password: {file: recovery.password}\n",
        "agent: own\nmachine_passwords: {file: m}\n",
    )
    shop.answers("web1")
    with pytest.raises(ConfigError, match="inventory: is for a fleet's file"):
        asking.ask(shop.path)


def test_how_old_the_answer_is_is_said(shop: Shop) -> None:
    """Where the last one failed, or nobody asks any more."""
    asked(shop, "web1")
    inventory = Fleet.load(shop.path).inventory
    assert inventory is not None
    assert trouble(State(asked=7000, answered=7000), inventory, 7200) == ""
    assert trouble(State(asked=0, answered=3600), inventory, 10800) == ""  # it may be late
    assert "is 3h old: no scheduler and no worker runs" in trouble(State(answered=0), inventory, 10800)
    assert trouble(State(answered=3600, error="it is away"), inventory, 7200).endswith("is 1h old: it is away")


# -- killed in between --------------------------------------------------------------------------------


def killed(act: Callable[[], object]) -> None:
    """Do this in a process that is killed in it."""
    pid = os.fork()
    if not pid:
        try:
            act()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize(("method", "early"), [("keep", True), ("keep", False), ("note", True), ("note", False)])
def test_killed_at_any_write_one_answer_is_in_force(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, method: str, early: bool
) -> None:
    """The old or the new, whole; and the next asking goes through."""
    asked(shop, "web1", "web2")
    shop.answers("web2", "web3")
    real = getattr(Place, method)

    def dying(self: Place, value: object) -> None:
        if not early:
            real(self, value)
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(Place, method, dying)
        killed(lambda: asking.ask(shop.path))
    old = (method, early) == ("keep", True)
    assert (shop.sources, shop.gone) == ((["web1", "web2"], []) if old else (["web2", "web3"], ["web1"]))
    asking.ask(shop.path)
    assert (shop.sources, shop.gone) == (["web2", "web3"], ["web1"])
