"""A stolen server, with all that its agent has: it tries what it knows of, and is refused everywhere.

web1 is the hostile one. What is tried in Redis is tried on a real Valkey by its own user, what is tried at the site on
a real MinIO by its own keys; before and after, everything that is not web1's is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from minio import Minio, MinioAdmin
from minio.credentials import AssumeRoleProvider, StaticProvider
from minio.deleteobjects import DeleteObject
from minio.error import MinioAdminException, S3Error
from redis.exceptions import NoPermissionError, ResponseError

from shared.agents.acl import agent_rules
from shared.config.stores import current_credentials
from shared.ledger.model import RunKind, RunState
from shared.messaging import client
from shared.storage import Denied, ObjectStore
from tests.support.enrolled import Enrolled, enrolled_fleet
from tests.support.tools import MinioServer

# The commands without a key that an agent may use. All others of a server, today's and tomorrow's, are refused.
KEYLESS = {
    *("auth", "hello", "quit", "reset"),  # Redis lets nobody forbid these
    *("ping", "select", "client|setname", "client|setinfo", "time"),
    *("multi", "exec", "discard", "unwatch"),
    *("script|load", "script|exists"),
    *("publish", "subscribe", "unsubscribe", "psubscribe", "punsubscribe"),  # of its own channels
}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, minio_server: MinioServer) -> Iterator[Enrolled]:
    """Both hosts have a backup; the pools have a run that waits; another token lies ready."""
    with enrolled_fleet(Path(tmp_path_factory.mktemp("hostile")), minio_server) as scene:
        scene.both()
        for host in ("web1", "web2"):
            with scene.agent(host):
                assert scene.back_up(host).state is RunState.SUCCEEDED
                client.open_and_ring(scene.fleet, RunKind.FORGET, host)
        scene.enroll("web2")
        yield scene


@pytest.fixture
def thief(scene: Enrolled) -> Iterator[redis.Redis]:
    """Redis, as web1's user."""
    with scene.redis_as("web1") as own:
        yield own


# -- Redis ----------------------------------------------------------------------------------------


def others(scene: Enrolled) -> dict[str, Any]:
    """All that lies in Redis and is not web1's, whatever its type."""
    root = redis.Redis.from_url(scene.admin)
    return {key.decode(): root.dump(key) for key in root.scan_iter() if not key.startswith(b"hf:h:web1:")}


def test_no_key_of_anybody_else_is_read_written_or_removed(scene: Enrolled, thief: redis.Redis) -> None:
    """The pools' ledger and queues, another host's, tokens: by each kind of command, and by scripts."""
    before = others(scene)
    keys = [*before, "backup", "restore", "maintenance", "scheduler", "unacked", "unacked_index", "hf:beat:lock"]
    keys += ["hf:h:web2:host.web2", "hf:h:web1", "hf:h:web10:open", "hf:run:0", "_kombu.binding.celery"]
    for prefix in ("hf:h:web2:", "hf:h:web1.restore:", "hf:"):
        keys += [f"{prefix}{name}" for name in ("ledger", "counter", "open", "recent", "workers", "pulse", "counts")]
    script = "return redis.call(ARGV[2], ARGV[1])"
    for key in dict.fromkeys(keys):
        tries: list[Callable[[], Any]] = [
            lambda key=key: thief.get(key),
            lambda key=key: thief.set(key, "x"),
            lambda key=key: thief.getdel(key),
            lambda key=key: thief.hgetall(key),
            lambda key=key: thief.hset(key, "state", "cancelled"),
            lambda key=key: thief.lpush(key, "x"),
            lambda key=key: thief.lrange(key, 0, -1),
            lambda key=key: thief.brpop([key], timeout=1),
            lambda key=key: thief.lmove(key, "hf:h:web1:mine"),
            lambda key=key: thief.lmove("hf:h:web1:mine", key),
            lambda key=key: thief.sadd(key, "x"),
            lambda key=key: thief.smembers(key),
            lambda key=key: thief.zadd(key, {"x": 1}),
            lambda key=key: thief.zrange(key, 0, -1),
            lambda key=key: thief.zunionstore("hf:h:web1:mine", [key]),
            lambda key=key: thief.exists(key),
            lambda key=key: thief.type(key),
            lambda key=key: thief.expire(key, 1),
            lambda key=key: thief.ttl(key),
            lambda key=key: thief.delete(key),
            lambda key=key: thief.unlink(key),
            lambda key=key: thief.execute_command("WATCH", key),
            lambda key=key: thief.eval(script, 1, key, key, "get"),
            lambda key=key: thief.eval(script, 0, key, "del"),  # a key that is not declared
            *(
                lambda key=key, words=words: thief.execute_command(*[key if word == "KEY" else word for word in words])
                for words in (
                    ("RENAME", "KEY", "hf:h:web1:mine"),
                    ("COPY", "KEY", "hf:h:web1:mine"),
                    ("DUMP", "KEY"),
                    ("OBJECT", "ENCODING", "KEY"),
                    ("SORT", "hf:h:web1:mine", "BY", "nosort", "GET", "KEY"),
                    ("MIGRATE", "127.0.0.1", "1", "KEY", "0", "1"),
                    ("XADD", "KEY", "*", "a", "b"),
                )
            ),
        ]
        for attempt in tries:
            with pytest.raises((NoPermissionError, ResponseError), match=r"(?i)no permissions|NOPERM|can't run|ACL"):
                attempt()
    assert others(scene) == before


