"""What `holdfast verify` says."""

from __future__ import annotations

from cli.commands.verify import describe
from workers.maintenance.spec import Problem, VerifyReport


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
