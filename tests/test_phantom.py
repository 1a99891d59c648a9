"""The synthetic chest: reproducible, in DICOM orientation, with correct nodules."""

import time

import numpy as np
import pytest
from scipy import ndimage

from src.data.geometry import to_lps
from src.data.phantom import LESIONS, Lesion, PhantomNodule, chest_phantom
from src.types import Scan

COARSE = (2.0, 2.0, 2.0)


@pytest.fixture(scope="module")
def coarse() -> tuple[Scan, list[PhantomNodule]]:
    return chest_phantom(seed=3, spacing=COARSE)


@pytest.fixture(scope="module")
def fine() -> tuple[Scan, list[PhantomNodule]]:
    return chest_phantom(seed=0, spacing=(1.5, 1.5, 1.5))


def ball(scan: Scan, nodule: PhantomNodule, factor: float) -> np.ndarray:
    """A mask of the voxels within `factor` radii of the nodule's centre."""
    distance = [
        (np.arange(n) * step - centre) ** 2
        for n, step, centre in zip(scan.shape, scan.spacing, nodule.coordinates, strict=True)
    ]
    return np.sqrt(sum(np.ix_(*distance))) < factor * nodule.diameter_mm / 2


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_patient() -> None:
    spacing = (4.0, 4.0, 4.0)
    (first, truth), (again, truth_again) = chest_phantom(5, spacing), chest_phantom(5, spacing)
    other, other_truth = chest_phantom(6, spacing)
    assert first.array.tobytes() == again.array.tobytes()
    assert truth == truth_again
    assert truth != other_truth
    assert (first.array != other.array).mean() > 0.5


@pytest.mark.parametrize(("spacing", "shape"), [((2.5, 2.5, 3.0), (128, 96, 93)), ((4.0, 5.0, 7.0), (80, 48, 40))])
def test_a_coarse_phantom_is_small(spacing: tuple[float, float, float], shape: tuple[int, int, int]) -> None:
    start = time.process_time()
    scan, _ = chest_phantom(spacing=spacing)
    assert time.process_time() - start < 4
    assert scan.shape == shape
    assert scan.spacing == pytest.approx(spacing)
    assert scan.array.dtype == np.int16


def test_affine_is_that_of_a_dicom_series(coarse: tuple[Scan, list[PhantomNodule]]) -> None:
    scan, truth = coarse
    assert np.array_equal(np.sign(np.diag(scan.affine)), [-1, -1, 1, 1])
    assert np.abs(scan.affine[:3, 3]).min() > 10
    for nodule in truth:
        index = np.array(nodule.coordinates) / scan.spacing
        assert to_lps(scan.affine, index) == pytest.approx(nodule.coordinates_lps)
        assert np.abs(index - nodule.coordinates_voxel).max() <= 0.5


def test_the_default_nodules_are_as_documented_and_do_not_touch(coarse: tuple[Scan, list[PhantomNodule]]) -> None:
    _, truth = coarse
    assert [(n.diameter_mm, n.nodule_type, n.place) for n in truth] == [tuple(lesion) for lesion in LESIONS]
    for i, one in enumerate(truth):
        for other in truth[:i]:
            gap = np.linalg.norm(np.subtract(one.coordinates, other.coordinates))
            assert gap > (one.diameter_mm + other.diameter_mm) / 2


def test_tissues_have_the_hounsfield_units_of_a_chest(fine: tuple[Scan, list[PhantomNodule]]) -> None:
    scan, _ = fine
    array = scan.array
    assert array[:20, :20].mean() == pytest.approx(-1000, abs=3)
    assert array[:20, :20].std() == pytest.approx(22, abs=4)
    lung = (array > -950) & (array < -750)
    assert 2e6 < lung.sum() * np.prod(scan.spacing) < 5e6  # mm3: 2 to 5 litres
    assert array[lung].mean() == pytest.approx(-860, abs=25)
    assert (array > 300).sum() > 50_000  # bone
    assert array.min() >= -1024


@pytest.mark.parametrize("index", range(len(LESIONS)))
def test_each_nodule_lies_in_lung_at_its_place(index: int, fine: tuple[Scan, list[PhantomNodule]]) -> None:
    scan, truth = fine
    nodule = truth[index]
    core = scan.array[ball(scan, nodule, 0.6)]
    expected = 35 if nodule.nodule_type == "solid" else -600
    assert core.mean() == pytest.approx(expected, abs=45)
    shell = scan.array[ball(scan, nodule, 1.7) & ~ball(scan, nodule, 1.25)]
    assert np.mean(shell < -700) > (0.35 if nodule.place == "pleura" else 0.75)


VOLUMES = (Lesion(24), Lesion(18, "ground-glass"), Lesion(14), Lesion(9))


@pytest.fixture(scope="module")
def with_and_without() -> tuple[Scan, list[PhantomNodule], Scan]:
    spacing = (1.5, 1.5, 1.5)
    return *chest_phantom(1, spacing, VOLUMES), chest_phantom(1, spacing, [])[0]


@pytest.mark.parametrize("index", range(len(VOLUMES)))
def test_a_nodule_has_the_volume_of_its_diameter(
    index: int, with_and_without: tuple[Scan, list[PhantomNodule], Scan]
) -> None:
    scan, truth, without = with_and_without
    nodule = truth[index]
    window = tuple(slice(v - 12, v + 13) for v in nodule.coordinates_voxel)
    gain = scan.array[window].astype(float) - without.array[window]
    contrast = {"solid": 35 + 860, "ground-glass": 260}[nodule.nodule_type]
    near = ball(scan, nodule, 1.35)[window]
    volume = gain[near].sum() * 1.5**3 / contrast
    assert (6 * volume / np.pi) ** (1 / 3) == pytest.approx(nodule.diameter_mm, rel=0.03)
    centroid = ndimage.center_of_mass(np.where(near, gain, 0))
    offset = np.array(nodule.coordinates_voxel) - 12 + centroid - np.array(nodule.coordinates) / 1.5
    assert np.linalg.norm(offset) < 0.5


def test_part_solid_has_a_dense_core_in_ground_glass() -> None:
    scan, [nodule] = chest_phantom(2, COARSE, [Lesion(20, "part-solid")])
    assert scan.array[ball(scan, nodule, 0.4)].mean() > -50
    assert -750 < scan.array[ball(scan, nodule, 0.85) & ~ball(scan, nodule, 0.75)].mean() < -450


def test_too_many_nodules_are_refused() -> None:
    with pytest.raises(ValueError, match="no room for a nodule of 60 mm"):
        chest_phantom(spacing=(4.0, 4.0, 4.0), lesions=[Lesion(60)] * 12)
