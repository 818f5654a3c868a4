"""A kit in parts: any two of three open it, one alone does not."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from shared.kit import parts
from shared.kit.errors import KitDamaged, WrongParts
from tests.support.tools import age as stock_age
from tests.unit.test_kit_age import on_a_terminal

PLAIN = b"all that matters" * 100


@pytest.fixture(scope="module")
def three() -> dict[str, bytes]:
    """The parts of one kit, by the names of their files."""
    return {f"part-{number}": text.encode() for number, text in parts.split(PLAIN, 2, 3).items()}


def test_any_two_of_three_open_it(three: dict[str, bytes]) -> None:
    """Whichever, and all three, the last one first."""
    for names in [*itertools.combinations(three, 2), tuple(reversed(three))]:
        assert parts.join({name: three[name] for name in names}) == PLAIN


def test_one_alone_is_not_enough(three: dict[str, bytes]) -> None:
    """Nor twice the same."""
    for given in ({"a": three["part-1"]}, {"a": three["part-1"], "b": three["part-1"]}):
        with pytest.raises(WrongParts, match="2 different parts of 3 open this kit, and there are 1: a is part 1"):
            parts.join(given)


def test_a_share_is_no_part_of_the_password(three: dict[str, bytes]) -> None:
    """Each is as long as the password, differs from the others, and opens nothing."""
    shares = [parts.parse(data, name).share for name, data in three.items()]
    assert len({*shares}) == 3
    text = three["part-1"].decode()
    assert [share.hex() in text for share in shares] == [True, False, False]


def test_parts_of_different_kits_are_told(three: dict[str, bytes]) -> None:
    """By the line that names the kit."""
    other = parts.split(PLAIN, 2, 3)[2].encode()
    with pytest.raises(WrongParts, match="part-1 and other are parts of different kits"):
        parts.join({"part-1": three["part-1"], "other": other})


def test_damage_of_one_part_is_mended_by_the_other(three: dict[str, bytes]) -> None:
    """Each has all of the kit; where both are damaged it says so; a damaged head is told."""
    one, two = (re.sub(rb"(?<=\n)[A-Za-z0-9+/=]+(?=\n-----END)", b"AAAA", three[f"part-{number}"]) for number in "12")
    assert parts.join({"one": one, "part-2": three["part-2"]}) == PLAIN
    assert parts.join({"part-2": three["part-2"], "one": one}) == PLAIN
    with pytest.raises(KitDamaged, match="two"):
        parts.join({"one": one, "two": two})
    with pytest.raises(KitDamaged, match="one is no part of a kit, or is damaged"):
        parts.join({"one": three["part-1"].replace(b"share: 1-", b"share: 2-"), "two": two})


def test_stock_tools_open_it_by_the_words_of_a_part(three: dict[str, bytes], tmp_path: Path) -> None:
    """`ssss-combine` gives the password from two shares, `sed` and `age` do the rest."""
    text = three["part-3"].decode()
    beside = os.path.join(os.path.dirname(stock_age()), "ssss-combine")
    combine = beside if os.path.exists(beside) else str(shutil.which("ssss-combine"))
    words = re.search(r"ssss-combine (-t 2 -x -D)\n", text)
    assert words is not None
    shares = "".join(re.findall(r"^share: (.*\n)", text + three["part-1"].decode(), re.MULTILINE))
    said = subprocess.run([combine, *words[1].split()], input=shares, capture_output=True, text=True, check=True)
    password = re.findall(r"[0-9a-f]{32}", said.stderr)[-1]
    (tmp_path / "part").write_bytes(three["part-3"])
    cut = re.search(r"(sed -n '.*?') THIS-FILE > kit\.age", text)
    assert cut is not None
    subprocess.run(f"{cut[1]} part > kit.age", shell=True, cwd=tmp_path, check=True)  # noqa: S602 - as it is printed
    out = str(tmp_path / "out")
    assert on_a_terminal(stock_age(), "-d", "-o", out, str(tmp_path / "kit.age"), answers=[password]) == 0
    assert Path(out).read_bytes() == PLAIN
