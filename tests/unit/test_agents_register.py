"""Who is enrolled, as it stands at the sites: what merges, what wins, what is believed."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import pytest

from shared.agents import identity, register
from shared.agents.errors import AgentError
from shared.agents.parcel import Parcel
from shared.agents.register import Enrolment, RegisterDamaged
from shared.storage import ObjectStore, open_store

SECRET = b"the fleet's secret"


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    """A site."""
    return open_store(str(tmp_path), name="a")


def test_a_revocation_beats_its_enrolment_and_the_next_enrolment_beats_that() -> None:
    """In whatever order sites are heard."""
    steps = [Enrolment(1), Enrolment(1, revoked=True), Enrolment(2), Enrolment(2, revoked=True)]
    assert Enrolment(1).again() == Enrolment(1)
    assert Enrolment(1, revoked=True).again() == Enrolment(2)
    for some in itertools.permutations(steps[:3]):
        assert register.merge(*({"web1": one} for one in some)) == {"web1": Enrolment(2)}
    assert max(steps) == steps[-1]


def test_what_is_noted_is_read_and_never_goes_back(store: ObjectStore) -> None:
    """Of other hosts nothing is lost; an older entry changes nothing."""
    assert register.read(store, SECRET) == {}
    register.note(store, SECRET, {"web1": Enrolment(1), "web2": Enrolment(3)})
    register.note(store, SECRET, {"web1": Enrolment(1, revoked=True)})
    register.note(store, SECRET, {"web1": Enrolment(1)})
    assert register.read(store, SECRET) == {"web1": Enrolment(1, revoked=True), "web2": Enrolment(3)}


def test_many_at_once_lose_nothing(store: ObjectStore) -> None:
    """Each by compare-and-swap."""
    hosts = [f"web{number}" for number in range(8)]
    threads = [
        threading.Thread(target=register.note, args=(store, SECRET, {host: Enrolment(1)}), daemon=True)
        for host in hosts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(register.read(store, SECRET)) == hosts


def test_what_somebody_else_wrote_is_not_believed(store: ObjectStore) -> None:
    """Another secret, a changed byte, a cut, nothing at all; a site where it is damaged is told of."""
    raw = register.encode(SECRET, {"web1": Enrolment(1, revoked=True)})
    for bad in (raw.replace(b"true", b"false"), raw[:-1], raw[64:], b"", register.encode(b"another", {})):
        with pytest.raises(RegisterDamaged, match="damaged, or was written with another fleet's secret"):
            register.decode(SECRET, bad, "here")
    store.put(register.KEY, b"junk")
    known, failed = register.read_all([store], SECRET)
    assert (known, [type(error) for error in failed]) == ({}, [RegisterDamaged])


def test_names_and_passwords_are_of_one_host_site_and_generation() -> None:
    """No two are alike, and each is the same whenever it is asked for."""
    made = [
        *(identity.redis_password(SECRET, host, number) for host in ("web1", "web2") for number in (1, 2)),
        *(
            identity.s3_secret(SECRET, site, host, number)
            for site in ("a", "b")
            for host in ("web1", "web2")
            for number in (1, 2)
        ),
        identity.redis_password(b"another", "web1", 1),
    ]
    assert len({*made}) == len(made)
    assert identity.redis_password(SECRET, "web1", 1) == made[0]
    assert {len(secret) for secret in made} == {40, 64}
    assert identity.s3_user(SECRET, "web1", 1) != identity.s3_user(b"another", "web1", 1)


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "conf.d/other.yaml", "a/b", "..", ".hidden", ""])
def test_a_parcel_writes_nowhere_else(name: str) -> None:
    """Who could forge one would write as root."""
    with pytest.raises(AgentError, match="has a file of the name"):
        Parcel.from_json({"host": "web1", "files": {name: "x"}})