def test_no_command_without_a_key_is_allowed_but_the_few_that_are_needed(scene: Enrolled) -> None:
    """Of all that this server has: nothing that lists, flushes, kills, configures, loads, spies or stops."""
    known, ask = commands_of(scene.root()), raw(scene.root())
    allowed = set()
    for name, about in known.items():
        words = name.split("|")
        words += ["0"] * (about.words - len(words))  # the number of arguments is looked at before the rights
        with ask.pipeline(transaction=False) as pipe:
            (answer,) = pipe.execute_command("ACL", "DRYRUN", "hf-agent-web1", *words).execute(raise_on_error=False)
        if "has no permissions to run" not in str(answer):
            allowed.add(name)
    assert len(known) > 300
    assert {name for name in allowed if not known[name].has_keys} == KEYLESS
    assert {"eval", "evalsha", "hset", "lpush"} <= allowed


def test_what_stops_or_spies_on_everybody_is_refused(scene: Enrolled, thief: redis.Redis) -> None:
    """As they are called, and in a script."""
    before = others(scene)
    for line in (
        *("KEYS *", "SCAN 0", "RANDOMKEY", "DBSIZE", "FLUSHALL", "FLUSHDB", "SWAPDB 0 1", "SHUTDOWN", "SAVE", "INFO"),
        *("CONFIG GET *", "CONFIG SET requirepass x", "CONFIG RESETSTAT", "DEBUG SLEEP 0", "MONITOR", "SLOWLOG GET"),
        *("ACL LIST", "ACL WHOAMI", "ACL SETUSER hf-agent-web1 +@all", "ACL DELUSER hf-agent-web2", "ACL LOG"),
        *("CLIENT LIST", "CLIENT KILL TYPE normal", "CLIENT PAUSE 1000", "CLIENT TRACKING ON BCAST PREFIX hf:"),
        *("PUBSUB CHANNELS", "SCRIPT FLUSH", "SCRIPT KILL", "FUNCTION FLUSH", "FUNCTION LIST", "MODULE LIST"),
        *("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE", "PSYNC ? -1", "FAILOVER", "CLUSTER NODES", "LATENCY LATEST"),
        *("MEMORY STATS", "BGREWRITEAOF", "BGSAVE", "LASTSAVE", "COMMAND", "WAIT 1 10", "ROLE", "SYNC"),
    ):
        with pytest.raises((NoPermissionError, ResponseError), match=r"(?i)no permissions|not allowed"):
            thief.execute_command(*line.split())
        with pytest.raises(ResponseError):
            thief.eval("return redis.call(unpack(ARGV))", 0, *line.split())
    assert others(scene) == before


