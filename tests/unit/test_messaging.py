"""Names, brokers and the topology's seam: what processes must agree on."""

from __future__ import annotations

import json
import os

import pytest
import redis

from shared import topology
from shared.errors import ConfigError
from shared.ledger.model import RunKind, RunRequest
from shared.messaging import bell
from shared.messaging.app import celery_queues, make_app
from shared.messaging.broker import broker_url, celery_broker, embedded_socket
from shared.messaging.names import TASK_RUN, queue_in, queue_of, realm_of, redis_list, worker_queues
from shared.topology import Epoch, StaleEpoch
from tests.support.fleets import SmallFleet
from tests.support.tools import ValkeyServer
from workers import specs, upkeep_specs


def test_the_embedded_socket_fits_the_kernels_bound() -> None:
    """Below the state directory where that is short enough, else in /tmp, and always the same."""
    assert embedded_socket("/var/lib/holdfast") == "/var/lib/holdfast/valkey/valkey.sock"
    deep = "/srv/" + "x" * 200
    assert len(embedded_socket(deep)) < 107
    assert embedded_socket(deep) == embedded_socket(deep) != embedded_socket(deep + "y")


@pytest.mark.parametrize(
    ("url", "broker"),
    [
        ("redis://host:6379/1", "redis://host:6379/1"),
        ("rediss://host:6379/1", "rediss://host:6379/1"),
        ("unix:///run/v.sock", "redis+socket:///run/v.sock?virtual_host=0"),
        ("unix:///run/v.sock?db=3", "redis+socket:///run/v.sock?virtual_host=3"),
    ],
)
def test_celery_is_told_of_a_broker_in_its_own_words(url: str, broker: str) -> None:
    """One URL in the configuration, as redis-py reads it."""
    assert celery_broker(url)["broker_url"] == broker
    assert ("broker_use_ssl" in celery_broker(url)) == url.startswith("rediss")


def test_a_fleet_without_a_broker_uses_the_embedded_one(tmp_path: os.PathLike[str]) -> None:
    """Every command finds it by the state directory alone."""
    small = SmallFleet(str(tmp_path))
    assert broker_url(small.fleet) == f"unix://{embedded_socket(small.state_dir)}"
    assert broker_url(SmallFleet(str(tmp_path), broker="redis://r:1/0").fleet) == "redis://r:1/0"


def test_the_app_keeps_to_the_doorbell(tmp_path: os.PathLike[str]) -> None:
    """Early acknowledgement, no results, JSON alone; nothing is connected by making it."""
    conf = make_app("redis://nowhere.invalid:1/0").conf
    assert not conf.task_acks_late
    assert conf.task_ignore_result
    assert conf.accept_content == ["json"]
    assert not conf.worker_cancel_long_running_tasks_on_connection_loss
    assert conf.beat_schedule["tick"]["options"]["expires"] == conf.beat_schedule["tick"]["schedule"]


def test_a_ring_is_what_celery_would_put_there(tmp_path: os.PathLike[str]) -> None:
    """Key by key, but for ids: a new release of Celery that words a message in another way is noticed."""
    with ValkeyServer(os.path.join(tmp_path, "valkey")) as server:
        app = make_app(server.url)
        app.send_task(TASK_RUN, args=["ab" * 16], queue="backup", ignore_result=True)
        client = redis.Redis.from_url(server.url)
        assert bell.ring(client, [("ab" * 16, "backup")]) == 1
        ours, theirs = (json.loads(text) for text in client.lrange("backup", 0, -1))
        app.close()
        client.close()
    for message in (ours, theirs):
        headers, properties = message["headers"], message["properties"]
        assert headers.pop("id") == headers.pop("root_id") == properties.pop("correlation_id")
        assert len(properties.pop("delivery_tag")) == 36
        del headers["origin"], properties["reply_to"]  # who sent it, and where an answer would go: there is none
    assert ours == theirs


def test_a_run_is_rung_where_its_source_can_be_read(tmp_path: os.PathLike[str]) -> None:
    """By its host's queue, or its pool's for that kind of work."""
    source = SmallFleet(str(tmp_path)).fleet.source("web1")
    assert queue_of(RunKind.FULL, source) == "backup"
    assert queue_of(RunKind.VERIFY, source) == "maintenance"
    assert queue_of(RunKind.RESTORE, source.model_copy(update={"pool": "nas"})) == "pool.nas.restore"
    on_db1 = source.model_copy(update={"host": "db1"})
    assert queue_of(RunKind.RESTORE, on_db1) == "host.db1.restore"
    others = [kind for kind in RunKind if kind is not RunKind.RESTORE and not kind.at_site]
    assert {queue_of(kind, on_db1) for kind in others} == {"host.db1"}


@pytest.mark.parametrize("kind", [kind for kind in RunKind if kind.at_site])
def test_what_needs_the_site_alone_is_for_the_pools(tmp_path: os.PathLike[str], kind: RunKind) -> None:
    """Also of a host's source: an agent does none of it. What deletes or replicates is for the unnamed pool alone."""
    small = SmallFleet(str(tmp_path))
    source = small.fleet.source("web1")
    for more in ({"host": "db1"}, {"pool": "nas"}, {}):
        here = source.model_copy(update=more)
        own = "pool" in more and not kind.deletes and kind is not RunKind.REPLICATE
        queue = "replication" if kind is RunKind.REPLICATE else "maintenance"
        assert (queue_of(kind, here), realm_of(kind, here)) == (f"pool.nas.{queue}" if own else queue, "")
    run = RunRequest("0" * 32, kind, "web1")
    with pytest.raises(ConfigError, match=f"an agent does no {kind.value}"):
        specs.spec_for(small.fleet, run, agent=True)


