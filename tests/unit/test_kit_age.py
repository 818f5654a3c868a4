"""The age format: what seals a kit, and what stock age opens."""

from __future__ import annotations

import os
import pty
from pathlib import Path

import pytest

from shared.kit import age
from shared.kit.errors import KitDamaged, WrongKitPassword
from tests.support.tools import age as stock_age

WORK = 10  # log2 of scrypt's N: what is tried here is the format
PLAIN = bytes(range(256)) * 600  # more than two chunks


def on_a_terminal(program: str, *arguments: str, answers: list[str]) -> int:
    """Run what asks for a password on a terminal alone; its exit code."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(program, [program, *arguments])  # noqa: S606 - a list, no shell
    try:
        for answer in answers:
            while b": " not in os.read(terminal, 4096):
                pass
            os.write(terminal, answer.encode() + b"\n")
        while os.read(terminal, 4096):
            pass
    except OSError:
        pass  # the program has ended
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, len(PLAIN)])
def test_what_is_sealed_opens_again(size: int) -> None:
    """At each border of a chunk."""
    sealed = age.seal(PLAIN[:size], "pass word", work=WORK)
    assert age.unseal(sealed, "pass word", "kit") == PLAIN[:size]
    assert age.unarmor("a head\n" + age.armor(sealed), "kit") == sealed


def test_stock_age_opens_it(tmp_path: Path) -> None:
    """By the password, on a terminal."""
    (tmp_path / "kit").write_bytes(age.seal(PLAIN, "pass word", work=WORK))
    kit, out = str(tmp_path / "kit"), str(tmp_path / "out")
    assert on_a_terminal(stock_age(), "-d", "-o", out, kit, answers=["pass word"]) == 0
    assert Path(out).read_bytes() == PLAIN


def test_a_wrong_password_is_told_from_damage() -> None:
    """Neither message quotes anything secret."""
    sealed = age.seal(PLAIN, "pass word", work=WORK)
    with pytest.raises(WrongKitPassword, match="the password does not open kit"):
        age.unseal(sealed, "password", "kit")


@pytest.mark.parametrize("at", [0, 30, 70, 80, 130, 200, 65700, -1], ids=str)
def test_every_flip_is_found(at: int) -> None:
    """In the magic, the salt, the work, the sealed key, the MAC, the nonce, and each chunk."""
    sealed = bytearray(age.seal(PLAIN, "pass word", work=WORK))
    sealed[at] ^= 1
    with pytest.raises((KitDamaged, WrongKitPassword)):
        age.unseal(bytes(sealed), "pass word", "kit")


def test_what_is_cut_or_lengthened_is_found() -> None:
    """Also just at the end of a chunk, and by a chunk that stands twice."""
    sealed = age.seal(PLAIN, "pass word", work=WORK)
    head = len(sealed) - 16 - len(PLAIN) - 3 * 16
    chunk = 65536 + 16
    for wrong in (
        sealed[:100],
        sealed[:head],
        sealed[: head + 16],
        sealed[: head + 16 + chunk],
        sealed[:-1],
        sealed + b"x",
        sealed[: head + 16 + chunk] + sealed[head + 16 :],
    ):
        with pytest.raises(KitDamaged, match="kit"):
            age.unseal(wrong, "pass word", "kit")


def test_what_would_take_all_memory_is_refused() -> None:
    """A file may ask for any N."""
    sealed = age.seal(b"", "pass word", work=WORK).replace(b" 10\n", b" 30\n", 1)
    with pytest.raises(KitDamaged, match=r"N = 2\^30: expected 2\^20 at most"):
        age.unseal(sealed, "pass word", "kit")