def test_no_channel_of_anybody_else_is_heard_or_spoken_on(thief: redis.Redis) -> None:
    """Celery's events of all, another host's, keyspace notifications."""
    for channel in ("/0.celery.pidbox", "hf:h:web2:/0.celery", "__keyspace@0__:hf:open", "holdfast.events"):
        with pytest.raises(NoPermissionError):
            thief.publish(channel, "x")
        for listen in ("SUBSCRIBE", "PSUBSCRIBE"):
            with pytest.raises(NoPermissionError):
                thief.execute_command(listen, f"{channel}*" if listen == "PSUBSCRIBE" else channel)
    with pytest.raises(NoPermissionError):
        thief.execute_command("PSUBSCRIBE", "*")


def test_it_can_not_ring_for_a_run_of_another_or_do_one(scene: Enrolled) -> None:
    """Nor by the means of the job system itself: the ledger's own calls are refused in any realm but its own."""
    fleet = scene.own("web1")
    for host in ("", "web2"):
        ledger = client.ledger_of(fleet, host)
        for attempt in (ledger.open_runs, lambda ledger=ledger: ledger.claim("0" * 32, "thief")):
            with pytest.raises(Exception, match=r"(?i)no permissions|NOPERM"):
                attempt()


def test_the_rules_name_no_host_but_one() -> None:
    """A name that another begins with is another host."""
    assert [rule for rule in agent_rules("web1", "pw") if rule[0] in "~&%"] == ["~hf:h:web1:*", "&hf:h:web1:*"]


def raw(root: redis.Redis) -> redis.Redis:
    """A client that gives answers as they come."""
    given = root.connection_pool.connection_kwargs
    url = f"redis://:{given['password']}@{given['host']}:{given['port']}/0"
    bare = redis.Redis.from_url(url, decode_responses=True, protocol=2)
    bare.response_callbacks.clear()
    return bare


@dataclass(frozen=True)
class About:
    """A command: with its name at least so many words; whether Redis knows keys among them."""

    words: int
    has_keys: bool


def commands_of(root: redis.Redis) -> dict[str, About]:
    """Every command, and every one of those below them (`config|set`)."""
    found: dict[str, About] = {}
    for about in raw(root).execute_command("COMMAND"):
        for one in about[9] or [about]:
            found[one[0]] = About(abs(one[1]), bool(one[8]))
    return found


# -- the site -------------------------------------------------------------------------------------


@pytest.fixture
def keys(scene: Enrolled) -> Iterator[ObjectStore]:
    """The bucket, as web1's agent."""
    store = scene.as_agent("web1")
    yield store
    store.close()


def sdk(scene: Enrolled) -> Minio:
    """The bucket by another client, as web1's agent."""
    own = current_credentials(scene.own("web1").site_access("fra"))
    assert own is not None
    return Minio(
        endpoint=scene.minio.endpoint,
        access_key=own.access_key,
        secret_key=own.secret_key,
        secure=False,
        region=scene.minio.region,
    )


def content(scene: Enrolled) -> dict[tuple[str, str], tuple[str, bool]]:
    """Every version of every object: etag, and whether it is what a reader gets."""
    client_ = Minio(
        endpoint=scene.minio.endpoint,
        access_key=scene.minio.access_key,
        secret_key=scene.minio.secret_key,
        secure=False,
        region=scene.minio.region,
    )
    listed = client_.list_objects(bucket_name=scene.bucket, recursive=True, include_version=True)
    return {(str(one.object_name), str(one.version_id)): (str(one.etag), bool(one.is_latest)) for one in listed}


def of_own(scene: Enrolled, folder: str) -> list[str]:
    """The keys of web1's own objects of a kind."""
    return [one.key for one in scene.site().list(f"repos/web1/{folder}/")]


