"""The cubes of LUNA16's nodules: content and held-out patients."""

from collections.abc import Callable
from pathlib import Path
from shutil import copy

import numpy as np
import pytest
import torch

from src.errors import BadConfig
from src.train.config import BackgroundScan, TrainConfig
from src.train.crops import Crop
from src.train.cubes import LABELS, VOXELS, load_cubes
from src.train.parallel import Workers
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


def test_a_share_of_the_training_patients_is_used_and_a_larger_share_includes_it(tmp_path: Path) -> None:
    def patients(share: float) -> tuple[set[str], set[str]]:
        config = both(tmp_path, cubes_share=share)
        write_cubes(tmp_path / "data", "mnopqrstuv", (*range(8), 9, 8))
        sources = load_sources(config, Workers(torch.device("cpu")))
        return {crop.patient for crop in sources.crops}, {crop.patient for crop in sources.validation.crops}

    (third, held_out), (two_thirds, _), (everyone, _) = (patients(share) for share in (1 / 3, 2 / 3, 1.0))
    assert [len(learnt & set("mnopqrstuv")) for learnt in (third, two_thirds, everyone)] == [3, 6, 9]
    assert third < two_thirds < everyone
    assert "v" in held_out


def test_a_patient_of_a_held_out_scan_may_not_be_in_the_cubes(tmp_path: Path) -> None:
    names = write_luna16(tmp_path / "luna16")
    write_cubes(tmp_path / "cubes")
    write_table(tmp_path / "cubes", "1.2.0", names[-1])  # the scan of subset 9
    with pytest.raises(BadConfig, match="a would be in training and in validation"):
        load_sources(tiny_config(tmp_path, cubes=tmp_path / "cubes"), Workers(torch.device("cpu")))
