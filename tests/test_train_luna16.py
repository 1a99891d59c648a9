"""Scans in LUNA16's layout: search, preparation, and nodules at the right voxels."""

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from src.data.geometry import canonical, map_points, to_lps
from src.data.loader import read_scan
from src.data.lung_finder import find_lungs
from src.errors import BadConfig, BadScan
from src.train.cache import cached_scan, fill_cache
from src.train.luna16 import annotated_scans, list_scans
from src.train.scans import LungScan, load_lung_scan
from tests.training_data import chest, write_luna16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("luna16")
    write_luna16(folder)
    return folder


@pytest.fixture(scope="module")
def scans(folder: Path) -> list[LungScan]:
    found = list_scans(folder, None)
    fill_cache(found.training, folder / "cache", 2)
    return annotated_scans(found.training, folder, folder / "cache")


def test_nodules_lie_where_the_tables_say_in_scans_at_1_mm(scans: list[LungScan]) -> None:
    assert len(scans) == 3
    for scan in scans:
        assert scan.hu.dtype == np.int16
        assert scan.hu.shape == (128, 96, 112)  # 80 x 60 x 70 voxels of 1.6 mm
        assert len(scan.truths) == 2
        for (centre, diameter), (lps, true_diameter) in zip(scan.truths, chest()[1], strict=False):
            assert diameter == pytest.approx(true_diameter)
            np.testing.assert_allclose(to_lps(scan.affine, centre), lps, atol=1e-6)
            box = tuple(slice(int(c) - 1, int(c) + 3) for c in centre)
            assert scan.hu[box].mean() > -100  # a solid nodule in a lung of -850 HU
        assert [truth.diameter for truth in scan.excluded] == [10.0]


def test_the_stored_axis_order_makes_no_difference(scans: list[LungScan]) -> None:
    upright, upside_down, _ = scans
    np.testing.assert_allclose(upright.hu, upside_down.hu, atol=1)
    np.testing.assert_allclose(upright.affine, upside_down.affine, atol=1e-6)


def test_sampled_places_lie_in_the_lung(scans: list[LungScan]) -> None:
    scan = scans[0]
    assert 1000 < len(scan.lung) <= 20_000
    assert scan.lung.dtype == np.int16
    assert np.median(scan.hu[tuple(scan.lung.T)]) == pytest.approx(-850, abs=60)
    tissue = [np.mean(scan.hu[tuple(places.T)] > -500) for places in (scan.lung, scan.rim)]
    assert tissue[1] > tissue[0]


def test_preparation_is_done_once_and_again_when_a_scan_changes(tmp_path: Path) -> None:
    write_luna16(tmp_path, ["subset0"])
    (path,) = list_scans(tmp_path, None).training
    cache = tmp_path / "cache"
    (cache / "unrelated").mkdir(parents=True)

    def written() -> list[int]:
        fill_cache([path], cache, 1)
        return [file.stat().st_mtime_ns for file in sorted(cache.glob("*.np?"))]

    first = written()
    assert len(first) == 2
    assert written() == first
    (cache / f"{path.stem}.npz").unlink()  # as if it had been interrupted
    second = written()
    assert second != first
    path.touch()
    assert written() != second
    assert not list(cache.glob(".*"))


def test_voxels_stay_on_disk(folder: Path, scans: list[LungScan]) -> None:
    assert scans[0].voxels == folder / "cache" / f"{scans[0].name}.npy"
    assert isinstance(scans[0].hu, np.memmap)
    again = cached_scan(list_scans(folder, None).training[0], folder / "cache")
    np.testing.assert_array_equal(again.lung, scans[0].lung)


def test_subsets_are_held_out(folder: Path) -> None:
    found = list_scans(folder, 9, ["1.2.826.0.0"])
    assert [path.stem for path in found.training] == ["1.2.826.0.1"]
    assert [path.stem for path in found.held_out] == ["1.2.826.0.2"]


def test_every_tenth_scan_of_a_plain_folder_is_held_out(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"scan{number:02}.mha").touch()
    found = list_scans(tmp_path, 1)
    assert [path.stem for path in found.held_out] == ["scan01", "scan11"]
    assert len(found.training) == 10


def _lacks(folder: Path) -> None:
    (folder / "annotations.csv").unlink()


def _right_anterior(folder: Path) -> None:
    table = folder / "annotations.csv"
    lines = [line.split(",") for line in table.read_text().splitlines()]
    for cells in lines[1:]:
        cells[1:3] = [str(-float(cells[1]) + 500), str(-float(cells[2]))]
    table.write_text("\n".join(map(",".join, lines)))


@pytest.mark.parametrize(
    ("spoil", "message"), [(_lacks, "annotations.csv"), (_right_anterior, "lies outside that scan.*LPS millimetres")]
)
def test_invalid_tables_are_an_error(
    tmp_path: Path, folder: Path, scans: list[LungScan], spoil: Callable[[Path], None], message: str
) -> None:
    assert scans
    (tmp_path / "annotations.csv").write_text((folder / "annotations.csv").read_text())
    spoil(tmp_path)
    with pytest.raises(BadConfig, match=message):
        annotated_scans(list_scans(folder, None).training, tmp_path, folder / "cache")


@pytest.mark.parametrize(
    ("subset", "leave_out", "message"),
    [
        (5, [], "no scans of subset 5"),
        (None, ["other"], "no scan called other"),
        (9, ["1.2.826.0.0", "1.2.826.0.1"], "no scans for training"),
    ],
)
def test_invalid_choices_are_an_error(folder: Path, subset: int | None, leave_out: list[str], message: str) -> None:
    with pytest.raises(BadConfig, match=message):
        list_scans(folder, subset, leave_out)


def test_a_missing_folder_and_two_scans_of_one_name_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="there is no folder"):
        list_scans(tmp_path / "none", None)
    for subset in ("subset0", "subset1"):
        (tmp_path / subset).mkdir()
        (tmp_path / subset / "a.mhd").touch()
    with pytest.raises(BadConfig, match="same name"):
        list_scans(tmp_path, None)


def test_a_scan_without_lungs_is_an_error(tmp_path: Path) -> None:
    hu = np.full((40, 40, 40), 40, np.int16)
    hu[:, :10] = -1000  # air outside a body of solid tissue
    nib.save(nib.Nifti1Image(hu, np.eye(4)), tmp_path / "stone.nii")
    with pytest.raises(BadScan, match=r"stone\.nii: holds values from -1000 to 40"):
        load_lung_scan(tmp_path / "stone.nii")


def test_training_learns_in_the_lungs_that_the_pipeline_searches(folder: Path) -> None:
    path = list_scans(folder, None).training[0]
    scan, read = load_lung_scan(path), read_scan(path)
    lungs = find_lungs(*canonical(read.array, read.affine))
    index = map_points(np.linalg.inv(lungs.affine), map_points(scan.affine, scan.lung.astype(np.float64)))
    voxels = np.clip(np.rint(index).astype(int), 0, np.array(lungs.lung.shape) - 1)
    assert lungs.lung[tuple(voxels.T)].all()
    assert len(scan.lung) > 0.5 * 1e6 * lungs.litres  # voxels of 1 mm3


def test_opacities_are_ignored_where_a_scan_has_them(folder: Path) -> None:
    path = list_scans(folder, None).training[0]
    scan = load_lung_scan(path, has_opacities=True)
    assert scan.ignore is not None
    assert scan.ignore.shape == scan.hu.shape
    assert 0 < scan.ignore.mean() < 0.2
    marked = np.argwhere(scan.ignore)[:5].astype(float)
    assert not scan.certainly_false(marked).any()
