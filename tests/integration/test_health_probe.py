"""Probes of real sites: each fault is told for what it is, within the time-out, and no look hangs with its site."""

from __future__ import annotations

import os
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from cryptography import x509
from minio import Minio

from shared.config.fleet import Fleet
from shared.health.observation import Observation, Verdict
from shared.health.probe import PLACE, Prober
from shared.storage.credentials import CredentialsSpec
from shared.topology.ballot import KEY
from tests.support.answers import AnswerServer, Scripted, s3_error
from tests.support.fleets import SmallFleet
from tests.support.ledgers import until
from tests.support.proxy import FaultProxy
from tests.support.stores import (
    credentials_of,
    limited_credentials,
    make_bucket,
    open_bucket,
    versions_in,
    write_certificates,
)
from tests.support.tools import MinioServer

QUICK = "timeout: 1s, slow_after: 0.5s, min_free: 1"
PATIENT = "timeout: 60s, slow_after: 59s, min_free: 1"  # the machine may be busy


class Fleets:
    """Makes fleets of one site each, in a directory of its own."""

    def __init__(self, base: Path) -> None:
        self._base = base

    def of(self, site: str, health: str = PATIENT) -> Prober:
        """A prober of a fleet whose only site is this."""
        directory = self._base / os.urandom(4).hex()
        small = SmallFleet(str(directory))
        small.change("sites: {a: {url: site}}", f"sites: {{a: {{{site}}}}}")
        small.change("{probe: false}", f"{{{health}}}")
        return Prober(small.fleet, "probes@here", "here")

    def s3(
        self, port: int, bucket: str, keys: CredentialsSpec, health: str = PATIENT, *, more: str = "", tls: str = ""
    ) -> Prober:
        """The same, of a bucket."""
        file = self._base / f"keys-{os.urandom(4).hex()}"
        file.write_text(
            f"access_key = {keys.access_key}\nsecret_key = {keys.secret_key}\n"
            + (f"session_token = {keys.session_token}\n" if keys.session_token else "")
        )
        url = f"s3:http{'s' if tls else ''}://127.0.0.1:{port}/{bucket}"
        authority = f", ca_file: {tls}" if tls else ""
        return self.of(f"url: '{url}', credentials: {{file: {file}}}{authority}{more}", health)


@pytest.fixture
def fleets(tmp_path: Path) -> Fleets:
    """See `Fleets`."""
    return Fleets(tmp_path)


def seen(prober: Prober) -> Observation:
    """What is seen of the only site."""
    (one,) = prober.look()
    assert (one.site, one.observer, one.place) == ("a", "probes@here", "here")
    return one


# -- what works ---------------------------------------------------------------------------------------


def test_a_directory_that_works_is_up(fleets: Fleets, tmp_path: Path) -> None:
    """With its room and its clock; nothing of the probe is left, nor of one that was killed long ago."""
    site = tmp_path / "nas"
    left = site / PLACE / "killed"
    left.parent.mkdir(parents=True)
    left.write_text("x")
    os.utime(left, (1, 1))
    prober = fleets.of(f"url: {site}")
    one = seen(prober)
    assert (one.verdict, one.why, one.certificate) == (Verdict.UP, "", None)
    assert one.free is not None
    assert one.free > 0
    assert one.clock is not None
    assert abs(one.clock) < 60
    assert list(left.parent.iterdir()) == []


def test_a_bucket_that_works_is_up(fleets: Fleets, minio_server: MinioServer) -> None:
    """No S3 store tells its room. Nothing is left, where versions are kept either."""
    for versioned in (False, True):
        bucket = make_bucket(minio_server, versioned=versioned)
        prober = fleets.s3(minio_server.port, bucket, credentials_of(minio_server))
        for _ in range(2):
            one = seen(prober)
            assert (one.verdict, one.why, one.free, one.certificate) == (Verdict.UP, "", None, None)
            assert one.clock is not None
            assert abs(one.clock) < 60
        until(lambda name=bucket: versions_in(minio_server, name) == [], what="nothing left")


