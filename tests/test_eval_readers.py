"""The agreement of two readers, from their reviewed reports."""

import json
from pathlib import Path
from typing import Any

import pytest

from src.errors import BadConfig
from src.eval.readers import agreement, kappa, main

YES, NO = "accepted", "rejected"


def save(folder: Path, name: str, verdicts: dict[str, str | None], added: dict[str, Any] | None = None) -> None:
    """Write a reviewed report. `verdicts` maps findings to verdicts, `added` maps nodules to (point, diameter)."""
    folder.mkdir(exist_ok=True)
    nodules = [{"finding": k, "coordinates_lps": p, "diameter_mm": d} for k, (p, d) in (added or {}).items()]
    review = {"findings": [{"finding": k, "verdict": v} for k, v in verdicts.items()], "added": nodules}
    report = {"scan_id": name, "timestamp": "now", "metadata": {"input_sha256": name}, "review": review}
    (folder / f"{name}_reviewed.json").write_text(json.dumps(report))


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ((20, 15, 5, 10), 0.4),  # a textbook example: 35 of 50 agree, 25 are expected by chance
        ((5, 5, 0, 0), 1.0),
        ((0, 0, 5, 5), -1.0),
        ((7, 0, 0, 0), None),
        ((0, 0, 0, 0), None),
    ],
)
def test_kappa_is_cohens_kappa(table: tuple[int, int, int, int], expected: float | None) -> None:
    assert kappa(*table) == (None if expected is None else pytest.approx(expected))


def test_verdicts_are_compared_for_each_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    save(one, "a", {"1": YES, "2": NO, "3": YES, "4": YES, "c1": YES, "5": None})
    save(other, "a", {"1": YES, "2": NO, "3": NO, "c1": YES, "5": None, "6": NO})
    save(one, "b", {"1": NO})
    save(other, "b", {"1": YES})
    save(other, "c", {"1": YES})
    found = agreement(one, other)
    assert (found.scans, found.both_accepted, found.both_rejected) == (2, 2, 1)
    assert (found.one_accepted, found.other_accepted, found.read_by_one_only) == (1, 1, 2)
    assert found.share == pytest.approx(3 / 5)
    assert main(["--one", str(one), "--other", str(other)]) == 0
    assert json.loads(capsys.readouterr().out) == found._asdict()


def test_added_nodules_are_matched_within_their_radius(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    mine = {"a1": ((0, 0, 0), 12.0), "a2": ((50, 0, 0), None), "a3": ((90, 0, 0), 6.0), "a4": ((150, 0, 0), 6.0)}
    theirs = {"a1": ((0, 5.9, 0), 4.0), "a2": ((50, 3.1, 0), None), "a3": ((0, -5, 0), 4.0), "a4": ((150, 0, 0), 6.0)}
    save(one, "a", {"a1": YES}, mine)
    save(other, "a", {"a4": NO}, theirs)
    found = agreement(one, other)
    assert (found.added_by_both, found.added_by_one, found.added_by_other) == (1, 3, 2)
    assert found.read_by_one_only == 0


def test_folders_that_cannot_be_compared_are_refused_with_the_reason(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    save(one, "a", {})
    other.mkdir()
    with pytest.raises(BadConfig, match="holds no"):
        agreement(one, other)
    save(other, "b", {})
    with pytest.raises(BadConfig, match="no report in common"):
        agreement(one, other)
    (other / "x_reviewed.json").write_text('{"scan_id": "x"}')
    with pytest.raises(BadConfig, match=r"x_reviewed.* is no reviewed report"):
        agreement(one, other)
