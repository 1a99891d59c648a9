"""The comparison of a job with an earlier one: reviewed nodules, and the map of points between both scans."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import nibabel
import numpy as np
import pytest

from src.api.keep import coarse
from src.api.security import hashed
from src.data.geometry import map_points, to_lps
from src.data.phantom import PhantomNodule
from src.types import Scan, Vec3

from .api_service import JOBS, Api, api_on
from .small_scans import chest, save_nifti

ANNA, BEN = {"X-API-Key": "of anna"}, {"X-API-Key": "of ben"}
MOVE = np.array([12.0, -7.0, 5.0])  # mm LPS, from the earlier examination to the later one
# The network finds nothing, so the only nodules are those that a reader adds.
CONFIG = (
    "inference: {patch_size: [64, 64, 64], second_look: false}\n"
    "output: {save_heatmap: false, save_visualization: false}\n"
    "post_processing: {peak_detection: {threshold: 0.95}, confidence_filter: {min_confidence: 0.95}}"
)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    keys = {"anna": hashed("of anna"), "ben": hashed("of ben")}
    with api_on(tmp_path_factory.mktemp("followup"), api_keys=keys, auth="key") as api:
        yield api


@pytest.fixture(scope="module")
def jobs(api: Api, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The jobs of the synthetic chest, and of the same chest moved by `MOVE`."""
    scan, _ = chest()
    affine = scan.affine.copy()
    affine[:3, 3] += MOVE * (-1, -1, 1)
    numbers = []
    for name, one in (("earlier", scan), ("later", dataclasses.replace(scan, affine=affine))):
        path = save_nifti(one, tmp_path_factory.mktemp("scan") / f"{name}.nii.gz")
        numbers.append(api.submit(path.read_bytes(), path.name, config=CONFIG, headers=ANNA).json()["job_id"])
        assert api.work().error is None
    return numbers[0], numbers[1]


def place_of(scan: Scan, nodule: PhantomNodule) -> Vec3:
    """The nodule's position in the earlier examination, LPS mm."""
    x, y, z = to_lps(scan.affine, np.divide(nodule.coordinates, scan.spacing)).tolist()
    return x, y, z


def add(api: Api, job: str, place: Any) -> dict[str, Any]:  # noqa: ANN401
    """Add a nodule to the job's review."""
    answer = api.client.post(
        f"{JOBS}/{job}/review/nodules", headers=ANNA, json={"coordinates_lps": [float(value) for value in place]}
    )
    assert answer.status_code == 201, answer.text
    review: dict[str, Any] = answer.json()
    return review


def compared(api: Api, jobs: tuple[str, str], **more: Any) -> dict[str, Any]:  # noqa: ANN401
    """Compare the later job with the earlier one."""
    answer = api.client.post(f"{JOBS}/{jobs[1]}/followup", headers=ANNA, json={"prior": jobs[0], **more})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def through(lattice: dict[str, Any], node: tuple[int, int, int]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The position of a node of the lattice, and its position in the other examination; LPS mm."""
    wide, high, _ = lattice["shape"]
    x, y, z = node
    first = ((z * high + y) * wide + x) * 3
    return np.add(lattice["origin"], np.multiply(lattice["step"], node)), np.array(lattice["places"][first : first + 3])


def test_nodules_are_matched_between_two_jobs(api: Api, jobs: tuple[str, str]) -> None:
    scan, truth = chest()
    large, other = (place_of(scan, nodule) for nodule in truth[:2])
    add(api, jobs[0], large)
    add(api, jobs[1], np.add(large, MOVE))
    add(api, jobs[1], np.add(other, MOVE))
    found = compared(api, jobs, days=180)
    matched = [one for one in found["nodules"] if one["status"] == "matched" and one["baseline"]["label"] == "a1"]
    (first,) = matched
    assert first["followup"]["label"] == "a1"
    assert first["growth"]["trend"] == "stable"
    assert np.subtract(first["followup"]["coordinates_lps"], first["baseline"]["coordinates_lps"]) == pytest.approx(
        MOVE, abs=1.5
    )
    assert found["interval"]["days"] == 180
    for name, sign in (("to_followup", 1), ("to_baseline", -1)):
        lattice = found["links"][name]
        middle = tuple(size // 2 for size in lattice["shape"])
        here, there = through(lattice, middle)
        assert there - here == pytest.approx(sign * MOVE, abs=4)
        assert len(lattice["places"]) == 3 * np.prod(lattice["shape"])
    unknown = compared(api, jobs)
    assert (unknown["interval"]["days"], unknown["interval"]["reason"] is None) == (None, False)
    assert all(one["growth"]["doubling_time_days"] is None for one in unknown["nodules"] if one["growth"])


@pytest.mark.parametrize(
    ("body", "status"),
    [({"prior": "0" * 32}, 404), ({"prior": "../x"}, 400), ({}, 400), ({"days": 3}, 400), ({"prior": None}, 400)],
)
def test_a_prior_must_be_a_completed_job_of_the_same_owner(
    api: Api, jobs: tuple[str, str], body: dict[str, Any], status: int
) -> None:
    address = f"{JOBS}/{jobs[1]}/followup"
    assert api.client.post(address, headers=ANNA, json=body).status_code == status
    assert api.client.post(address, headers=ANNA, json={"prior": jobs[1]}).status_code == 400
    assert api.client.post(address, headers=ANNA, json={"prior": jobs[0], "days": 0}).status_code == 400
    assert api.client.post(address, headers=BEN, json={"prior": jobs[0]}).status_code == 404


def test_the_preview_covers_the_same_box_with_mean_values() -> None:
    rng = np.random.default_rng(0)
    array = rng.integers(-1000, 400, (50, 31, 17)).astype(np.int16)
    affine = np.array([[0, -0.8, 0, 12], [0.7, 0, 0, -40], [0, 0, 2.5, 7], [0, 0, 0, 1]])
    means, placed = coarse(array, affine, 2000)
    assert means.size <= 2000
    for corner in ((0, 0, 0), (1, 0, 1), (1, 1, 1)):
        fine, rough = (np.multiply(corner, shape) - 0.5 for shape in (array.shape, means.shape))
        assert map_points(placed, rough) == pytest.approx(map_points(affine, fine))
    even, _ = coarse(array[:40, :30, :16], affine, 40 * 30 * 16 // 8)
    assert even.shape == (20, 15, 8)
    assert even == pytest.approx(array[:40, :30, :16].reshape(20, 2, 15, 2, 8, 2).mean(axis=(1, 3, 5)), abs=0.01)


def test_only_a_large_scan_has_a_preview(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    for voxels in (40**3, 1000):
        monkeypatch.setattr("src.api.keep.PREVIEW_VOXELS", voxels)
        job = api.submit(config=CONFIG, headers=ANNA).json()["links"]["self"]
        assert api.work().error is None
        shown.append(api.client.get(f"{job}/preview", headers=ANNA))
    assert [one.status_code for one in shown] == [204, 200]
    assert shown[1].content[344:348] == b"n+1\0"
    assert nibabel.Nifti1Image.from_bytes(shown[1].content).shape == (10, 10, 10)
    assert api.client.get(f"{job}/preview", headers=BEN).status_code == 404