def test_a_certificate_is_seen_to_run_out(fleets: Fleets, tmp_path: Path) -> None:
    """Of the very server that the site is."""
    certs = tmp_path / "certs"
    authority = write_certificates(str(certs))
    expires = x509.load_pem_x509_certificate((certs / "public.crt").read_bytes()).not_valid_after_utc.timestamp()
    with MinioServer(str(tmp_path / "minio"), certs_dir=str(certs)) as server:
        keys = credentials_of(server)
        one = until(lambda: found if (found := seen(fleets.s3(server.port, "none", keys, tls=authority))).why else None)
        assert (one.verdict, one.certificate) == (Verdict.REFUSED, expires)  # there is no such bucket
        (other,) = fleets.s3(server.port, "none", keys, more="", tls=str(certs / "public.crt")).look()
    assert other.verdict is Verdict.REFUSED
    assert "its certificate is not trusted" in other.why


def test_little_room_and_a_wrong_clock_are_told_of_a_site_that_works(fleets: Fleets, tmp_path: Path) -> None:
    """It is up: backups go on. The time that a file gets there is a minute and more ahead of a clock that is slow."""
    one = seen(fleets.of(f"url: {tmp_path}", "timeout: 60s, slow_after: 59s, min_free: 9999 TB"))
    assert one.verdict is Verdict.UP
    assert one.why.startswith("only ")
    assert one.why.endswith(" bytes are free, and 9,999,000,000,000,000 are wanted")


def test_a_witness_is_read_alone(fleets: Fleets, tmp_path: Path) -> None:
    """Nothing is written there, whether it has voted or not."""
    witness = tmp_path / "w"
    witness.mkdir()
    prober = fleets.of(f"url: {tmp_path / 'a'}}}, w: {{url: {witness}, witness: true")
    (tmp_path / "a").mkdir()
    assert prober.probe("w").verdict is Verdict.UP  # type: ignore[union-attr] # it can be asked
    assert list(witness.iterdir()) == []
    assert prober.probe("nowhere") is None


# -- faults -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MinioServer]:
    """One that may be killed and frozen."""
    with MinioServer(str(tmp_path_factory.mktemp("own") / "data")) as server:
        yield server


def test_a_server_that_is_frozen_or_killed_is_down(fleets: Fleets, server: MinioServer) -> None:
    """Frozen: no look comes back late, and none is begun beside one that hangs. Thawed, killed, started: as it is."""
    bucket, keys = make_bucket(server), credentials_of(server)
    quick, patient = fleets.s3(server.port, bucket, keys, QUICK), fleets.s3(server.port, bucket, keys)
    os.kill(server.pid, signal.SIGSTOP)
    until(lambda: " T " in Path(f"/proc/{server.pid}/stat").read_text(), what="a server that stands still")
    try:
        before = threading.active_count()
        for _ in range(3):
            assert seen(quick).verdict is Verdict.DOWN
            assert threading.active_count() <= before + 1
    finally:
        os.kill(server.pid, signal.SIGCONT)
    assert seen(patient).verdict is Verdict.UP
    server.kill()
    one = seen(patient)
    assert one.verdict is Verdict.DOWN
    assert "unavailable: PUT" in one.why
    assert "given up after" not in one.why  # it is told at once, and not asked again and again
    server.start()
    until(lambda: seen(patient).verdict is Verdict.UP)


def test_a_byte_now_and_then_holds_nobody(fleets: Fleets, minio_server: MinioServer) -> None:
    """Each byte comes well within any time-out of a socket. The look is left behind; it ends with its connection."""
    bucket, keys = make_bucket(minio_server), credentials_of(minio_server)
    with FaultProxy(("127.0.0.1", minio_server.port)) as proxy:
        proxy.trickle(0.2)
        prober = fleets.s3(proxy.port, bucket, keys, QUICK)
        one = seen(prober)
        assert (one.verdict, one.why) == (Verdict.DOWN, "site a: no answer within 1 s")
        ((_, look),) = prober._looks.items()
        assert look.thread.is_alive()
        assert "hangs" in seen(prober).why
        assert list(prober._looks.values()) == [look]
        proxy.trickle(0)
        proxy.cut_all()
        look.thread.join()
        until(lambda: seen(prober).verdict.works, what="it is looked at anew")


