"""Training samples: nodules and targets agree after every augmentation."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from src.errors import BadConfig
from src.train.augmentation import degrade, turn
from src.train.chance import rotation
from src.train.crops import Crop, load_crops, split_by_patient
from src.train.dataset import SIZES, Batches, Recipe, _from_crop
from src.train.insertion import NoduleToInsert, insert, procedural_nodule, real_nodule, resample_crop
from src.train.scans import LungScan
from src.train.targets import Sample, Spread, Truth, heat_target, within
from tests.training_data import CROP_CENTRE, tiny_crops, write_crops

NOWHERE = np.empty((0, 3), dtype=np.intp)
SEEDS = st.integers(0, 2**32 - 1)
LUNG_HU = -850
CENTRES = st.tuples(*[st.floats(8, 39)] * 3).map(np.array)


def crops(patients: str = "abcde") -> list[Crop]:
    centre = np.array(CROP_CENTRE, dtype=float)
    found = zip(patients, *tiny_crops(len(patients)), strict=True)
    return [Crop(p, p, hu.astype(np.float32), mask, centre, size, 5, 3) for p, hu, mask, size in found]


def lung(shape: tuple[int, int, int] = (60, 110, 100), truths: tuple[Truth, ...] = (), **findings: object) -> LungScan:
    hu = np.full(shape, LUNG_HU, np.int16)
    everywhere = np.argwhere(np.ones([n // 4 for n in shape], dtype=bool)) * 4
    scan = LungScan("lung", hu, np.eye(4), everywhere, everywhere, None, truths, **findings)  # type: ignore[arg-type]
    for centre, diameter in truths:
        distance = np.linalg.norm(np.indices(shape).transpose(1, 2, 3, 0) - centre, axis=-1)
        hu[distance < diameter / 2] = 40
    return scan


def batches(scans: list[LungScan], known: list[Crop], seed: int = 3, numbers: range = range(8)) -> Batches:
    hard = [NOWHERE for _ in [*scans, *known]]
    recipe = Recipe((-1000.0, 400.0), 2, (3.0, 36.0), 0.35, Spread())
    return Batches(known, scans, hard, numbers, seed, recipe)


@pytest.mark.parametrize("make", [procedural_nodule, lambda rng, diameter: real_nodule(rng, crops()[4], diameter)])
@given(SEEDS, st.floats(4, 30))
@settings(max_examples=8)
def test_an_inserted_nodule_has_the_place_and_size_of_its_truth(
    make: Callable[[np.random.Generator, float], NoduleToInsert], seed: int, diameter: float
) -> None:
    nodule = make(np.random.default_rng(seed), diameter)
    assert nodule.hu.shape == nodule.weight.shape
    assert nodule.diameter == diameter
    centre = np.array([30, 31, 32])
    volume = np.full((64, 64, 64), LUNG_HU, np.float32)
    insert(volume, nodule, centre)
    change = volume - LUNG_HU
    assert change.min() >= 0
    assert np.linalg.norm(ndimage.center_of_mass(change) - centre) < 1 + diameter / 4  # two lumps make it asymmetric
    measured = np.cbrt((nodule.weight > 0.5).sum() * 6 / np.pi)  # diameter of the sphere of the same volume
    assert measured == pytest.approx(diameter, rel=0.25, abs=1.1)


def test_denser_structures_stay_and_borders_cut_an_inserted_nodule() -> None:
    nodule = procedural_nodule(np.random.default_rng(0), 12)
    bone = np.full((20, 20, 20), 700, np.float32)
    insert(bone, nodule, np.array([10, 10, 10]))
    assert (bone == 700).all()
    corner = np.full((20, 20, 20), LUNG_HU, np.float32)
    insert(corner, nodule, np.array([0, 19, 10]))
    assert corner[0, 19, 10] > LUNG_HU + 100
    assert corner[19, 0, 10] == LUNG_HU


@pytest.mark.parametrize(("surroundings", "is_seen"), [(LUNG_HU, True), (-400, True), (0, False), (700, False)])
def test_an_invisible_nodule_is_not_inserted(surroundings: int, is_seen: bool) -> None:
    ball = np.linalg.norm(np.indices((15, 15, 15)) - 7, axis=0) < 4
    place = np.full((32, 32, 32), surroundings, np.float32)
    nodule = NoduleToInsert(np.full(ball.shape, 40, np.float32), ball.astype(np.float32), 8)
    assert insert(place, nodule, np.array([16, 16, 16])) == is_seen
    assert (place == surroundings).all() != is_seen


@given(CENTRES, st.floats(3, 40))
def test_the_heat_target_peaks_at_the_nodule(centre: np.ndarray, diameter: float) -> None:
    heat, log_diameter = heat_target((48, 48, 48), [Truth(centre, diameter)], Spread())
    assert heat.shape == (24, 24, 24)
    assert heat.min() >= 0
    assert heat.max() <= 1
    peak = np.array(np.unravel_index(heat.argmax(), heat.shape)) * 2
    assert np.abs(peak - centre).max() <= 1.001  # voxels lie 2 mm apart
    assert heat.max() > 0.7
    np.testing.assert_allclose(np.exp(log_diameter[heat > 0.5]), diameter, rtol=1e-5)


def test_the_stronger_of_two_bumps_wins_and_no_nodule_gives_zero() -> None:
    near, far = Truth(np.array([12.0, 24, 24]), 5.0), Truth(np.array([30.0, 24, 24]), 20.0)
    both, diameter = heat_target((48, 48, 48), [near, far], Spread())
    alone = [heat_target((48, 48, 48), [truth], Spread())[0] for truth in (near, far)]
    np.testing.assert_array_equal(both, np.maximum(*alone))
    assert np.exp(diameter[6, 12, 12]) == pytest.approx(5)
    assert np.exp(diameter[15, 12, 12]) == pytest.approx(20)
    assert not heat_target((47, 48, 49), [], Spread())[0].any()


@pytest.mark.parametrize(("diameter", "sigma"), [(6, 2), (12, 3), (40, 5)])
def test_a_targets_width_is_a_share_of_the_diameter_within_limits(diameter: float, sigma: float) -> None:
    heat, _ = heat_target((48, 48, 48), [Truth(np.array([24.0, 24, 24]), diameter)], Spread(0.25, 2, 5))
    assert heat[12, 12, 12] == 1
    assert heat[14, 12, 12] == pytest.approx(np.exp(-(4**2) / (2 * sigma**2)))


@given(SEEDS, st.tuples(*[st.integers(0, 11)] * 3))
def test_reorienting_a_sample_reorients_its_truths_and_ignored_parts(seed: int, voxel: tuple[int, int, int]) -> None:
    hu, ignore = np.zeros((12, 12, 12), np.float32), np.zeros((12, 12, 12), dtype=bool)
    hu[voxel], ignore[voxel] = 1, True
    turned = turn(np.random.default_rng(seed), Sample(hu, [Truth(np.array(voxel, dtype=float), 6.0)], ignore))
    found = tuple(int(v) for v in turned.truths[0].centre)
    assert turned.hu[found] == 1
    assert turned.ignore is not None
    assert turned.ignore[found]
    assert turned.ignore.sum() == 1


def test_random_turns_reach_all_48_orientations() -> None:
    patch = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    rng = np.random.default_rng(0)
    assert len({turn(rng, Sample(patch, [])).hu.tobytes() for _ in range(3000)}) == 48


@given(SEEDS)
@settings(max_examples=20)
def test_rotations_are_orthogonal(seed: int) -> None:
    matrix = rotation(np.random.default_rng(seed))
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)


@given(SEEDS, st.floats(0.8, 1.4), st.tuples(*[st.floats(-7, 7)] * 3).map(np.array))
@settings(max_examples=20)
def test_the_nodule_moves_and_scales_with_its_crop(seed: int, scale: float, shift: np.ndarray) -> None:
    crop = crops("abcd")[3]
    _, mask = resample_crop(crop, rotation(np.random.default_rng(seed)) / scale, shift, 48)
    assert np.abs(ndimage.center_of_mass(mask) - (23.5 + shift)).max() < 0.2
    assert np.cbrt(mask.sum() * 6 / np.pi) == pytest.approx(crop.diameter * scale, rel=0.06)


def test_crops_are_read_with_their_nodule_at_its_outline(tmp_path: Path) -> None:
    write_crops(tmp_path)
    read = load_crops(tmp_path)
    assert [crop.patient for crop in read] == ["a", "a", "b", "c", "d", "e"]
    for crop in read:
        np.testing.assert_allclose(crop.centre, CROP_CENTRE[::-1], atol=0.01)
        assert crop.hu[tuple(np.round(crop.centre).astype(int))] > -60


@given(SEEDS)
@settings(max_examples=20)
def test_simulating_another_scanner_keeps_the_grid_and_the_place(seed: int) -> None:
    hu = np.full((32, 32, 32), LUNG_HU, np.float32)
    hu[12:21, 12:21, 12:21] = 100
    seen = degrade(np.random.default_rng(seed), hu)
    assert seen.shape == hu.shape
    assert seen.dtype == np.float32
    dense = ndimage.gaussian_filter(seen, 1.5) > -450
    assert np.abs(ndimage.center_of_mass(dense) - np.full(3, 16)).max() < 1.5


def test_a_batch_depends_only_on_seed_and_number() -> None:
    scans, known = [lung()], crops()
    first, later = batches(scans, known), batches(scans, known, numbers=range(4, 8))

    def digest(data: Batches, item: int) -> str:
        return hashlib.sha256(b"".join(part.numpy().tobytes() for part in data[item])).hexdigest()

    assert digest(first, 5) == digest(later, 1) == digest(first, 5)
    assert len({digest(first, 4), digest(first, 5), digest(batches(scans, known, seed=4), 5)}) == 3


@pytest.mark.parametrize(("number", "count", "size"), [(0, 2, 48), (1, 1, 64), (2, 1, 96)])
def test_batches_hold_normalised_patches_and_targets_on_the_halved_grid(number: int, count: int, size: int) -> None:
    shape = (count, 1, size, size, size)
    image, heat, diameter, weight = batches([lung()], crops())[number]
    assert tuple(image.shape) == shape
    assert 0 <= image.min() <= image.max() <= 1
    halved = (shape[0], *(n // 2 for n in shape[2:]))
    assert all(tuple(target.shape) == halved for target in (heat, diameter, weight))


def test_every_patch_of_an_annotated_scan_carries_its_nodules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.train.dataset.degrade", lambda _, hu: hu)
    scan = lung((60, 60, 60), (Truth(np.array([30.0, 30, 30]), 10.0),))
    data = batches([scan], [], numbers=range(0, 60, 3))
    for item in range(len(data)):
        image, heat, _, _ = data[item]
        for patch, target in zip(image[:, 0].numpy(), heat.numpy(), strict=True):
            assert target.max() > 0.7
            hottest = np.array(np.unravel_index(target.argmax(), target.shape)) * 2
            around = tuple(slice(max(0, i - 1), i + 2) for i in hottest)
            assert patch[around].mean() > 0.2  # the faintest ground-glass, of -720 HU; lung is 0.1


@given(SEEDS, st.sampled_from(SIZES))
@example(7172, 96)  # the blur of a nodule that lies entirely outside
@settings(max_examples=30)
def test_every_dense_voxel_of_a_mirrored_crop_is_a_truth_or_ignored(seed: int, size: int) -> None:
    crop = crops("abcd")[3]
    sample = _from_crop(np.random.default_rng(seed), crop, size, 36.0, NOWHERE)
    assert sample.ignore is not None
    known = ndimage.binary_dilation(sample.ignore, iterations=4)  # 2 mm along a diagonal, for the blur of the rotation
    for centre, diameter in sample.truths:
        assert sample.hu[tuple(np.round(centre).astype(int))] > -300
        known |= np.linalg.norm(np.indices(known.shape).transpose(1, 2, 3, 0) - centre, axis=-1) < diameter / 2 + 2
    inner = (slice(4, -4),) * 3  # the rotation also blurs nodules outside
    assert (sample.hu[inner][~known[inner]] < -300).all()


def test_the_nodule_of_a_crop_may_lie_anywhere_in_the_patch() -> None:
    rng, crop = np.random.default_rng(0), crops("a")[0]
    nearest = [truth.centre for _ in range(200) for truth in _from_crop(rng, crop, 48, 36.0, NOWHERE).truths]
    assert np.mean(nearest, axis=0) == pytest.approx([23.5] * 3, abs=3)
    assert np.std(nearest, axis=0).min() > 10  # 12.1 for a uniform distribution


def test_crops_and_annotated_nodules_are_drawn_equally_often() -> None:
    scan = lung((80, 80, 80), tuple(Truth(np.full(3, 30.0 + 10 * i), 6.0 + i) for i in range(3)))
    data = batches([scan], crops("a"))
    rng = np.random.default_rng(0)
    taken = [min(data._positive(rng, 48).truths, key=lambda t: np.linalg.norm(t.centre - 23.5)) for _ in range(160)]  # noqa: SLF001
    from_crop = sum(truth.diameter not in (6.0, 7.0, 8.0) for truth in taken)
    assert from_crop == pytest.approx(40, abs=20)


def test_subsolid_nodules_are_drawn_twice_as_often() -> None:
    solid, glass = crops("ab")
    often = batches([lung()], [solid, replace(glass, texture=2.0)]).often
    assert often == pytest.approx([1 / 3, 2 / 3])


def test_a_false_mark_of_a_crop_may_lie_anywhere_in_the_patch_and_the_nodule_stays_known() -> None:
    crop, hard = crops()[0], np.array([[40, 8, 30]])
    hu = crop.hu.copy()
    hu[39:42, 7:10, 29:32] = 2000
    shown = []
    for seed in range(60):
        sample = _from_crop(np.random.default_rng(seed), replace(crop, hu=hu), 48, 36.0, hard)
        for truth in sample.truths:
            assert sample.hu[tuple(np.round(truth.centre).astype(int))] > -400
        bright = np.argwhere(sample.hu > 400)
        if len(bright):
            shown.append(bright[0])
    assert len(shown) > 30
    assert np.ptp(shown, axis=0).min() > 30


def test_another_readers_nodule_in_a_crop_is_ignored() -> None:
    crop = crops()[0]
    other = np.roll(crop.mask, 15, axis=0)
    hu = np.where(other, 150, crop.hu)
    sample = _from_crop(np.random.default_rng(1), replace(crop, hu=hu, other=other), 96, 36.0, NOWHERE)
    assert sample.ignore is not None
    assert sample.ignore[sample.hu > 100].all()


def test_uncertain_parts_of_a_scan_are_ignored() -> None:
    excluded = (Truth(np.array([30.0, 30, 30]), 10.0),)
    cut_off = Truth(np.array([30.0, 58, 30]), 20.0)
    scan = lung((60, 60, 60), (cut_off,), excluded=excluded)
    hu, ignore, truths = scan.patch(np.array([8, 8, 8]), 48)
    assert ignore is not None
    assert ignore[22, 22, 22]
    assert not ignore[22, 10, 22]
    assert truths == []
    assert ignore[22, 47, 22]  # the visible part of a nodule centred outside
    assert hu[22, 47, 22] == 40
    *_, weight = batches([scan], [], numbers=range(1))._arrays(np.random.default_rng(0), Sample(hu, truths, ignore))  # noqa: SLF001
    assert weight[11, 11, 11] == 0
    assert weight[5, 5, 5] == 1


def test_a_patch_beyond_a_small_scan_is_filled_with_air() -> None:
    hu, ignore, truths = lung((30, 60, 60)).patch(np.array([0, 4, 4]), 48)
    assert hu.shape == (48, 48, 48)
    assert (hu[30:] == -1000).all()
    assert ignore is None
    assert truths == []


def test_marks_on_excluded_findings_are_ignored() -> None:
    nodule, excluded = Truth(np.array([30.0, 30, 30]), 10.0), Truth(np.array([10.0, 50, 50]), 10.0)
    points = np.array([[30.0, 30, 34], [30, 30, 45], [10, 50, 47], [10, 30, 50]])
    scan = lung((60, 60, 60), (nodule,), excluded=(excluded,))
    assert scan.certainly_false(points).tolist() == [False, True, False, True]
    assert within(points, [nodule, excluded]).tolist() == [True, False, True, False]
    assert scan.certainly_false(np.empty((0, 3))).shape == (0,)


@given(st.lists(st.sampled_from("abcdefghij"), min_size=5, max_size=30).filter(lambda names: len(set(names)) >= 3))
@settings(max_examples=50)
def test_no_patient_is_in_both_training_and_validation(patients: list[str]) -> None:
    voxel = np.zeros((1, 1, 1), np.float32)
    known = [Crop(str(i), p, voxel, voxel > 0, np.zeros(3), 5.0 + i, 5, 3) for i, p in enumerate(patients)]
    training, held_out = split_by_patient(known)
    assert held_out
    assert {crop.patient for crop in training} & {crop.patient for crop in held_out} == set()
    assert sorted(int(crop.crop_id) for crop in training + held_out) == list(range(len(known)))


def test_too_few_patients_are_an_error() -> None:
    with pytest.raises(BadConfig, match="of 2 patients: at least 3"):
        split_by_patient(crops("ab"))


def test_a_known_bump_counts_within_an_unknown_region() -> None:
    nodule = Truth(np.array([24.0, 22, 20]), 12.0)
    sample = Sample(np.full((48, 48, 48), LUNG_HU, np.float32), [nodule], np.ones((48, 48, 48), bool))
    _, heat, _, weight = batches([lung()], [], numbers=range(1))._arrays(np.random.default_rng(0), sample)  # noqa: SLF001
    np.testing.assert_array_equal(weight, heat >= 0.05)
    assert 50 < weight.sum() < 150