def test_another_repository_is_neither_read_nor_listed_nor_written(scene: Enrolled, keys: ObjectStore) -> None:
    """Each object that web2 has, and the place above both."""
    before = content(scene)
    theirs = [key for key, _ in before if not key.startswith("repos/web1/")]
    assert {key.split("/")[2] for key in theirs if key.startswith("repos/web2/")} >= {"config", "data", "keys", "index"}
    for key in theirs:
        for use in (keys.get, keys.stat, keys.delete, lambda key: keys.put(key, b"x")):
            with pytest.raises(Denied):
                use(key)
        with pytest.raises(Denied):
            keys.get_range(key, 0, 1)
        with pytest.raises(Denied):
            keys.put_if_absent(key, b"x")
    for prefix in ("", "repos/", "repos/web2/", "repos/web2/data/", "repos/web1x/", "holdfast/"):
        with pytest.raises(Denied):
            list(keys.list(prefix))
    for key in (
        "new",
        "repos/new/config",
        "repos/web10/data/a",
        "repos/web1",
        "holdfast/agents",
        "repos/web1x/locks/a",
    ):
        with pytest.raises(Denied):
            keys.put(key, b"x")
    assert content(scene) == before


def test_of_its_own_it_deletes_locks_alone(scene: Enrolled, keys: ObjectStore) -> None:
    """Neither packs nor snapshots nor index, keys or config; nor a version of anything; nor many at once."""
    before = content(scene)
    mine = [(key, version) for key, version in before if key.startswith("repos/web1/") and "/locks/" not in key]
    assert {key.split("/")[2] for key, _ in mine} >= {"config", "data", "keys", "index", "snapshots", "holdfast"}
    client_ = sdk(scene)
    for key, version in mine:
        with pytest.raises(Denied):
            keys.delete(key)
        with pytest.raises(S3Error, match=r"AccessDenied|Access Denied"):
            client_.remove_object(bucket_name=scene.bucket, object_name=key, version_id=version)
    many = client_.remove_objects(
        bucket_name=scene.bucket,
        delete_object_list=[DeleteObject(name=key, version_id=version) for key, version in mine],
    )
    assert {error.code for error in many} == {"AccessDenied"}
    assert content(scene) == before
    keys.put("repos/web1/locks/mine", b"")
    keys.delete("repos/web1/locks/mine")
    assert of_own(scene, "locks") == []


def test_keys_config_holds_and_what_prune_and_forget_go_by_are_not_its_to_write(
    scene: Enrolled, keys: ObjectStore
) -> None:
    """Else it could lock the fleet out, doom its own packs, or bring old snapshots back after they were forgotten."""
    before = content(scene)
    own_key = of_own(scene, "keys")[0].rpartition("/")[2]
    snapshot = of_own(scene, "snapshots")[0].rpartition("/")[2]
    pack = of_own(scene, "data")[0].rpartition("/")[2]
    for part in (
        *("config", f"keys/{own_key}", f"keys/{'0' * 64}", f"holdfast/doomed/{pack}", f"holdfast/forgotten/{snapshot}"),
        *(f"holdfast/holds/{snapshot}", f"holdfast/quarantine/{pack}", "holdfast/anything", "anything"),
    ):
        with pytest.raises(Denied):
            keys.put(f"repos/web1/{part}", b"x")
        with pytest.raises(Denied):
            keys.put_if_absent(f"repos/web1/{part}", b"x")
    assert content(scene) == before


def test_the_bucket_and_its_versions_are_not_its_to_change(scene: Enrolled) -> None:
    """Versioning, policies, lifecycle rules (which delete), the bucket itself; nor does it see another."""
    client_, bucket = sdk(scene), scene.bucket
    from minio.commonconfig import ENABLED, Filter
    from minio.lifecycleconfig import Expiration, LifecycleConfig, Rule
    from minio.versioningconfig import SUSPENDED, VersioningConfig

    rules = LifecycleConfig(
        [Rule(ENABLED, rule_filter=Filter(prefix=""), rule_id="all", expiration=Expiration(days=1))]
    )
    for attempt in (
        lambda: client_.set_bucket_versioning(bucket_name=bucket, config=VersioningConfig(SUSPENDED)),
        lambda: client_.set_bucket_lifecycle(bucket_name=bucket, config=rules),
        lambda: client_.set_bucket_policy(bucket_name=bucket, policy="{}"),
        lambda: client_.get_bucket_policy(bucket_name=bucket),
        lambda: client_.remove_bucket(bucket_name=bucket),
        lambda: client_.make_bucket(bucket_name="mine"),
        client_.list_buckets,
        lambda: list(client_.list_objects(bucket_name=bucket, prefix="repos/web2/", include_version=True)),
    ):
        with pytest.raises(S3Error, match=r"AccessDenied|Access Denied"):
            attempt()


