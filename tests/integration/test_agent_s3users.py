"""Users and policies in a real MinIO: given twice, changed, taken twice; refused, away, over TLS."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shared.agents.policy import agent_policy
from shared.agents.s3users import S3Users
from shared.storage import Denied, Transient, open_store
from shared.storage.credentials import CredentialsSpec
from shared.storage.open import parse_url
from tests.support.stores import credentials_of, make_bucket, write_certificates
from tests.support.tools import MinioServer, free_port

SECRET = "a-secret-of-forty-characters-0123456789"


def test_rights_follow_what_was_granted_last(minio_server: MinioServer) -> None:
    """Below a prefix, too. Granted again, with another repository more; taken twice without an error."""
    bucket = make_bucket(minio_server)
    url = f"s3:{minio_server.url}/{bucket}/prod"
    users = S3Users("fra", url, credentials_of(minio_server))
    user = f"hf-test-{bucket}"
    all_of_it = open_store(url, credentials=credentials_of(minio_server))
    for name in ("web1", "web2"):
        all_of_it.put(f"repos/{name}/config", b"c")
    own = open_store(url, credentials=CredentialsSpec(user, SECRET), deadline=5.0)
    for repositories, second in ((["web1"], False), (["web1"], False), (["web1", "web2"], True), (["web1"], False)):
        users.grant(user, SECRET, agent_policy(parse_url(url), repositories))
        assert own.get("repos/web1/config") == b"c"
        assert [info.key for info in own.list("repos/web1/")] == ["repos/web1/config"]
        if second:
            assert own.get("repos/web2/config") == b"c"
        else:
            with pytest.raises(Denied):
                own.get("repos/web2/config")
    for _ in range(2):
        users.remove(user)
        with pytest.raises(Denied):
            own.get("repos/web1/config")


def test_who_may_give_no_rights_is_told_how(minio_server: MinioServer) -> None:
    """A wrong secret, a key that there is not, and one that is no administrator's."""
    bucket = make_bucket(minio_server)
    url = f"s3:{minio_server.url}/{bucket}"
    user = f"hf-test-{bucket}"
    S3Users("fra", url, credentials_of(minio_server)).grant(user, SECRET, agent_policy(parse_url(url), ["web1"]))
    for keys in (
        CredentialsSpec(minio_server.access_key, "wrong-secret"),
        CredentialsSpec("nobody", "wrong-secret"),
        CredentialsSpec(user, SECRET),
    ):
        with pytest.raises(Denied, match=r"site fra: denied: add policy.*docs/agents.md"):
            S3Users("fra", url, keys).grant("mine", SECRET, agent_policy(parse_url(url), ["web1"]))


def test_a_server_that_is_away() -> None:
    """Within seconds, with the site's name."""
    users = S3Users("fra", f"s3:http://127.0.0.1:{free_port()}/bucket", CredentialsSpec("a", "b" * 8))
    with pytest.raises(Transient, match="site fra: unavailable: remove user"):
        users.remove("hf-test")


def test_over_tls_with_an_authority_of_ones_own(tmp_path: Path) -> None:
    """With its ca_file it is trusted, and without not."""
    authority = write_certificates(str(tmp_path / "certs"))
    with MinioServer(str(tmp_path / "data"), certs_dir=str(tmp_path / "certs")) as server:
        os.mkdir(tmp_path / "data/bucket")
        url = f"s3:{server.url}/bucket"
        S3Users("fra", url, credentials_of(server), authority).grant(
            "hf-test", SECRET, agent_policy(parse_url(url), ["a"])
        )
        with pytest.raises(Transient, match="certificate"):
            S3Users("fra", url, credentials_of(server)).remove("hf-test")
