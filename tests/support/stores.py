"""Stores for tests: a bucket of one's own in a real MinIO, certificates, and a process without rights."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import json
import os
import tempfile
from collections.abc import Iterator

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from minio import Minio
from minio.commonconfig import ENABLED
from minio.credentials import AssumeRoleProvider
from minio.versioningconfig import VersioningConfig

from shared.storage import ObjectStore, open_store
from shared.storage.credentials import CredentialsSpec
from tests.support.tools import MinioServer

NOBODY = 65534


def credentials_of(server: MinioServer) -> CredentialsSpec:
    """The root credentials of `server`."""
    return CredentialsSpec(server.access_key, server.secret_key)


def make_bucket(server: MinioServer, *, versioned: bool = False) -> str:
    """Make a bucket with a name of its own and return that."""
    client = Minio(
        server.endpoint, access_key=server.access_key, secret_key=server.secret_key, secure=False, region=server.region
    )
    bucket = f"t{os.urandom(8).hex()}"
    client.make_bucket(bucket)
    if versioned:
        client.set_bucket_versioning(bucket, VersioningConfig(ENABLED))
    return bucket


def versions_in(server: MinioServer, bucket: str) -> list[tuple[str, int, bool]]:
    """All that a bucket keeps, what is hidden too: key, size in bytes, whether it is a delete marker."""
    client = Minio(
        server.endpoint, access_key=server.access_key, secret_key=server.secret_key, secure=False, region=server.region
    )
    listed = client.list_objects(bucket, recursive=True, include_version=True)
    return [(str(one.object_name), one.size or 0, bool(one.is_delete_marker)) for one in listed]


def limited_credentials(server: MinioServer, *statements: tuple[list[str], str]) -> CredentialsSpec:
    """Temporary credentials that may do these actions on these resources, and no more."""
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": actions, "Resource": [f"arn:aws:s3:::{resource}"]}
            for actions, resource in statements
        ],
    }
    provider = AssumeRoleProvider(
        sts_endpoint=server.url,
        access_key=server.access_key,
        secret_key=server.secret_key,
        duration_seconds=3600,
        region=server.region,
        policy=json.dumps(policy),
    )
    got = provider.retrieve()
    return CredentialsSpec(got.access_key, got.secret_key, got.session_token)


def open_bucket(server: MinioServer, bucket: str, *, port: int = 0, deadline: float = 10.0) -> ObjectStore:
    """Open `bucket`, through a proxy where its `port` is given."""
    url = f"s3:http://127.0.0.1:{port or server.port}/{bucket}"
    return open_store(url, credentials=credentials_of(server), deadline=deadline, name="fra")


@contextlib.contextmanager
def unprivileged() -> Iterator[str]:
    """An empty directory whose owner may not write it: as root, the effective user is nobody inside the block."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)  # noqa: S103 - nobody must get this far to be refused
        root = os.geteuid() == 0
        if not root:
            os.chmod(directory, 0o500)
        if root:
            os.seteuid(NOBODY)
        try:
            yield directory
        finally:
            if root:
                os.seteuid(0)
            os.chmod(directory, 0o700)


def write_certificates(directory: str) -> str:
    """Write public.crt and private.key for 127.0.0.1 as MinIO wants them; return the path of their authority."""
    now = dt.datetime.now(dt.UTC)
    authority_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a private authority")])

    def build(subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, is_ca: bool) -> bytes:
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
        usage = x509.KeyUsage(
            digital_signature=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=is_ca,
            crl_sign=is_ca,
            encipher_only=False,
            decipher_only=False,
        )
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(authority)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(identifier, critical=False)
            .add_extension(usage, critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
            )
            .sign(authority_key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM)

    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    private = server_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    os.makedirs(directory, exist_ok=True)
    for name, data in (
        ("public.crt", build(subject, server_key, is_ca=False)),
        ("private.key", private),
        ("authority.pem", build(authority, authority_key, is_ca=True)),
    ):
        with open(os.path.join(directory, name), "wb") as file:
            file.write(data)
    return os.path.join(directory, "authority.pem")