def test_it_makes_no_users_keys_or_policies(scene: Enrolled) -> None:
    """MinIO lets a user change his own secret, and make keys that outlive it, unless that is denied."""
    own = current_credentials(scene.own("web1").site_access("fra"))
    assert own is not None
    admin = MinioAdmin(
        endpoint=scene.minio.endpoint, credentials=StaticProvider(own.access_key, own.secret_key), secure=False
    )
    everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["s3:*"], "Resource": ["*"]}]}
    for attempt in (
        admin.info,
        admin.user_list,
        admin.policy_list,
        lambda: admin.user_add(own.access_key, "another-secret"),
        lambda: admin.user_add("mine", "another-secret"),
        lambda: admin.policy_add("mine", policy=everything),
        lambda: admin.policy_set("consoleAdmin", user=own.access_key),
        lambda: admin.add_service_account(access_key="mymykeykey", secret_key="mymykeykey" * 2),
        admin.service_stop,
    ):
        with pytest.raises(MinioAdminException, match=r"AccessDenied|Access Denied"):
            attempt()


def test_keys_that_it_borrowed_from_itself_end_with_its_own(scene: Enrolled) -> None:
    """What STS gave it for hours may no more than it may itself, and is worth nothing once it is revoked."""
    own = current_credentials(scene.own("web2").site_access("fra"))
    assert own is not None
    provider = AssumeRoleProvider(
        sts_endpoint=scene.minio.url,
        access_key=own.access_key,
        secret_key=own.secret_key,
        duration_seconds=3600,
        region=scene.minio.region,
    )
    borrowed = Minio(endpoint=scene.minio.endpoint, credentials=provider, secure=False, region=scene.minio.region)
    provider.retrieve()
    assert borrowed.stat_object(bucket_name=scene.bucket, object_name="repos/web2/config").size
    with pytest.raises(S3Error):
        borrowed.stat_object(bucket_name=scene.bucket, object_name="repos/web1/config")
    scene.shop.run("agent", "revoke", "web2")
    for _ in ("revoked", "enrolled again"):
        with pytest.raises(S3Error):
            borrowed.stat_object(bucket_name=scene.bucket, object_name="repos/web2/config")
        scene.enroll("web2")


def test_what_it_overwrites_of_its_own_is_found_and_brought_back(scene: Enrolled, keys: ObjectStore) -> None:
    """Packs, index and snapshots, as far as its keys go: verify says so, --heal gets the older versions back."""
    for folder in ("data", "index", "snapshots"):
        key = of_own(scene, folder)[0]
        whole = keys.get(key)
        keys.put(key, b"x" * len(whole))
        found = scene.shop.ask("verify", "web1", "--direct", "--data", code=24)
        assert key.rpartition("/")[2] in {one["object"].rpartition(" ")[2] for one in found["problems"]}
        report = scene.shop.ask("verify", "web1", "--heal", "--data")
        assert (report["errors"], report["lost"], report["healed"]) == (0, [], [key.removeprefix("repos/web1/")])
        assert keys.get(key) == whole
    again = scene.shop.ask("verify", "web1", "--heal")
    assert (again["healed"], again["looked_at"] >= 4) == ([], True)
    said = scene.shop.run("restore", "web1", "--direct", "--to", str(scene.base / "back"))
    assert "restored" in said
    for path in (scene.base / "data-web1").iterdir():
        (back,) = (scene.base / "back").rglob(path.name)
        assert back.read_bytes() == path.read_bytes()
