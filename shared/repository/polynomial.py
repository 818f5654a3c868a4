"""The chunker polynomial that a repository's config must carry: irreducible over GF(2), of degree 53.

Holdfast does not chunk with it, but restic checks it on load and uses it for its own backups.
"""

from __future__ import annotations

from collections.abc import Iterable

DEGREE = 53


def draw(numbers: Iterable[int]) -> int:
    """The first of these random 64-bit numbers that, cut to degree 53 and made odd, is irreducible."""
    for number in numbers:
        candidate = (number & ((1 << (DEGREE + 1)) - 1)) | (1 << DEGREE) | 1
        if is_irreducible(candidate):
            return candidate
    raise ValueError("no irreducible polynomial among the numbers given")


def is_irreducible(p: int) -> bool:
    """Whether `p`, of degree 53, has no factors over GF(2).

    53 is prime, so it is enough that x^(2^53) = x mod p, and gcd(p, x^2 - x) = 1.
    """
    if p.bit_length() - 1 != DEGREE or _gcd(p, 0b110) != 1:
        return False
    power = 0b10
    for _ in range(DEGREE):
        power = _mod(_square(power), p)
    return power == 0b10


def _square(a: int) -> int:
    # Squaring over GF(2) spreads the bits: read in binary, written in base 4.
    return int(f"{a:b}", 4)


def _mod(a: int, p: int) -> int:
    while a.bit_length() >= p.bit_length():
        a ^= p << (a.bit_length() - p.bit_length())
    return a


def _gcd(a: int, b: int) -> int:
    while b:
        a, b = b, _mod(a, b)
    return a
