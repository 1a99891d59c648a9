"""Completeness of a study, choice of the series, and the content of the spool."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from src.errors import BadScan
from src.pacs.completeness import arrivals, has_arrived, shortfalls
from src.pacs.series_choice import SeriesCandidate, choose, choose_series, verdict
from src.pacs.settings import Completeness, SeriesRules
from src.pacs.spool import Spool
from tests.dicom_files import change
from tests.pacs import series_of

RULES = Completeness(quiet_seconds=30, interrupted_seconds=900)
GOOD = SeriesCandidate("1.2", "CT", "CHEST", ("ORIGINAL", "PRIMARY", "AXIAL"), 1.25, "STANDARD", 200, 3)


def _study(folder: Path, count: int, *, age: float, marker: bool = False, **stated: int) -> Path:
    series = folder / "study" / "1.2"
    series.mkdir(parents=True)
    for one in series_of(edit=change(**stated) if stated else None)[:count]:
        one.save_as(series / f"{one.SOPInstanceUID}.dcm", enforce_file_format=True)
    if marker:
        (series / ".open-x").touch()
    os.utime(series, (time.time() - age,) * 2)
    return folder / "study"


@pytest.mark.parametrize(
    ("count", "age", "marker", "stated", "arrived", "short"),
    [
        (5, 10, False, {}, False, ""),
        (5, 31, False, {}, True, ""),
        (5, 31, True, {}, False, "interrupted after 5"),
        (5, 901, True, {}, True, "interrupted after 5"),
        (5, 31, False, {"NumberOfSeriesRelatedInstances": 6}, False, "only 5 of the 6"),
        (5, 901, False, {"NumberOfSeriesRelatedInstances": 6}, True, "only 5 of the 6"),
        (5, 31, True, {"NumberOfSeriesRelatedInstances": 5}, True, ""),
        (5, 0, True, {"NumberOfStudyRelatedInstances": 5}, True, ""),
        (5, 0, False, {"NumberOfStudyRelatedInstances": 6}, False, ""),
    ],
)
def test_a_study_is_complete_after_its_quiet_time_or_with_all_instances(
    tmp_path: Path,
    *,
    count: int,
    age: float,
    marker: bool,
    stated: dict[str, int],
    arrived: bool,
    short: str,
) -> None:
    series = arrivals(_study(tmp_path, count, age=age, marker=marker, **stated))
    assert has_arrived(series, RULES, time.time()) == arrived
    reasons = list(shortfalls(series).values())
    assert len(reasons) == bool(short)
    assert all(short in reason for reason in reasons)


@pytest.mark.parametrize(
    ("change_of", "rules", "reason"),
    [
        ({}, {}, None),
        ({"modality": "PT"}, {}, "modality PT"),
        ({"modality": ""}, {}, "modality missing"),
        ({"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")}, {}, "LOCALIZER"),
        ({"image_type": ("DERIVED", "SECONDARY", "MPR")}, {}, "DERIVED or MPR or SECONDARY"),
        ({"body_part": "HEAD"}, {}, "body part HEAD"),
        ({"body_part": ""}, {}, None),
        ({"body_part": ""}, {"body_part_missing": False}, "body part missing"),
        ({"thickness": 3.0}, {}, None),
        ({"thickness": 3.01}, {}, "3.01 mm, not 0 to 3"),
        ({"thickness": None}, {}, None),
        ({"thickness": None}, {"slice_thickness_missing": False}, "slice thickness missing"),
        ({"slices": 20}, {}, None),
        ({"slices": 19}, {}, "19 slices"),
        ({"slices": 5001}, {}, "5001 slices"),
    ],
)
def test_unsuitable_series_are_refused(change_of: dict[str, Any], rules: dict[str, Any], reason: str | None) -> None:
    found = verdict(GOOD._replace(**change_of), SeriesRules.model_validate(rules))
    assert found is None if reason is None else reason in str(found)


SOFT = ("B3", "STANDARD")


@pytest.mark.parametrize(
    ("better", "worse", "rules"),
    [
        ({}, {"body_part": ""}, {}),
        ({"kernel": "B30F"}, {"kernel": "B70F", "thickness": 0.6}, {"prefer_kernel": SOFT}),
        ({"kernel": "B70F"}, {"kernel": "", "number": 1}, {"prefer_kernel": ("B3", "B7")}),
        ({"thickness": 1.0}, {"thickness": 2.5, "slices": 900}, {}),
        ({"thickness": 2.5}, {"thickness": None}, {}),
        ({"slices": 300}, {"slices": 299}, {}),
        ({"slices": 300, "thickness": 2.0}, {"thickness": 1.0}, {"prefer": ("slices",)}),
        ({"number": 2}, {"number": 3}, {}),
    ],
)
def test_the_better_series_is_chosen(better: dict[str, Any], worse: dict[str, Any], rules: dict[str, Any]) -> None:
    one, other = GOOD._replace(uid="better", **better), GOOD._replace(uid="worse", **worse)
    for order in ([one, other], [other, one]):
        best, said = choose(order, SeriesRules.model_validate(rules))
        assert best == one
        assert [line["chosen"] for line in said] == [True, False]


def test_damaged_files_affect_only_their_series(tmp_path: Path) -> None:
    for name in ("1.1", "1.2"):
        (tmp_path / name).mkdir()
        for one in series_of():
            one.save_as(tmp_path / name / f"{one.SOPInstanceUID}.dcm", enforce_file_format=True)
    next((tmp_path / "1.1").iterdir()).write_bytes(b"no DICOM")
    best, said = choose_series([tmp_path / "1.1", tmp_path / "1.2"], SeriesRules(slices=(4, 99)))
    assert best == tmp_path / "1.2"
    assert "damaged" in said[-1]["refused"]


def test_the_spool_survives_a_restart_and_remembers_which_series_were_run(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for number in range(3):
        spool.add(b"content", "1.2", "1.2.1", f"1.2.1.{number}", "x")
    spool.close("x", set())
    taken = Spool(tmp_path).take("1.2")
    assert not spool.waiting()
    again = Spool(tmp_path)
    assert again.taken() == [taken]
    assert again.attempts(taken) == (0, 0)
    again.begin(taken)
    again.stop(taken, failed=True)
    again.begin(taken)
    again.stop(taken, failed=False)
    again.begin(taken)
    assert Spool(tmp_path).attempts(taken) == (1, 1)
    assert not again.was_run(taken / "1.2.1")
    again.record_run(taken / "1.2.1")
    assert again.was_run(taken / "1.2.1")
    spool.add(b"content", "1.2", "1.2.1", "1.2.1.9", "y")
    assert not again.waiting()  # while the study is being run
    again.finish(taken)
    [late] = again.waiting()
    assert not again.was_run(late / "1.2.1")


def test_a_complete_association_replaces_only_aborted_ones(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for association in ("broken", "live", "good"):
        spool.add(b"content", "1.2", "1.2.1", "1.2.1.1", association)
    spool.close("good", {"live"})
    assert [marker.name for marker in (tmp_path / "incoming/1.2/1.2.1").glob(".open-*")] == [".open-live"]


@pytest.mark.parametrize("uid", ["", "..", "1.2/3", "a", "1..2", "1." * 40, "1.2\n"])
def test_no_uid_names_a_path_outside_the_spool(tmp_path: Path, uid: str) -> None:
    with pytest.raises(BadScan, match="malformed"):
        Spool(tmp_path).add(b"content", uid, "1.2", "1.2", "x")
    assert not list((tmp_path / "incoming").iterdir())
