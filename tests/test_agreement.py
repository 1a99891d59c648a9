"""The comparison of measured nodules with readers in `benchmarks.measurement --crops`."""

from pathlib import Path

import pytest

from benchmarks.agreement import Reference, agreement, between_readers, texture_name
from src.measurement.at_point import extract_properties
from src.train.triage.lidc import RatedNodule, ReaderOutline
from src.types import Properties
from tests.synthetic_nodules import Case, draw_case


def _nodule(diameters: list[float], textures: list[float]) -> RatedNodule:
    outlines = (
        ReaderOutline(
            (0.0, 0.0, 0.0), diameter, diameter + 1, diameter, diameter, diameter, calcified=False, ratings=ratings
        )
        for diameter, ratings in zip(diameters, ({"texture": texture} for texture in textures), strict=True)
    )
    return RatedNodule("P1", tuple(outlines))


@pytest.fixture(scope="module")
def measured() -> Properties:
    case = Case(10.0)
    scan, centre, _ = draw_case(case)
    return extract_properties(scan, centre, 10.0, case.spacing)


@pytest.mark.parametrize(
    ("texture", "name"),
    [(1.0, "ground-glass"), (1.5, "part-solid"), (3.0, "part-solid"), (4.5, "part-solid"), (5.0, "solid")],
)
def test_only_the_extremes_of_the_texture_scale_are_solid_or_ground_glass(texture: float, name: str) -> None:
    assert texture_name(texture) == name


def test_one_outlying_reader_does_not_change_the_texture() -> None:
    assert Reference.of_readers(_nodule([6.0, 8.0, 13.0], [5.0, 5.0, 1.0])) == (9.0, 5.0)


def test_a_constant_bias_is_separated_and_a_failed_segmentation_counts_as_missed(
    tmp_path: Path, measured: Properties, capsys: pytest.CaptureFixture[str]
) -> None:
    failed: Properties = {**measured, "effective_diameter_mm": None}
    ours = measured["effective_diameter_mm"]
    assert ours is not None
    readers = [ours + 2, ours + 2, ours + 2, ours + 2, 12.0, 2 * ours]
    found = [measured, measured, measured, measured, failed, measured]
    agreement([Reference(diameter, 5.0) for diameter in readers], found, tmp_path / "plot.png")
    text = capsys.readouterr().out
    assert "6 solid nodules: median difference -2.00 mm; without it a median error of 0.00 mm, and 4 (67 %)" in text
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_each_reader_of_a_solid_nodule_is_compared_with_the_other_readers(capsys: pytest.CaptureFixture[str]) -> None:
    solid, glass = _nodule([10.0, 10.0, 14.0], [5.0, 5.0, 5.0]), _nodule([10.0, 20.0], [1.0, 1.0])
    between_readers([solid, glass, _nodule([9.0], [5.0])])
    assert "3 solid nodules: median difference -2.00 mm" in capsys.readouterr().out