def test_a_mount_that_hangs_holds_nobody(fleets: Fleets, tmp_path: Path) -> None:
    """Nothing ends such a read. There is one thread in it, however often one looks, and the other site is seen."""
    witness, site = tmp_path / "w", tmp_path / "a"
    fifo = witness / KEY
    fifo.parent.mkdir(parents=True)
    site.mkdir()
    os.mkfifo(fifo)
    prober = fleets.of(f"url: {site}}}, w: {{url: {witness}, witness: true", "timeout: 3s")
    for said in ("no answer", "hangs", "hangs"):
        found = {one.site: one for one in prober.look()}
        assert said in found["w"].why
        assert (found["w"].verdict, found["a"].verdict.works) == (Verdict.DOWN, True)
    hanging = [one.name for one in threading.enumerate()]
    assert hanging.count("probe-w") == 1
    let_go(fifo)
    until(lambda: prober.probe("w").verdict.works, what="it is looked at anew")  # type: ignore[union-attr]


def let_go(fifo: Path) -> None:
    """Whoever reads there comes to an end, and nobody begins again."""
    writer = os.open(fifo, os.O_WRONLY)
    fifo.unlink()
    os.close(writer)


def test_a_slow_site_is_slow(fleets: Fleets, minio_server: MinioServer) -> None:
    """It works, and says how long it took."""
    bucket, keys = make_bucket(minio_server), credentials_of(minio_server)
    with FaultProxy(("127.0.0.1", minio_server.port)) as proxy:
        proxy.slow_down(0.3)
        one = seen(fleets.s3(proxy.port, bucket, keys, "timeout: 60s, slow_after: 0.5s"))
    assert one.verdict is Verdict.SLOW
    assert one.latency > 0.5
    assert "s to write and read a few bytes" in one.why


def test_a_site_that_answers_and_does_not_let_us_refuses(fleets: Fleets, minio_server: MinioServer) -> None:
    """Wrong keys, a bucket that is deleted."""
    bucket, keys = make_bucket(minio_server), credentials_of(minio_server)
    one = seen(fleets.s3(minio_server.port, bucket, CredentialsSpec(keys.access_key, "wrong")))
    assert one.verdict is Verdict.REFUSED
    assert "403 SignatureDoesNotMatch" in one.why
    prober = fleets.s3(minio_server.port, bucket, keys)
    assert seen(prober).verdict is Verdict.UP
    client = Minio(minio_server.endpoint, access_key=keys.access_key, secret_key=keys.secret_key, secure=False)
    until(lambda: not list(client.list_objects(bucket, recursive=True)))
    client.remove_bucket(bucket)
    one = seen(prober)
    assert one.verdict is Verdict.REFUSED
    assert "404 NoSuchBucket" in one.why


def test_a_directory_that_is_not_there_is_down(fleets: Fleets, tmp_path: Path) -> None:
    """An unmounted disk; and one that no file can be written to refuses."""
    site = tmp_path / "nas"
    site.mkdir()
    prober = fleets.of(f"url: {site}")
    assert seen(prober).verdict is Verdict.UP
    site.rename(tmp_path / "away")
    one = seen(prober)
    assert (one.verdict, "no such directory" in one.why) == (Verdict.DOWN, True)


def test_a_directory_that_takes_no_byte_more_refuses(fleets: Fleets, tmp_path: Path) -> None:
    """The kernel says so: here it lets this process write no more, which a full disk does to everybody."""
    prober = fleets.of(f"url: {tmp_path}")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        one = seen(prober)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (one.verdict, "site a: full: PUT holdfast/probe/" in one.why) == (Verdict.REFUSED, True)
    assert seen(prober).verdict is Verdict.UP


OK, MISSING = Scripted(200), s3_error(404, "NoSuchKey")


