"""Simulation of other scanners on the same patient."""

import numpy as np
import pytest

from benchmarks.planted import TO_LPS
from benchmarks.scanners import SCANNERS, Scanner, scanned


@pytest.mark.parametrize("scanner", SCANNERS.values(), ids=SCANNERS)
def test_another_scanner_shows_structures_at_the_same_place(scanner: Scanner) -> None:
    hu = np.full((24, 24, 32), -850, dtype=np.int16)
    hu[5:12, 6:13, 15:30] = 40
    scan = scanned(scanner, hu, "copy")
    tissue = np.argwhere(scan.array > -400).mean(axis=0)
    middle = (scan.affine @ [*tissue, 1])[:3]
    np.testing.assert_allclose(middle, (TO_LPS @ [8, 9, 22, 1])[:3], atol=0.3)
    assert scan.array.dtype == np.int16
    assert scan.array.mean() == pytest.approx(hu.mean(), abs=45)


def test_a_thick_slice_lies_in_the_middle_of_its_thin_slices() -> None:
    hu = np.broadcast_to(np.arange(12, dtype=np.int16), (2, 2, 12))
    scan = scanned(Scanner(5), hu, "copy")
    assert scan.array[0, 0].tolist() == [2, 7]
    np.testing.assert_array_equal((scan.affine @ [1, 1, 1, 1])[:3], [-1, -1, 7])


def test_the_noise_has_the_stated_standard_deviation() -> None:
    scan = scanned(SCANNERS["noise of 40 HU"], np.zeros((40, 40, 40), dtype=np.int16), "copy")
    assert scan.array.std() == pytest.approx(40, rel=0.02)
