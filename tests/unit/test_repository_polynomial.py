"""The chunker polynomial that restic checks on load."""

from __future__ import annotations

import pytest

from shared.repository import polynomial


def test_a_known_polynomial() -> None:
    """The one of restic's own chunker tests is irreducible; with one coefficient more it is not."""
    assert polynomial.is_irreducible(0x3DA3358B4DC173)
    assert not polynomial.is_irreducible(0x3DA3358B4DC173 ^ 2)


def _divides(d: int, p: int) -> bool:
    while p.bit_length() >= d.bit_length():
        p ^= d << (p.bit_length() - d.bit_length())
    return p == 0


def test_products_are_reducible() -> None:
    """x, x + 1 and a product of two factors whose degrees sum to 53 are found out."""

    def times(a: int, b: int) -> int:
        out = 0
        while b:
            out ^= a if b & 1 else 0
            a, b = a << 1, b >> 1
        return out

    square_of_degree_26 = times((1 << 26) | 0b1000111, (1 << 27) | 0b100111)
    assert square_of_degree_26.bit_length() == 54
    assert [polynomial.is_irreducible(p) for p in (square_of_degree_26, 1 << 53, (1 << 53) | 1)] == [False] * 3


@pytest.mark.parametrize("p", [0, 1, 2, 0b111, 0x3DA3358B4DC173 >> 1, 0x3DA3358B4DC173 << 1])
def test_only_degree_53_will_do(p: int) -> None:
    """Irreducible or not."""
    assert not polynomial.is_irreducible(p)


def test_drawing_takes_the_first_that_is_irreducible() -> None:
    """Numbers are cut to degree 53 and made odd; small factors are absent; without any, a ValueError."""
    numbers = iter(range(0x123456789ABCDE, 1 << 63, 0x1F3D5B79))
    drawn = polynomial.draw(numbers)
    assert (drawn.bit_length(), drawn & 1) == (54, 1)
    assert polynomial.is_irreducible(drawn)
    assert not any(_divides(d, drawn) for d in range(2, 1 << 12))
    assert polynomial.draw([0x3DA3358B4DC173 | (0b1010101 << 54)]) == 0x3DA3358B4DC173
    with pytest.raises(ValueError, match="no irreducible polynomial"):
        polynomial.draw([0, 2])