@pytest.mark.parametrize(
    ("answers", "verdict", "said"),
    [
        ([OK, MISSING], Verdict.REFUSED, "and does not have it"),
        ([OK, Scripted(200, b"others")], Verdict.REFUSED, "it gives back other bytes than were written"),
        ([s3_error(507, "XMinioStorageFull")], Verdict.REFUSED, "507 XMinioStorageFull"),
        ([s3_error(403, "RequestTimeTooSkewed")], Verdict.REFUSED, "403 RequestTimeTooSkewed"),
        ([s3_error(503, "SlowDown")], Verdict.DOWN, "503 SlowDown"),
        ([Scripted(200, b"x" * 10, {"Content-Length": "20"})], Verdict.DOWN, "a: "),
    ],
    ids=["keeps nothing", "other bytes", "full", "another time", "busy", "cut short"],
)
def test_what_no_real_server_says(fleets: Fleets, answers: list[Scripted], verdict: Verdict, said: str) -> None:
    """One that lies, is full, has another time, is too busy, or falls silent in the middle."""
    with AnswerServer(*answers) as server:
        one = seen(
            fleets.s3(
                server.port, "bucket", CredentialsSpec("k", "s"), PATIENT if len(answers[0].body) != 10 else QUICK
            )
        )
    assert (one.verdict, said in one.why) == (verdict, True), one


# -- rights, and this machine's own faults --------------------------------------------------------------


def test_who_may_not_write_there_reads(fleets: Fleets, minio_server: MinioServer) -> None:
    """It is up, and is said not to be probed by writing: whether backups may write, they tell."""
    bucket = make_bucket(minio_server)
    keys = limited_credentials(minio_server, (["s3:ListBucket"], bucket), (["s3:GetObject"], f"{bucket}/*"))
    one = seen(fleets.s3(minio_server.port, bucket, keys))
    assert one.verdict is Verdict.UP
    assert one.why.startswith("it can be read, and not probed by writing: ")


def test_who_may_not_delete_writes_once_an_hour(fleets: Fleets, minio_server: MinioServer) -> None:
    """Else a versioned bucket would fill with versions: what lies there is read again."""
    bucket = make_bucket(minio_server, versioned=True)
    keys = limited_credentials(
        minio_server, (["s3:ListBucket"], bucket), (["s3:GetObject", "s3:PutObject"], f"{bucket}/*")
    )
    prober = fleets.s3(minio_server.port, bucket, keys)
    assert [seen(prober).verdict for _ in range(3)] == [Verdict.UP] * 3
    (left,) = versions_in(minio_server, bucket)
    with closing(open_bucket(minio_server, bucket)) as store:
        store.put(left[0], b"other bytes")
    assert seen(prober).verdict is Verdict.REFUSED


@pytest.mark.parametrize(
    "site",
    ["credentials: {env: NOBODY_SET_THIS}", "credentials: {file: none}", "credentials: {file: secret}, ca_file: none"],
)
def test_who_can_not_ask_says_nothing(fleets: Fleets, site: str) -> None:
    """No keys, or no file of authorities: that is this machine's own fault, and no site is called down for it."""
    assert fleets.of(f"url: 's3:https://127.0.0.1:9/b', {site}").look() == []


def test_a_changed_configuration_counts_at_once(fleets: Fleets, tmp_path: Path) -> None:
    """Another url is another place, though the old one hangs."""
    fifo = tmp_path / "w" / KEY
    fifo.parent.mkdir(parents=True)
    os.mkfifo(fifo)
    other = tmp_path / "other"
    other.mkdir()
    prober = fleets.of(f"url: {other}}}, w: {{url: {tmp_path / 'w'}, witness: true", QUICK)
    assert prober.probe("w").verdict is Verdict.DOWN  # type: ignore[union-attr] # it can be asked
    path = Path(prober.fleet.path)
    (tmp_path / "w2").mkdir()
    path.write_text(path.read_text().replace(f"url: {tmp_path / 'w'},", f"url: {tmp_path / 'w2'},"))
    prober.fleet = Fleet.load(str(path))
    until(lambda: prober.probe("w").verdict.works, what="it is looked at anew")  # type: ignore[union-attr]
    let_go(fifo)
