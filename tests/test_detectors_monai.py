"""Parity with MONAI: its networks give the same output in PIVOT as with MONAI's own transforms and inferers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from monai.apps.detection.networks.retinanet_detector import RetinaNetDetector
from monai.apps.detection.transforms.dictionary import (
    AffineBoxToWorldCoordinated,
    ClipBoxToImaged,
    ConvertBoxModed,
)
from monai.apps.detection.utils.anchor_utils import AnchorGeneratorWithAnchorShape
from monai.inferers import SlidingWindowInferer
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    Orientationd,
    ScaleIntensityRanged,
    Spacingd,
)

from src.config import PeakDetection, load_config
from src.data.geometry import RAS_TO_LPS, map_points, spacing_of
from src.data.loader import read_scan
from src.data.lungs import Lungs
from src.detection.boxes import BoxDetector
from src.detection.pipeline import InferencePipeline
from src.detection.segmenter import Segmenter, marks_in
from src.detection.windows import as_shape, regular_windows
from src.detectors.opening import open_model
from src.detectors.recipe import Foreign
from src.errors import BadCheckpoint, BadConfig
from src.inference.main import main
from src.types import Scan
from tests.dicom_files import write
from tests.foreign_models import SEGMENTERS, nifti, piece, retinanet, save_bundle, save_segmenter, turned_scan
from tests.small_scans import block, chest, save_nifti

EVERYWHERE = {"model": {"mixed_precision": False}, "inference": {"region": "everything"}}
CPU = torch.device("cpu")
ORIENTATIONS = ("LPS", "RAS", "PSR")


def opened(path: Path) -> Foreign:
    found = open_model(path)
    assert isinstance(found, Foreign)
    return found


@pytest.fixture(scope="session")
def nodule(shared_data: Path) -> Scan:
    """A box of a real scan around a nodule of 23 mm."""
    scan = read_scan(shared_data / "lidc-idri-0001")
    inverse = np.linalg.inv(RAS_TO_LPS @ scan.affine)
    middle = np.rint(map_points(inverse, (56.2, 86.3, -115.9))).astype(int)
    low = middle - np.rint(20 / np.array(spacing_of(scan.affine))).astype(int)
    affine = scan.affine.copy()
    affine[:3, 3] = map_points(scan.affine, low)
    x, y, z = (slice(a, 2 * m - a) for a, m in zip(low, middle, strict=True))
    return Scan(np.asarray(scan.array)[x, y, z], affine, "nodule")


def both(folder: Path, scan: Scan, name: str) -> tuple[Path, Path]:
    """Write the scan as NIfTI, which MONAI reads without ITK, and in another format."""
    path = nifti(scan, folder / "scan.nii.gz")
    return path, write(folder / "other", name, np.asarray(scan.array, np.int16), scan.affine)


def read_by_monai(path: Path, spacing: Any, low: float, high: float) -> Any:  # noqa: ANN401 - MONAI's
    transforms = Compose(
        [
            LoadImaged(keys="image"),
            EnsureChannelFirstd(keys="image"),
            Orientationd(keys="image", axcodes="RAS"),
            Spacingd(keys="image", pixdim=spacing),
            ScaleIntensityRanged(keys="image", a_min=low, a_max=high, b_min=0.0, b_max=1.0, clip=True),
        ]
    )
    return transforms({"image": path})["image"]


@pytest.mark.filterwarnings("ignore")
class TestSegmenters:
    @pytest.mark.parametrize(
        ("kind", "codes"), [*(("SegResNet", codes) for codes in ORIENTATIONS), *((kind, "PSR") for kind in SEGMENTERS)]
    )
    def test_probabilities_equal_those_of_monai(self, tmp_path: Path, kind: str, codes: str) -> None:
        side = 64 if kind == "SwinUNETR" else 32  # its strides need 64
        network = save_segmenter(tmp_path / "model", kind, inference={"patch_size": [side] * 3, "overlap": 0.5})
        path = nifti(turned_scan(piece(), codes), tmp_path / "scan.nii.gz")
        assert self.windows(network, opened(tmp_path / "model"), path, path) > 1 or side == 64

    @staticmethod
    def windows(network: Any, model: Foreign, path: Path, own: Path) -> int:  # noqa: ANN401
        """Check that PIVOT's output for the file `own` equals MONAI's for `path`. Returns the number of windows."""
        image = read_by_monai(path, (1.0, 1.0, 1.0), -1000, 400)
        inferer = SlidingWindowInferer(model.windows.patch_size, overlap=0.5, mode="gaussian")
        with torch.inference_mode():
            expected = inferer(image[None].as_tensor(), network).softmax(dim=1)[0, 1].numpy()
        volume = model.grid.laid(read_scan(own)).prepared(None)
        np.testing.assert_allclose(volume.affine, image.affine, atol=1e-4)
        found, windows, _ = Segmenter(model, load_config(EVERYWHERE), CPU).probability(volume, None)
        assert np.ptp(expected) > 0.2
        np.testing.assert_allclose(found, expected, atol=2e-3)
        return windows

    @pytest.mark.parametrize("codes", ORIENTATIONS)
    @pytest.mark.parametrize("name", ["a.nii.gz", "a.mhd"])
    def test_probabilities_equal_those_of_monai_on_a_real_scan(
        self, tmp_path: Path, nodule: Scan, name: str, codes: str
    ) -> None:
        network = save_segmenter(tmp_path / "model")
        path, own = both(tmp_path, turned_scan(nodule, codes), name)
        assert self.windows(network, opened(tmp_path / "model"), path, own) > 1

    def test_a_small_scan_is_padded_like_monai_pads_it(self, tmp_path: Path) -> None:
        network = save_segmenter(tmp_path / "model")
        path = nifti(piece(24), tmp_path / "scan.nii.gz")
        image = read_by_monai(path, (1.0, 1.0, 1.0), -1000, 400)
        assert min(image.shape[1:]) < 32
        with torch.inference_mode():
            inferer = SlidingWindowInferer((32, 32, 32), overlap=0.5, mode="gaussian")
            expected = inferer(image[None].as_tensor(), network).softmax(dim=1)[0, 1].numpy()
        model = opened(tmp_path / "model")
        volume = model.grid.laid(read_scan(path)).prepared(None)
        found, _, _ = Segmenter(model, load_config(EVERYWHERE), CPU).probability(volume, None)
        np.testing.assert_allclose(found, expected, atol=2e-3)

    def test_windows_outside_the_region_are_skipped_and_the_heatmap_is_zero_there(self, tmp_path: Path) -> None:
        save_segmenter(tmp_path / "model")
        model = opened(tmp_path / "model")
        volume = model.grid.laid(piece(60)).prepared(None)
        region = np.zeros(volume.array.shape, dtype=bool)
        region[2:10, 2:10, 2:10] = True
        ready = Segmenter(model, load_config(EVERYWHERE), CPU)
        (whole, many, _), (part, few, _) = ready.probability(volume, None), ready.probability(volume, region)
        assert few < many
        assert not part[~region].any()
        np.testing.assert_allclose(part[region], whole[region], atol=0.05)

    def test_a_segmenter_runs_through_the_whole_pipeline(self, tmp_path: Path) -> None:
        save_segmenter(tmp_path / "model", name="seg", version="3", license="Apache-2.0")
        scan = save_nifti(block(2)[0], tmp_path / "scan.nii.gz")
        out = tmp_path / "results"
        main(
            ["--input", str(scan), "--output", str(out), "--checkpoint", str(tmp_path / "model"), "--threshold", "0.9"]
        )
        sure = {"post_processing": {"peak_detection": {"threshold": 0.9}}}
        ready = InferencePipeline(tmp_path / "model" / "model.pth", sure, device="cpu")
        results = ready.predict(scan)
        recorded = results["metadata"]["checkpoint"]
        assert (recorded["name"], recorded["version"], recorded["license"]) == ("seg", "3", "Apache-2.0")
        assert recorded["architecture"] == "SegResNet"
        assert recorded["sha256"] == ready.checkpoint.sha256
        for found in [*results["detections"], *results["masses"]]:
            i, j, k = found["coordinates_voxel"]
            assert min(i, j, k) >= 0
        assert (out / "scan_detections.json").exists()


def ball(shape: tuple[int, int, int], centre: Any, radius: float) -> Any:  # noqa: ANN401
    return ((np.moveaxis(np.indices(shape), 0, -1) - centre) ** 2).sum(axis=-1) <= radius**2


class TestMarks:
    affine = np.diag([-1.0, 2.0, 0.5, 1.0])

    def heat(self) -> Any:  # noqa: ANN401
        heat = np.full((40, 30, 60), 0.02, np.float32)
        heat[ball(heat.shape, (10, 9, 20), 5)] = 0.9
        heat[10, 9, 20] = 1.0
        heat[ball(heat.shape, (30, 20, 40), 3)] = 0.3
        return heat

    def test_each_body_gives_one_mark_with_its_mean_probability_and_effective_diameter(self) -> None:
        heat = self.heat()
        sure, weak = marks_in(heat, self.affine, 0.1)
        np.testing.assert_allclose(sure.world, [-10, 18, 10], atol=1e-3)
        np.testing.assert_allclose(weak.world, [-30, 40, 20], atol=1e-3)
        assert (sure.peak["confidence"], weak.peak["confidence"]) == pytest.approx((0.9, 0.3), abs=1e-3)
        assert sure.diameter == pytest.approx(10, rel=0.05)
        assert sure.peak["coordinates_voxel"] == (10, 9, 20)
        assert heat[10, 9, 20] == pytest.approx(sure.peak["confidence"], abs=1e-6)
        assert heat.max() == heat[10, 9, 20]

    def test_bodies_below_the_minimum_confidence_give_no_mark(self) -> None:
        (sure,) = marks_in(self.heat(), self.affine, 0.5)
        assert sure.peak["confidence"] == pytest.approx(0.9, abs=1e-3)

    def test_the_mark_of_a_bent_body_lies_inside_the_body(self) -> None:
        heat = np.zeros((20, 20, 20), np.float32)
        heat[2:18, 2, 5] = heat[2, 2:18, 5] = heat[17, 2:18, 5] = 0.8
        (mark,) = marks_in(heat, np.eye(4), 0.1)
        assert heat[tuple(np.rint(mark.world).astype(int))] > 0.5


@pytest.mark.filterwarnings("ignore")
class TestRetinaNet:
    @pytest.mark.parametrize("codes", ORIENTATIONS)
    def test_boxes_scores_and_world_coordinates_equal_those_of_monai(self, tmp_path: Path, codes: str) -> None:
        network = save_bundle(tmp_path / "bundle")
        path = nifti(turned_scan(piece(26), codes), tmp_path / "scan.nii.gz")
        self.check(network, opened(tmp_path / "bundle"), path, path)

    @pytest.mark.parametrize("codes", ORIENTATIONS)
    @pytest.mark.parametrize("name", ["a.nii.gz", "a.mhd"])
    def test_boxes_equal_those_of_monai_on_a_real_scan(
        self, tmp_path: Path, nodule: Scan, name: str, codes: str
    ) -> None:
        network = save_bundle(tmp_path / "bundle")
        self.check(network, opened(tmp_path / "bundle"), *both(tmp_path, turned_scan(nodule, codes), name))

    def test_a_state_dict_with_a_description_gives_the_same_boxes(self, tmp_path: Path) -> None:
        network = retinanet()
        torch.save({"model": network.state_dict()}, tmp_path / "duke.pth")
        described = {
            "model": {"architecture": "RetinaNet", "backbone": "resnet10", "returned_layers": [1, 2]},
            "preprocessing": {"axes": "RAS", "spacing": [0.703125, 0.703125, 1.25], "clip_range": [-1024, 300]},
            "inference": {"patch_size": [32, 32, 16], "overlap": 0.25, "blending": "constant"},
            "output": {"topk_candidates_per_level": 200, "detections_per_img": 50},
        }
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(described))
        path = nifti(turned_scan(piece(26), "PSR"), tmp_path / "scan.nii.gz")
        self.check(network, opened(tmp_path / "duke.pth"), path, path)

    def check(self, network: Any, model: Foreign, path: Path, own_path: Path) -> None:  # noqa: ANN401
        """Check that PIVOT's boxes for the file `own_path` equal MONAI's for `path`."""
        image = read_by_monai(path, (0.703125, 0.703125, 1.25), -1024, 300)
        boxes, world, scores = self.by_monai(network, image)
        ready = BoxDetector(model, load_config(EVERYWHERE), CPU)
        volume = model.grid.laid(read_scan(own_path)).prepared(None)
        own, sure, windows = ready.boxes(volume)
        assert windows > 1
        assert len(own) == len(boxes) > 10
        order, other = np.argsort(-sure, kind="stable"), np.argsort(-scores, kind="stable")
        np.testing.assert_allclose(sure[order], scores[other], atol=1e-3)
        np.testing.assert_allclose(own[order], boxes[other], atol=0.05)
        centres = map_points(RAS_TO_LPS @ volume.affine, (own[:, :3] + own[:, 3:]) / 2)
        np.testing.assert_allclose(centres[order], world[other, :3], atol=0.05)
        sides = (own[:, 3:] - own[:, :3]) * (0.703125, 0.703125, 1.25)
        np.testing.assert_allclose(sides[order], world[other, 3:], atol=0.05)

    @staticmethod
    @torch.inference_mode()
    def by_monai(network: Any, image: Any) -> tuple[Any, Any, Any]:  # noqa: ANN401 - MONAI's
        """Boxes in voxels, boxes in the world (centre in LPS, sides) and scores, as the bundle computes them."""
        anchors = AnchorGeneratorWithAnchorShape([1, 2, 4], [[6, 8, 4], [8, 6, 5], [10, 10, 6]])
        detector = RetinaNetDetector(network, anchors).eval()
        detector.set_target_keys("box", "label")
        detector.set_box_selector_parameters(0.02, 200, 0.22, 50)
        detector.set_sliding_window_inferer([32, 32, 16], 1, 0.25, "constant", device="cpu")
        found = detector([image.as_tensor()], use_inferer=True)[0]
        boxes = found["box"].numpy().copy()
        post = Compose(
            [
                ClipBoxToImaged("box", ["label", "label_scores"], "image", remove_empty=True),
                AffineBoxToWorldCoordinated("box", "image", affine_lps_to_ras=True),
                ConvertBoxModed("box", "xyzxyz", "cccwhd"),
            ]
        )
        after = post({**found, "image": image})
        return boxes, np.asarray(after["box"]), found["label_scores"].numpy()

    def test_boxes_are_converted_to_marks_and_a_heatmap(self, tmp_path: Path) -> None:
        save_bundle(tmp_path / "bundle")
        ready = InferencePipeline(tmp_path / "bundle", EVERYWHERE, "cpu")
        assert ready.checkpoint.identity["architecture"] == "RetinaNet"
        assert ready.checkpoint.about.name == "Lung nodule CT detection"
        scan = piece(26)
        search = ready.detector.prepare(scan, lungs_of(scan))
        answer = search(PeakDetection(threshold=0.02), None)
        assert len(answer.peaks) > 3
        inverse = np.linalg.inv(answer.affine)
        for peak, world, diameter, _ in answer.peaks[:3]:
            i, j, k = np.clip(np.rint(map_points(inverse, world)).astype(int), 0, np.array(answer.heat.shape) - 1)
            assert answer.heat[i, j, k] >= 0.5 * peak["confidence"]
            assert diameter > 0

    def test_test_time_augmentation_is_refused(self, tmp_path: Path) -> None:
        save_bundle(tmp_path / "bundle")
        with pytest.raises(BadConfig, match="RetinaNet"):
            InferencePipeline(tmp_path / "bundle", {"inference": {"tta": {"enabled": True}}}, "cpu")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("save", [save_segmenter, save_bundle])
def test_only_the_box_around_the_lungs_is_searched(tmp_path: Path, save: Any) -> None:  # noqa: ANN401
    save(tmp_path / "model")
    scan, nodules = chest()
    ready = InferencePipeline(tmp_path / "model", {"model": {"mixed_precision": False}}, "cpu").detector
    assert isinstance(ready, Segmenter | BoxDetector)
    laid = ready.checkpoint.grid.laid(scan)
    part = ready.search_box(laid, lungs_of(scan))
    assert part.region is not None
    sizes = [side.stop - side.start for side in part.box]
    assert list(part.region.shape) == sizes
    assert 0.1 < np.prod(sizes) / np.prod(laid.shape) < 0.9
    inverse = np.linalg.inv(RAS_TO_LPS @ laid.affine)
    for nodule in nodules:
        index = np.rint(map_points(inverse, nodule.coordinates_lps)).astype(int) - [side.start for side in part.box]
        assert part.region[tuple(index)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("save", [save_segmenter, save_bundle])
def test_the_windows_are_those_of_the_whole_scan_that_show_the_region(tmp_path: Path, save: Any) -> None:  # noqa: ANN401
    save(tmp_path / "model")
    scan, _ = chest()
    ready, everywhere = (InferencePipeline(tmp_path / "model", config, "cpu").detector for config in ({}, EVERYWHERE))
    assert isinstance(ready, Segmenter | BoxDetector)
    assert isinstance(everywhere, Segmenter | BoxDetector)
    laid, lungs, own = ready.checkpoint.grid.laid(scan), lungs_of(scan), ready.checkpoint.windows
    part, whole = ready.search_box(laid, lungs), everywhere.search_box(laid, lungs)
    assert part.region is not None
    assert [(side.start, side.stop) for side in whole.box] == [(0, size) for size in laid.shape]
    first = [side.start for side in part.box]
    padded = [-(-size // step) * step for size, step in zip(laid.shape, ready.divisible, strict=True)]
    region = np.zeros([size + side for size, side in zip(padded, own.patch_size, strict=True)], dtype=bool)
    region[part.box] = part.region
    starts = {tuple(side.start for side in window) for window in whole.windows}
    shown = {
        start
        for start in starts
        if region[tuple(slice(a, a + n) for a, n in zip(start, own.patch_size, strict=True))].any()
    }
    searched = {tuple(side.start + a for side, a in zip(window, first, strict=True)) for window in part.windows}
    assert shown <= searched < starts
    sides = [-(-(side.stop - side.start) // step) * step for side, step in zip(part.box, ready.divisible, strict=True)]
    assert part.windows == regular_windows(
        as_shape(sides), own.patch_size, own.overlap
    )  # as MONAI lays them in the box


def lungs_of(scan: Scan) -> Lungs:
    from src.data.geometry import canonical  # noqa: PLC0415
    from src.data.lung_finder import find_lungs  # noqa: PLC0415

    return find_lungs(*canonical(scan.array, scan.affine))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preprocessing": {"spacing": [1, 1, 1]}}, "clip_range"),
        ({"preprocessing": {"spacing": [1, 1, 1], "clip_range": [400, -1000]}}, "must rise"),
        ({"inference": {"patch_size": [32, 32, 32], "overlp": 0.5}}, "overlp: unknown key"),
        ({"output": {"activation": "softmax", "channel": 2}}, "channel 2"),
        ({"postprocessing": {}}, "postprocessing: unknown key"),
        ({"model": {"architecture": "SegResNet", "init_filters": 8, "vae": True}}, "vae: unknown key"),
        ({"model": {"architecture": "os.system"}}, "os.system"),
        ({"model": {"architecture": "SegResNet", "init_filters": 10**9}}, "init_filters"),
        (
            {"model": {"architecture": "SegResNet", "init_filters": 4096, "blocks_down": [1] * 8}},
            "do not fit|cannot be",
        ),
        ({"model": {"dropout_prob": 0.1}}, "does not name the network"),
    ],
)
def test_an_invalid_description_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    save_segmenter(tmp_path / "model", **change)
    with pytest.raises(BadCheckpoint, match=message):
        open_model(tmp_path / "model")