def test_a_restore_test_neither_backs_up_nor_deletes() -> None:
    """Nor does its lock bear its id: nothing of it is to be cleared away by others."""
    kind = RunKind.RESTORE_TEST
    assert (kind.value, kind.at_site) == ("restore-test", True)
    assert (kind.is_backup, kind.deletes, kind.locks_by_id) == (False, False, False)


def test_a_restore_test_is_as_its_run_says(tmp_path: os.PathLike[str]) -> None:
    """A run's id draws the files; options say how many, from where, or all; where it writes they can't say."""
    small = SmallFleet(str(tmp_path))
    made = upkeep_specs.restore_test_spec(small.fleet, "web1", {"files": 7, "whole": True}, run="f" * 32)
    assert (made.run, made.source, made.files, made.size, made.whole) == ("f" * 32, "web1", 7, 1 << 30, True)
    assert (made.snapshot, made.cache_dir) == ("latest", small.fleet.cache_dir)
    with pytest.raises(ConfigError, match="a restore test has no option 'cache_dir'"):
        upkeep_specs.restore_test_spec(small.fleet, "web1", {"cache_dir": "/tmp"}, run="f" * 32)


def test_a_prune_is_as_the_configuration_says(tmp_path: os.PathLike[str]) -> None:
    """Unless its run's options say otherwise; what a site is and who may open it they can't say."""
    small = SmallFleet(str(tmp_path))
    made = upkeep_specs.prune_spec(small.fleet, "web1", {}, run="f" * 32)
    assert (made.grace, made.max_unused, made.max_repack) == (86400.0, 5, 0)
    small.change("sites:", "prune: {grace: 2d, max_unused: 20, max_repack: 1 GiB}\nsites:")
    made = upkeep_specs.prune_spec(small.fleet, "web1", {"max_unused": 7}, run="f" * 32)
    assert (made.grace, made.max_unused, made.max_repack) == (2 * 86400.0, 7, 1 << 30)
    assert (made.site.url, made.epoch, made.config) == (f"{tmp_path}/site", [0, ""], small.path)
    with pytest.raises(ConfigError, match="a prune has no option 'passwords'"):
        upkeep_specs.prune_spec(small.fleet, "web1", {"passwords": ["x"]}, run="f" * 32)


@pytest.mark.parametrize(
    ("role", "restores", "others"),
    [("all", True, True), ("restore", True, False)],
)
def test_a_workers_role_says_what_it_consumes(role: str, *, restores: bool, others: bool) -> None:
    """Restores alone, or all; an agent nothing but its hosts'."""
    assert set(worker_queues(role, ["db1"], ["nas"])) == {
        *({"restore", "pool.nas.restore", "host.db1.restore"} if restores else ()),
        *({"backup", "maintenance", "pool.nas.backup", "pool.nas.maintenance", "host.db1"} if others else ()),
        *({"replication", "pool.nas.replication"} if others else ()),
    }
    own = {*({"host.db1.restore"} if restores else ()), *({"host.db1"} if others else ())}
    assert set(worker_queues(role, ["db1"], agent=True)) == own


def test_a_hosts_queues_lie_under_its_prefix() -> None:
    """So an ACL can hold its agent there; a short name is told from the list again."""
    for queue in ("host.db1", "host.db1.restore"):
        assert redis_list(queue) == f"hf:h:db1:{queue}"
        assert queue_in(redis_list(queue)) == queue
    for queue in ("backup", "pool.nas.restore", "scheduler"):
        assert (redis_list(queue), queue_in(queue)) == (queue, queue)


def test_an_agents_app_and_everybody_elses_mean_the_same_list() -> None:
    """One has the prefix in its connection, the other in the queue's name."""
    agent, other = make_app("redis://x:1/0", prefix="hf:h:db1:"), make_app("redis://x:1/0")
    assert celery_queues(agent, ["host.db1", "host.db1.restore"]) == ["host.db1", "host.db1.restore"]
    assert celery_queues(other, ["backup", "host.db1"]) == ["backup", "hf:h:db1:host.db1", "host.db1"]


def test_the_topology_answers_from_the_configuration(tmp_path: os.PathLike[str]) -> None:
    """Epoch (0, ""), the configured primary, all sites as members; only that epoch may delete."""
    fleet = SmallFleet(str(tmp_path)).fleet
    now = topology.current(fleet)
    assert (now.epoch, now.primary("web1"), now.members) == (Epoch(0, ""), "a", ("a",))
    topology.guard(fleet, "web1", now.epoch)
    with pytest.raises(StaleEpoch, match="epoch"):
        topology.guard(fleet, "web1", Epoch(1, "b"))
    assert Epoch(1, "a") < Epoch(1, "b") < Epoch(2, "")
