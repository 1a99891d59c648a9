"""The cubes of LUNA16's nodules: content, held-out patients, and the input of the second stage."""

from collections.abc import Callable
from pathlib import Path
from shutil import copy

import numpy as np
import pytest
import torch

from src.errors import BadConfig
from src.model.classifier import SIDE, CandidateNet
from src.train.candidates import CandidateBatches, Candidates, FalseMark, _trimmed_like, collect
from src.train.config import BackgroundScan, TrainConfig
from src.train.crops import Crop
from src.train.cubes import LABELS, VOXELS, load_cubes
from src.train.parallel import Workers
from src.train.second_stage import second_stage_loss
from src.train.sources import load_sources
from tests.training_data import tiny_config, write_crops, write_cubes, write_luna16


@pytest.fixture
def cube(tmp_path: Path) -> Crop:
    write_cubes(tmp_path)
    return load_cubes(tmp_path)[0]


def test_a_cube_has_x_first_and_its_hu_ratings_and_false_positives(cube: Crop) -> None:
    assert np.allclose(cube.centre, [23, 24, 25])
    assert [int(cube.hu[23, 24, 25]), int(cube.hu[2, 2, 2]), int(cube.hu[23, 24, 10])] == [40, -848, -544]
    assert (cube.diameter, cube.luna_diameter, cube.texture, cube.malignancy) == (10.0, 9.0, 4.5, 3.5)
    assert (cube.subset, cube.series_uid, cube.slice_spacing, cube.contrast) == (0, "1.2.0", 2.5, True)
    assert cube.other is not None
    assert cube.other[40, 24, 25]
    assert not cube.other[23, 24, 25]
    assert cube.lookalikes is not None
    assert cube.lookalikes.tolist() == [[23, 24, 10]]  # neither the one in the nodule nor the other nodule


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ((23, 24, 10), True),
        ((23, 24, 25), False),
        ((23, 24, 32), False),
        ((23, 24, 34), True),
        ((46, 24, 25), False),
        ((-3, 24, 25), False),
        ((49.4, 2, 2), True),
        ((49.6, 2, 2), False),
    ],
)
def test_only_a_mark_in_the_cube_and_3_mm_off_every_outline_is_false(
    cube: Crop, point: tuple[float, float, float], expected: bool
) -> None:
    assert cube.certainly_false(np.array([point], dtype=float)).tolist() == [expected]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "luna16_nodules.csv").unlink(), "must hold luna16_nodules.csv"),
        (lambda folder: (folder / "luna16_nodules_hu8_1.npy.xz").write_bytes(b"no"), "are damaged"),
        (lambda folder: write_table(folder, "crop_id", "id"), "lacks the column 'crop_id'"),
        (lambda folder: write_table(folder, ",10.0,", ",ten,"), "are damaged"),
        (lambda folder: copy(folder / VOXELS[0], folder / LABELS), "do not match"),
    ],
)
def test_missing_or_damaged_files_are_named(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    write_cubes(tmp_path)
    damage(tmp_path)
    with pytest.raises(BadConfig, match=message):
        load_cubes(tmp_path)


def write_table(folder: Path, old: str, new: str) -> None:
    table = folder / "luna16_nodules.csv"
    table.write_text(table.read_text().replace(old, new))


def both(folder: Path, **changes: object) -> TrainConfig:
    """A run on crops of patients a to e, one of them held out, and cubes of a, x and y in subsets 0, 0 and 8."""
    write_crops(folder / "data")
    write_cubes(folder / "data", ("a", "x", "y"), (0, 0, 8))
    data = folder / "data"
    values = {"data": data, "cubes": data, "train_backgrounds": (BackgroundScan(name="one"),)}
    return tiny_config(
        folder, luna16=None, luna16_validation_subset=None, validation_background="two", **{**values, **changes}
    )


def test_a_patient_held_out_in_one_source_is_held_out_in_all_and_cubes_replace_crops(tmp_path: Path) -> None:
    sources = load_sources(both(tmp_path), Workers(torch.device("cpu")))
    learnt, held_out = (
        {(crop.patient, crop.subset is not None) for crop in crops}
        for crops in (sources.crops, sources.validation.crops)
    )
    assert ("y", True) in held_out
    assert {("a", True), ("x", True)} <= learnt
    assert ("a", False) not in learnt | held_out
    assert not {patient for patient, _ in learnt} & {patient for patient, _ in held_out}


def test_patients_may_be_left_out(tmp_path: Path) -> None:
    sources = load_sources(both(tmp_path, leave_out_patients=("x",)), Workers(torch.device("cpu")))
    assert "x" not in {crop.patient for crop in sources.crops + sources.validation.crops}


def test_a_patient_of_a_held_out_scan_may_not_be_in_the_cubes(tmp_path: Path) -> None:
    names = write_luna16(tmp_path / "luna16")
    write_cubes(tmp_path / "cubes")
    write_table(tmp_path / "cubes", "1.2.0", names[-1])  # the scan of subset 9
    with pytest.raises(BadConfig, match="a would be in training and in validation"):
        load_sources(tiny_config(tmp_path, cubes=tmp_path / "cubes"), Workers(torch.device("cpu")))


def false_mark(point: tuple[float, float, float], *, ends: bool = True) -> FalseMark:
    return FalseMark(np.full((50, 50, 50), -848, np.int16), np.array(point), 0.5, ends=ends)


@pytest.mark.parametrize("point", [(5.0, 24.0, 44.0), (23.0, 24.0, 25.0), (48.0, 1.0, 25.0)])
def test_the_border_of_a_cube_does_not_reveal_a_nodule(cube: Crop, point: tuple[float, ...]) -> None:
    mark = false_mark(point)  # type: ignore[arg-type]
    hu, centre = _trimmed_like(cube, mark)
    assert hu[tuple(np.round(centre).astype(int))] == 40
    last = np.array(cube.hu.shape) - 1
    before, beyond = np.minimum(cube.centre, mark.point), np.minimum(last - cube.centre, last - mark.point)
    assert np.abs(centre - before).max() < 1
    assert np.abs(np.array(hu.shape) - 1 - centre - beyond).max() < 1


def test_a_batch_shows_nodules_in_the_middle_with_only_their_known_ratings(cube: Crop) -> None:
    found = Candidates([cube], [false_mark((10, 10, 10))], [])
    cubes, wanted, known = CandidateBatches(found, range(3), (-1000.0, 400.0), 0, 40)[1]
    assert cubes.shape == (40, 1, SIDE, SIDE, SIDE)
    is_nodule = wanted[:, 0] == 1
    assert 5 < int(is_nodule.sum()) < 35
    middle = SIDE // 2
    centre = cubes[:, 0, middle - 1 : middle + 1, middle - 1 : middle + 1, middle - 1 : middle + 1].mean(dim=(1, 2, 3))
    assert centre[is_nodule].min() > centre[~is_nodule].max()
    assert centre[is_nodule].median() > 0.5
    assert known[is_nodule].all()
    assert (known[~is_nodule] == torch.tensor([True, False, False, False])).all()
    assert np.allclose(wanted[is_nodule, 1:3], [2.5 / 4, 3.5 / 4])
    diameters = wanted[is_nodule, 3].exp()
    assert 8.0 <= float(diameters.min()) < float(diameters.max()) <= 13.0
    again = CandidateBatches(found, range(1, 2), (-1000.0, 400.0), 0, 40)[0]
    assert all(torch.equal(one, other) for one, other in zip(again, (cubes, wanted, known), strict=True))


class Marks(torch.nn.Module):
    """A detector with high confidence in dense voxels."""

    output_stride, multiple = 2, 16

    def __init__(self) -> None:
        super().__init__()
        self.nothing = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heat = torch.nn.functional.avg_pool3d(x, 5, 2, 2)
        return torch.cat([heat, torch.full_like(heat, 8.0), heat], dim=1)


def test_false_marks_are_the_detectors_marks_outside_the_nodule(cube: Crop) -> None:
    hu = cube.hu.copy()
    hu[5:10, 5:10, 5:10] = 300
    found = collect(Marks(), [Crop(**{**vars(cube), "hu": hu})], [], (-1000.0, 400.0))
    assert found.nodules[0].crop_id == "cube0"
    strongest = max(found.beside, key=lambda mark: mark.confidence)
    assert np.linalg.norm(strongest.point - 7) < 2
    assert all(cube.certainly_false(mark.point[None])[0] for mark in found.beside)


def test_unknown_ratings_add_no_loss() -> None:
    wanted = torch.tensor([[1.0, 0.5, 1.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    known = torch.tensor([[True] * 4, [True, False, False, False]])
    right = torch.tensor([[9.0, 0.0, 9.0, 2.0], [-9.0, 5.0, 5.0, 5.0]])
    wrong = right.clone()
    wrong[1, 1:] = -50
    assert float(second_stage_loss(right, wanted, known)) == float(second_stage_loss(wrong, wanted, known))
    wrong[1, 0] = 9
    assert float(second_stage_loss(wrong, wanted, known)) > float(second_stage_loss(right, wanted, known)) + 4


def test_the_output_for_a_cube_does_not_depend_on_its_batch() -> None:
    model = CandidateNet((8, 8, 8)).eval()
    cubes = torch.rand((3, 1, SIDE, SIDE, SIDE), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(model(cubes)[1:2], model(cubes[1:2]), atol=1e-5)
