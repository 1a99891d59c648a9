"""Detection on a whole real scan that was not used in training, from every file format."""

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk

from src.data.loader import read_scan
from src.inference.main import main

Point = npt.NDArray[np.float64]
OTHER_MARKS = 1  # at most this many marks above the default threshold
SAME_PLACE = 0.5  # mm


@pytest.fixture(scope="module")
def truth(shared_data: Path) -> tuple[Point, float]:
    """The nodule's centre (LPS, mm) and radius (mm)."""
    with (shared_data / "lidc-idri-0001.truth.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    return np.array([float(row[f"coord{axis}"]) for axis in "XYZ"]), float(row["diameter_mm"]) / 2


def _marks(scan: Path, output: Path) -> list[Point]:
    assert main(["--checkpoint", "checkpoints/best_model.pth", "--input", str(scan), "--output", str(output)]) == 0
    report = json.loads(next(output.glob("*_detections.json")).read_text())
    return [np.array(found["coordinates_lps"]) for found in report["detections"]]


@pytest.fixture(scope="module")
def marks(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Point]:
    """The findings in the DICOM series, strongest first."""
    return _marks(shared_data / "lidc-idri-0001", tmp_path_factory.mktemp("dicom"))


def test_the_nodule_is_the_strongest_of_few_marks(marks: list[Point], truth: tuple[Point, float]) -> None:
    centre, radius = truth
    assert np.linalg.norm(marks[0] - centre) < radius
    assert len(marks) <= 1 + OTHER_MARKS


@pytest.mark.parametrize("kind", ["mhd", "turned nifti"])
def test_other_formats_of_the_scan_give_the_same_place(
    kind: str, marks: list[Point], shared_data: Path, tmp_path: Path
) -> None:
    scan = read_scan(shared_data / "lidc-idri-0001")
    image = nibabel.Nifti1Image(scan.array, scan.affine)
    if kind == "mhd":
        path = tmp_path / "scan.mhd"
        nibabel.save(image, tmp_path / "straight.nii")
        sitk.WriteImage(sitk.ReadImage(tmp_path / "straight.nii"), path)
    else:
        path = tmp_path / "scan.nii.gz"
        nibabel.save(image.as_reoriented([[2, -1], [0, 1], [1, -1]]), path)
    again = _marks(path, tmp_path / "results")
    assert np.linalg.norm(again[0] - marks[0]) < SAME_PLACE
