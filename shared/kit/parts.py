"""A kit in parts, of which some open it: 2 of 3.

Each part is a text by itself: the whole kit, sealed as ever, and one share of its password by Shamir's scheme over
GF(2^128). Fewer shares than are needed are as likely under every password, so they tell nothing; the password is 128
random bits and nobody's but the shares'. The shares are those of the tool ssss (`ssss-combine -x -D`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from Crypto.Protocol.SecretSharing import Shamir

from shared.kit import age
from shared.kit.errors import KitDamaged, WrongParts

_SECRET = 16  # bytes
_FIRST = re.compile(r"Holdfast recovery kit, part (\d{1,2}) of (\d{1,2}); any (\d{1,2}) open it\.\n")
_LINES = re.compile(r"^kit: ([0-9a-f]{16})\nshare: (\d{1,2})-([0-9a-f]{32})$", re.MULTILINE)
BEGINS = b"Holdfast recovery kit, part "
_TEXT = """\
Holdfast recovery kit, part {number} of {parts}; any {needed} open it.
Keep each part with another person or in another place: one alone tells nothing.
kit: {id}
share: {number}-{share}

With Holdfast:     holdfast kit open {names} --to DIRECTORY
Without it:        ssss-combine -t {needed} -x -D
                   asks for {needed} shares and prints the password of the text below, in lower case; then
                   sed -n '/^-----BEGIN/,$p' THIS-FILE > kit.age && age -d kit.age > kit.tar.gz && tar xzf kit.tar.gz

{armored}"""


@dataclass(frozen=True, slots=True)
class Part:
    """One part taken apart."""

    name: str  # of its file, for messages
    kit: str
    number: int
    of: int
    needed: int
    share: bytes = field(repr=False)
    text: str = field(repr=False)


def split(plain: bytes, needed: int, parts: int) -> dict[int, str]:
    """The texts of all parts, by their numbers."""
    secret, kit = os.urandom(_SECRET), os.urandom(8).hex()
    armored = age.armor(age.seal(plain, secret.hex(), work=age.STRONG))
    names = " ".join(["PART"] * needed)
    return {
        number: _TEXT.format(
            number=number, parts=parts, needed=needed, id=kit, share=share.hex(), names=names, armored=armored
        )
        for number, share in Shamir.split(needed, parts, secret, ssss=True)
    }


def parse(data: bytes, name: str) -> Part:
    """Take a part apart. Raises KitDamaged."""
    text = data.decode("ascii", "replace").replace("\r\n", "\n")
    first, lines = _FIRST.match(text), _LINES.search(text)
    if first is None or lines is None or lines[2] != first[1]:
        raise KitDamaged(f"{name} is no part of a kit, or is damaged", hint="Take another part, or a copy of this one")
    number, of, needed = (int(one) for one in first.groups())
    return Part(name, lines[1], number, of, needed, bytes.fromhex(lines[3]), text)


def join(given: Mapping[str, bytes]) -> bytes:
    """What was split, from parts by the names of their files. Raises WrongParts, KitDamaged."""
    parts = [parse(data, name) for name, data in given.items()]
    first = parts[0]
    for other in parts[1:]:
        if other.kit != first.kit:
            raise WrongParts(
                f"{first.name} and {other.name} are parts of different kits ({first.kit} and {other.kit})",
                hint="Take parts whose lines `kit:` are the same",
            )
    numbers = {one.number: one for one in parts}
    if len(numbers) < first.needed:
        few = ", ".join(f"{one.name} is part {one.number}" for one in parts)
        raise WrongParts(
            f"{first.needed} different parts of {first.of} open this kit, and there are {len(numbers)}: {few}",
            hint="Name the files of more parts, one after the other",
        )
    used = list(numbers.values())[: first.needed]
    password = Shamir.combine([(one.number, one.share) for one in used], ssss=True).hex()
    for one in parts[:-1]:
        try:
            return age.unseal(age.unarmor(one.text, one.name), password, one.name)
        except KitDamaged:
            continue  # each part has all of it
    return age.unseal(age.unarmor(parts[-1].text, parts[-1].name), password, parts[-1].name)
