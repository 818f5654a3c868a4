"""Sealing against published vectors, and against every kind of tampering."""

from __future__ import annotations

import os

import pytest

from shared.repository.crypto import OVERHEAD, MasterKey, Sealer
from shared.repository.errors import Damaged

KEY = MasterKey.from_bytes(bytes(range(1, 65)))
GOLDEN = "000102030405060708090a0b0c0d0e0f85056c182e208b36f8b90e8fb8fdf3ea0dce42a5dbb94f98"


@pytest.mark.parametrize(
    ("message", "r", "k", "nonce", "tag"),
    [
        (
            "f3f6",
            "851fc40c3467ac0be05cc20404f3f700",
            "ec074c835580741701425b623235add6",
            "fb447350c4e868c52ac3275cf9d4327e",
            "f4c633c3044fc145f84f335cb81953de",
        ),
        (
            "",
            "a0f3080000f46400d0c7e9076c834403",
            "75deaa25c09f208e1dc4ce6b5cad3fbf",
            "61ee09218d29b0aaed7e154a2c5509cc",
            "dd3fab2251f11ac759f0887129cc2ee7",
        ),
        (
            "663cea190ffb83d89593f3f476b6bc24d7e679107ea26adb8caf6652d0656136",
            "48443d0bb0d21109c89a100b5ce2c208",
            "6acb5f61a7176dd320c5c1eb2edcdc74",
            "ae212a55399729595dea458bc621ff0e",
            "0ee1c16bb73f0f4fd19881753c01cdbe",
        ),
    ],
)
def test_the_tag_is_poly1305_aes(message: str, r: str, k: str, nonce: str, tag: str) -> None:
    """The vectors of Bernstein's paper, appendix B, are accepted as ciphertext and tag."""
    sealer = Sealer(MasterKey(b"\x01" * 32, bytes.fromhex(k), bytes.fromhex(r)))
    sealed = bytes.fromhex(nonce + message + tag)
    assert len(sealer.unseal(sealed)) == len(sealed) - OVERHEAD


def test_the_cipher_is_aes_256_in_counter_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """NIST SP 800-38A, F.5.5: the random IV is the whole counter block."""
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    counter = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    plain = bytes.fromhex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51")
    expected = "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
    sealer = Sealer(MasterKey(key, b"\x02" * 16, b"\x03" * 16))
    monkeypatch.setattr(os, "urandom", lambda size: counter[:size])
    sealed = sealer.seal(plain)
    assert (sealed[:16], sealed[16:-16].hex()) == (counter, expected)


def test_sealed_bytes_are_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One IV and one key give these very bytes, so a library that changes its mind shows here."""
    monkeypatch.setattr(os, "urandom", lambda size: bytes(range(size)))
    sealed = Sealer(KEY).seal(b"holdfast")
    assert sealed.hex() == GOLDEN


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 4096, 100_001])
def test_what_is_sealed_is_unsealed(size: int) -> None:
    """32 bytes are added, whatever the size; bytes, bytearray and memoryview do alike."""
    plain = os.urandom(size)
    sealer = Sealer(KEY)
    for kind in (bytes, bytearray, memoryview):
        sealed = sealer.seal(kind(plain))
        assert (len(sealed), Sealer(KEY).unseal(kind(sealed))) == (size + OVERHEAD, plain)


@pytest.mark.parametrize("size", [0, 1, 17, 4096])
def test_unsealed_into_a_buffer_that_is_used_again(size: int) -> None:
    """As many bytes as the content has are written, to the front; none where the tag does not match."""
    plain = os.urandom(size)
    room = bytearray(b"before" * 1000)
    sealed = Sealer(KEY).seal(plain)
    with pytest.raises(Damaged):
        Sealer(KEY).unseal_into(sealed[:-1] + bytes([sealed[-1] ^ 1]), memoryview(room))
    assert room == b"before" * 1000
    assert Sealer(KEY).unseal_into(sealed, memoryview(room)) == size
    assert room == plain + (b"before" * 1000)[size:]


def test_two_seals_of_one_content_differ() -> None:
    """The IV is drawn anew each time."""
    sealer = Sealer(KEY)
    assert len({sealer.seal(b"same") for _ in range(50)}) == 50


def test_any_flipped_bit_is_found() -> None:
    """IV, ciphertext and tag are all covered: there is no byte that may change."""
    sealed = Sealer(KEY).seal(b"some content")
    for at in range(len(sealed)):
        for bit in (0x01, 0x80):
            torn = bytearray(sealed)
            torn[at] ^= bit
            with pytest.raises(Damaged, match="authentication tag"):
                Sealer(KEY).unseal(torn)


@pytest.mark.parametrize("cut", [1, 12, 43])
def test_cut_bytes_are_found(cut: int) -> None:
    """Bytes missing at the end never verify; below 32 the message says what was expected and got."""
    sealed = Sealer(KEY).seal(b"some content")[:-cut]
    with pytest.raises(Damaged, match="tag does not match" if len(sealed) >= 32 else "at least 32 bytes, got 1"):
        Sealer(KEY).unseal(sealed)


def test_another_key_opens_nothing() -> None:
    """Each of the key's three parts counts: k and r for the tag, and the tag is all that is asked."""
    sealed = Sealer(KEY).seal(b"some content")
    for other in (MasterKey(KEY.encrypt, b"\x09" * 16, KEY.r), MasterKey(KEY.encrypt, KEY.k, b"\x09" * 16)):
        with pytest.raises(Damaged, match="tag does not match"):
            Sealer(other).unseal(sealed)


def test_an_iv_of_zeros_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even with a right tag; and when sealing, such an IV is drawn again."""
    draws = [bytes(16), bytes(16), b"\x07" * 16]
    sealer = Sealer(KEY)
    monkeypatch.setattr(os, "urandom", lambda _: draws.pop(0))
    assert sealer.seal(b"x")[:16] == b"\x07" * 16
    out = bytearray(33)
    monkeypatch.setattr("shared.repository.crypto._ZERO_IV", b"never")
    monkeypatch.setattr(os, "urandom", lambda _: bytes(16))
    sealer.seal_into(b"x", memoryview(out), 0)
    monkeypatch.undo()
    with pytest.raises(Damaged, match="tag does not match"):
        Sealer(KEY).unseal(out)


@pytest.mark.parametrize("part", ["encrypt", "k", "r"])
def test_a_key_of_zeros_is_refused(part: str) -> None:
    """Uninitialised memory is no key."""
    parts = {"encrypt": b"\x01" * 32, "k": b"\x01" * 16, "r": b"\x01" * 16}
    parts[part] = bytes(len(parts[part]))
    with pytest.raises(Damaged, match="all zeros"):
        MasterKey(**parts)


def test_a_key_of_another_size_is_refused() -> None:
    """The message says which sizes were expected."""
    with pytest.raises(Damaged, match=r"expected parts of \(32, 16, 16\) bytes, got \(31, 16, 16\)"):
        MasterKey(b"\x01" * 31, b"\x01" * 16, b"\x01" * 16)


def test_the_master_key_survives_its_json() -> None:
    """As a key file holds it; base64 with anything foreign in it is refused."""
    assert MasterKey.from_json(KEY.to_json()) == KEY
    for bad in (b"", b"[]", b"{}", b'{"mac":{"k":"!","r":"AA=="},"encrypt":"AA=="}', b'{"mac":1,"encrypt":2}'):
        with pytest.raises(Damaged, match="master key"):
            MasterKey.from_json(bad)


def test_a_key_is_never_printed() -> None:
    """Neither repr nor str shows a byte of it."""
    assert repr(KEY) == "MasterKey()"
