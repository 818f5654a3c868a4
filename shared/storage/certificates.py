"""Which certificates of S3 servers are trusted, and until when a server's own is good."""

from __future__ import annotations

import socket
import ssl
from urllib.parse import urlsplit

import certifi

_HTTPS = 443


def trusting(ca_file: str | None) -> ssl.SSLContext:
    """Trust the authorities in a PEM file, or the system's. Raises OSError, ssl.SSLError."""
    if ca_file is not None:
        return ssl.create_default_context(cafile=ca_file)
    paths = ssl.get_default_verify_paths()
    # An image without the system's authorities still has those that came with minio-py.
    return ssl.create_default_context(cafile=None if paths.cafile or paths.capath else certifi.where())


def expiry(endpoint: str, ca_file: str | None, *, timeout: float) -> float | None:
    """When the certificate of `endpoint` (https://host:port) runs out, POSIX seconds; None without TLS.

    One connection; `timeout` in seconds, for each step of it. Raises OSError, which ssl.SSLError is.
    """
    url = urlsplit(endpoint)
    if url.scheme != "https":
        return None
    address = (url.hostname or "", url.port or _HTTPS)
    with (
        socket.create_connection(address, timeout=timeout) as plain,
        trusting(ca_file).wrap_socket(plain, server_hostname=url.hostname) as secured,
    ):
        found = secured.getpeercert() or {}
    return ssl.cert_time_to_seconds(str(found["notAfter"])) if "notAfter" in found else None
