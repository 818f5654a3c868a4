"""What a command does not import: start-up time and memory that nothing would be done for."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.command import ROOT, environment

PROGRAM = """
import importlib, sys
importlib.import_module(sys.argv[1])
print(*sorted(set(sys.argv[2:]) & set(sys.modules)))
"""


def imported(program: str, *arguments: str) -> str:
    """What a program says in a Python of its own."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("module", "spared"),
    [
        ("shared.storage.s3", ["minio", "minio.api", "minio.minioadmin", "Crypto", "cffi", "pycparser", "argon2"]),
        ("shared.messaging.client", ["structlog", "rich", "celery", "kombu", "pydantic", "minio"]),
        ("cli.main", ["pydantic", "yaml", "rich", "structlog", "redis", "celery", "cryptography", "urllib3"]),
        ("shared.config.fleet", ["redis", "celery", "structlog", "urllib3", "minio", "cryptography"]),
    ],
)
def test_an_import_brings_nothing_heavy_along(module: str, spared: list[str]) -> None:
    """Each is tens of milliseconds of a command's start."""
    assert imported(PROGRAM, module, *spared) == ""


def test_minio_is_whole_for_who_imports_it_after_the_signer() -> None:
    """The stand-in below which the signer was imported is gone: package, client and submodules are the real ones."""
    program = """
import shared.storage.signing
import minio, minio.signer
from minio import Minio
from minio.credentials import StaticProvider
client = Minio(endpoint="127.0.0.1:1", credentials=StaticProvider("a", "b"))
print(bool(minio.__version__), minio.signer.sign_v4_s3 is not None, type(client).__module__)
"""
    assert imported(program) == "True True minio.api"


def test_the_signer_is_the_real_one_where_minio_is_there_already() -> None:
    """No second copy of what is imported."""
    program = """
import minio.signer
from shared.storage import signing
print(signing.sign_v4_s3 is minio.signer.sign_v4_s3, "minio" in __import__("sys").modules)
"""
    assert imported(program) == "True True"
