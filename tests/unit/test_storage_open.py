"""Which URLs name a site, and what those that don't are answered."""

from __future__ import annotations

import os

import pytest

from shared.storage import Permanent, parse_url
from shared.storage.open import StoreUrl


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("/srv/site", StoreUrl(path="/srv/site")),
        ("/srv/site/", StoreUrl(path="/srv/site")),
        ("dir:/srv/a b", StoreUrl(path="/srv/a b")),
        ("file:///srv/a%20b", StoreUrl(path="/srv/a b")),
        ("file://localhost/srv", StoreUrl(path="/srv")),
        ("site", StoreUrl(path=os.path.abspath("site"))),
        ("s3:http://127.0.0.1:9000/b", StoreUrl(endpoint="http://127.0.0.1:9000", bucket="b")),
        ("s3:https://minio.example/b/a/c/", StoreUrl(endpoint="https://minio.example", bucket="b", prefix="a/c")),
        ("s3:s3.amazonaws.com/b/c", StoreUrl(endpoint="https://s3.amazonaws.com", bucket="b", prefix="c")),
        ("s3://minio.example/b", StoreUrl(endpoint="https://minio.example", bucket="b")),
        ("s3:http://[::1]:9000/b", StoreUrl(endpoint="http://[::1]:9000", bucket="b")),
    ],
)
def test_urls_of_sites(url: str, expected: StoreUrl) -> None:
    """Directories in three forms, S3 in restic's; nothing is looked at on disk or on the network."""
    assert parse_url(url) == expected


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "no path"),
        ("dir:", "no path"),
        ("s3:https://host", "names no bucket"),
        ("s3:https:///bucket", "not an S3 URL"),
        ("s3:ftp://host/bucket", "not an S3 URL"),
        ("s3:https://host:port/bucket", "Port could not be cast"),
        ("s3:https://host/bucket/../other", "not a key"),
        ("s3:https://host/bucket?region=x", "not an S3 URL"),
        ("sftp://host/path", "no kind of site that is known"),
        ("file://host/path", "names host 'host'"),
    ],
)
def test_what_is_no_site_is_told_what_is(url: str, reason: str) -> None:
    """The message names the site and what is wrong with its url."""
    with pytest.raises(Permanent, match=reason) as refused:
        parse_url(url, name="fra")
    assert str(refused.value).startswith("site fra: refused: ")


@pytest.mark.parametrize("url", ["s3:https://key:hunter2@host/bucket", "sftp://user:hunter2@host/path"])
def test_a_secret_in_a_url_is_refused_and_not_repeated(url: str) -> None:
    """Credentials belong beside the url, which every message shows."""
    with pytest.raises(Permanent) as refused:
        parse_url(url)
    assert "hunter2" not in str(refused.value)
