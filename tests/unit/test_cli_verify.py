"""What `holdfast verify` says."""

from __future__ import annotations

from cli.commands.verify import describe
from workers.maintenance.spec import Healing, Problem, VerifyReport


def test_a_note_does_not_change_the_verdict() -> None:
    """That backups go on is worth a line, and no fault: the repository is whole without a warning."""
    report = VerifyReport(repository="web1", site="a", packs=3, notes=["packs in no index yet: 2, as is usual"])
    lines = describe(report.to_json())
    assert (lines[0], lines[-1]) == ("note: packs in no index yet: 2, as is usual", "whole: no errors were found")


def test_a_warning_is_told_from_damage() -> None:
    """The verdict stands last, and says which of the two it is."""
    report = VerifyReport(repository="web1", site="a")
    report.add(Problem("warning", "data/", "packs in no index: 1; the next prune removes them"))
    assert describe(report.to_json())[-1] == "whole; 1 warning about what does no harm"
    report.add(Problem("error", "pack ab", "it is missing"))
    lines = describe(report.to_json())
    assert (lines[0], lines[-1]) == (
        "error: pack ab: it is missing",
        "DAMAGED: 1 error; 0 snapshots can't be restored whole",
    )


def test_what_was_healed_is_said_first() -> None:
    """Each object, the first twenty; what was not, and why; and a sum by where it came from."""
    healing = Healing(found=30, blobs_healed=2)
    for number in range(25):
        healing.heal(f"data/aa/{number}", "ams", 1024)
    healing.lose("data/bb/1", "ams has it damaged")
    lines = describe(VerifyReport(repository="web1", site="fra", healing=healing).to_json())
    assert lines[0] == "healed: data/aa/0"
    assert lines[20:23] == [
        "and 5 more",
        "not healed: data/bb/1: ams has it damaged",
        "healed: 25 objects (25 by ams, 2 blobs in new packs); 26 KB",
    ]
    assert lines[-1] == "whole: no errors were found"


def test_what_is_healed_at_last_is_lost_no_more() -> None:
    """Each round says anew what it could not heal."""
    healing = Healing(dry_run=True)
    for why in ("ams does not answer", "ams has none"):
        healing.lose("config", why)
    assert healing.lost == ["config: ams has none"]
    healing.heal("config", "ams")
    assert healing.lost == []
    assert describe(VerifyReport(healing=healing).to_json())[0] == "could be healed: config"
