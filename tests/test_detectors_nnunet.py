"""Parity with nnU-Net: a trained-model folder gives the same output in PIVOT as with nnU-Net's own steps.

The reference implements the steps that nnU-Net documents, with scikit-image and SciPy. If nnU-Net is installed
(`uv run --with nnunetv2 pytest tests/test_detectors_nnunet.py`), its own preprocessor and predictor are compared too.
"""

import copy
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.transform import resize

from src.config import load_config
from src.data.cubic import cubic_grid
from src.data.geometry import canonical, map_points, spacing_of
from src.data.loader import read_scan
from src.detection.blending import nnunet_weights
from src.detection.segmenter import Segmenter
from src.detection.windows import regular_windows
from src.detectors.opening import open_model
from src.detectors.recipe import Foreign
from src.errors import BadCheckpoint
from src.inference.main import main
from src.types import Scan
from tests.foreign_models import nifti, nnunet_plans, piece, save_nnunet, turned_scan
from tests.small_scans import block, save_nifti

pytestmark = pytest.mark.filterwarnings("ignore")
EVERYWHERE = {"model": {"mixed_precision": False}, "inference": {"region": "everything"}}
CPU = torch.device("cpu")
KINDS = ("PlainConvUNet", "ResidualEncoderUNet")


def opened(path: Path) -> Foreign:
    found = open_model(path)
    assert isinstance(found, Foreign)
    return found


def by_steps(scan: Scan, plans: dict[str, Any], networks: list[torch.nn.Module]) -> tuple[Any, Any]:
    """The reference: the preprocessed scan and the softmax of the logits, both in the network's axes."""
    config, hu = plans["configurations"]["3d_fullres"], plans["foreground_intensity_properties_per_channel"]["0"]
    order = [2 - axis for axis in plans["transpose_forward"]]
    image = np.asarray(scan.array, np.float32).transpose(order)
    old = np.array(spacing_of(scan.affine))[order]
    part = tuple(slice(a.min(), a.max() + 1) for a in np.nonzero(image))
    image = (image[part].clip(hu["percentile_00_5"], hu["percentile_99_5"]) - hu["mean"]) / hu["std"]
    shape = [round(n * a / b) for n, a, b in zip(image.shape, old, config["spacing"], strict=True)]
    image = resized(image, shape, old)
    patch = config["patch_size"]
    lack = [(max(0, p - n) // 2, max(0, p - n) - max(0, p - n) // 2) for p, n in zip(patch, image.shape, strict=True)]
    padded = np.pad(image, lack)
    delta = np.zeros(patch)
    delta[tuple(side // 2 for side in patch)] = 1
    weight = ndimage.gaussian_filter(delta, [side / 8 for side in patch], mode="constant")
    weight = np.maximum(weight / weight.max(), 6e-9)
    starts = []
    for size, side in zip(padded.shape, patch, strict=True):
        count = int(np.ceil((size - side) / (side / 2))) + 1
        starts.append([round((size - side) / max(1, count - 1) * number) for number in range(count)])
    total: Any = None
    weights = np.zeros(padded.shape)
    for corner in itertools.product(*starts):
        window = tuple(slice(start, start + side) for start, side in zip(corner, patch, strict=True))
        with torch.inference_mode():
            seen = torch.from_numpy(padded[window].astype(np.float32))[None, None]
            logits = sum(network(seen)[0].double().numpy() for network in networks) / len(networks)
        if total is None:
            total = np.zeros((len(logits), *padded.shape))
        total[(slice(None), *window)] += logits * weight
        weights[window] += weight
    logits = (total / weights)[(slice(None), *(slice(a, a + n) for (a, _), n in zip(lack, image.shape, strict=True)))]
    return image, torch.from_numpy(logits).softmax(dim=0).numpy()


def resized(image: Any, shape: list[int], spacing: Any) -> Any:  # noqa: ANN401
    """Cubic interpolation. If slices are more than three times as thick as wide: within each slice, nearest across."""
    how = {"order": 3, "mode": "edge", "anti_aliasing": False}
    if spacing.max() <= 3 * spacing.min():
        return resize(image.astype(float), shape, **how)
    axis = int(spacing.argmax())
    flat = [size for other, size in enumerate(shape) if other != axis]
    slices = np.stack([resize(one.astype(float), flat, **how) for one in np.moveaxis(image, axis, 0)], axis)
    nearest = np.floor((np.arange(shape[axis]) + 0.5) * image.shape[axis] / shape[axis]).astype(int)
    return np.take(slices, nearest, axis)


def by_pivot(model: Foreign, scan: Scan) -> tuple[Any, Any]:
    volume = model.grid.laid(scan).prepared(None)
    probability, windows, _ = Segmenter(model, load_config(EVERYWHERE), CPU).probability(volume, None)
    assert windows > 1
    return volume.array, probability


def back(array: Any, plans: dict[str, Any]) -> Any:  # noqa: ANN401
    """The array with its axes changed from the network's to x, y, z."""
    return array.transpose(np.argsort([2 - axis for axis in plans["transpose_forward"]]))


class TestParity:
    @pytest.mark.parametrize(("kind", "transpose"), [*((kind, (0, 1, 2)) for kind in KINDS), (KINDS[0], (1, 2, 0))])
    @pytest.mark.parametrize("spacing", [None, (0.8, 0.8, 3.0)])
    def test_probabilities_equal_those_of_the_reference_steps(
        self, tmp_path: Path, kind: str, transpose: tuple[int, int, int], spacing: tuple[float, float, float] | None
    ) -> None:
        plans = nnunet_plans(kind, transpose)
        networks = save_nnunet(tmp_path / "model", plans)
        scan = turned_scan(piece(), "LPS")
        if spacing:
            scan = Scan(scan.array, scan.affine @ np.diag([*np.divide(spacing, spacing_of(scan.affine)), 1]), "thick")
        image, probabilities = by_steps(scan, plans, networks)
        volume, found = by_pivot(opened(tmp_path / "model"), scan)
        np.testing.assert_allclose(volume, back(image, plans), atol=2e-4)
        assert np.ptp(probabilities[2]) > 0.2
        np.testing.assert_allclose(found, back(probabilities[2], plans), atol=2e-3)

    @pytest.mark.parametrize("codes", ["LPS", "RAS", "PSR"])
    def test_the_axis_order_of_the_file_does_not_change_the_probabilities(self, tmp_path: Path, codes: str) -> None:
        plans = nnunet_plans()
        save_nnunet(tmp_path / "model", plans)
        model, scan = opened(tmp_path / "model"), piece()
        _, expected = by_pivot(model, turned_scan(scan, "LPS"))
        read = read_scan(nifti(turned_scan(scan, codes), tmp_path / "scan.nii.gz"))
        _, found = by_pivot(model, read)
        np.testing.assert_allclose(found, expected, atol=2e-3)

    def test_the_logits_of_the_folds_are_averaged(self, tmp_path: Path) -> None:
        plans, scan = nnunet_plans(), turned_scan(piece(), "LPS")
        networks = save_nnunet(tmp_path / "model", plans, folds=2)
        _, probabilities = by_steps(scan, plans, networks)
        _, found = by_pivot(opened(tmp_path / "model"), scan)
        np.testing.assert_allclose(found, back(probabilities[2], plans), atol=2e-3)
        assert np.abs(back(by_steps(scan, plans, networks[:1])[1][2], plans) - found).max() > 0.05

    def test_preparing_a_box_equals_cropping_the_prepared_scan(self, tmp_path: Path) -> None:
        save_nnunet(tmp_path / "model", nnunet_plans())
        grid, scan = opened(tmp_path / "model").grid, piece()
        prepared, box = grid.laid(scan).prepared, (slice(5, 20), slice(0, 30), slice(11, 19))
        whole, part = prepared(None), prepared(box)
        np.testing.assert_array_equal(part.array, whole.array[box])
        np.testing.assert_allclose(part.affine[:3, 3], map_points(whole.affine, [5, 0, 11]))

    @pytest.mark.parametrize("codes", ["LPS", "PSR"])
    def test_preprocessing_keeps_world_positions(self, tmp_path: Path, codes: str) -> None:
        save_nnunet(tmp_path / "model", nnunet_plans())
        grid = opened(tmp_path / "model").grid
        hu = np.full((50, 60, 40), -900, np.int16)
        hu[20:25, 30:35, 18:21] = 300
        affine = np.diag([-0.7, -0.7, 1.5, 1.0])
        affine[:3, 3] = (20, 30, -40)
        found = grid.laid(turned_scan(Scan(hu, affine, "point"), codes)).prepared(None)
        weight = found.array - found.array.min()
        centre = map_points(found.affine, ndimage.center_of_mass(weight))
        np.testing.assert_allclose(centre, map_points(affine, [22, 32, 19]), atol=0.05)

    def test_a_border_of_zeros_is_cropped(self) -> None:
        scan = turned_scan(piece(), "LPS")
        hu = np.where(np.asarray(scan.array) == 0, 1, scan.array)
        bare = cubic_grid(hu, scan.affine, (1.0, 1.0, 1.0))
        framed = cubic_grid(np.pad(hu, ((2, 3), (4, 0), (0, 1))), scan.affine, (1.0, 1.0, 1.0))
        assert framed.shape == bare.shape
        moved = map_points(scan.affine, [2, 4, 0]) - map_points(scan.affine, [0, 0, 0])
        np.testing.assert_allclose(framed.affine[:3, 3] - bare.affine[:3, 3], moved)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("spacing", [1.5, 3.0])
    def test_probabilities_equal_those_of_nnunets_own_predictor(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, spacing: float
    ) -> None:
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            monkeypatch.setenv(name, str(tmp_path))
        predicting = pytest.importorskip("nnunetv2.inference.predict_from_raw_data")
        reading = pytest.importorskip("nnunetv2.imageio.simpleitk_reader_writer")
        folder = tmp_path / "nnUNetTrainer__nnUNetPlans__3d_fullres"
        save_nnunet(folder, nnunet_plans(kind), folds=2)
        scan = turned_scan(piece(), "LPS")
        scan = Scan(scan.array, scan.affine @ np.diag([1, 1, spacing / 1.5, 1]), "scan")
        path = nifti(scan, tmp_path / "scan.nii.gz")
        predictor = predicting.nnUNetPredictor(tile_step_size=0.5, use_mirroring=False, device=CPU, allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(folder), None)
        image, about = reading.SimpleITKIO().read_images([str(path)])
        settings = predictor.configuration_manager
        prepared, _, _ = settings.preprocessor_class(verbose=False).run_case_npy(
            image, None, about, predictor.plans_manager, settings, predictor.dataset_json
        )
        logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(prepared))
        expected = logits.float().softmax(dim=0)[2].numpy().T
        volume, found = by_pivot(opened(folder), read_scan(path))
        np.testing.assert_allclose(volume, prepared[0].T, atol=2e-4)
        # nnU-Net sums in float16. In the corners of the scan the weights are near 0, so the sums have few bits.
        firm = self.weights(volume.shape) > 1e-5
        assert firm.mean() > 0.85
        np.testing.assert_allclose(found[firm], expected[firm], atol=2e-3)

    @staticmethod
    def weights(shape: tuple[int, int, int]) -> Any:  # noqa: ANN401
        """The sum of all windows' weights at each voxel."""
        patch = (24, 32, 16)
        total = np.zeros(shape)
        for window in regular_windows(shape, patch, 0.5, spread=True):
            total[window] += nnunet_weights(patch)
        return total


def test_a_trained_model_folder_runs_through_the_whole_pipeline(tmp_path: Path) -> None:
    save_nnunet(tmp_path / "model", nnunet_plans())
    (tmp_path / "model" / "pivot.yaml").write_text("name: ours\nlicense: CC-BY-4.0\n")
    scan, out = save_nifti(block(2)[0], tmp_path / "scan.nii.gz"), tmp_path / "results"
    main(["--input", str(scan), "--output", str(out), "--checkpoint", str(tmp_path / "model")])
    recorded = json.loads((out / "scan_detections.json").read_text())["metadata"]["checkpoint"]
    assert (recorded["name"], recorded["license"], recorded["architecture"]) == ("ours", "CC-BY-4.0", "PlainConvUNet")
    assert recorded["grid"]["like"] == recorded["windows"]["like"] == "nnU-Net"


def test_plans_of_versions_before_2_4_are_read(tmp_path: Path) -> None:
    plans = nnunet_plans()
    save_nnunet(tmp_path / "model", plans)
    expected = opened(tmp_path / "model")
    earlier = copy.deepcopy(plans)
    config = earlier["configurations"]["3d_fullres"]
    given = config.pop("architecture")["arch_kwargs"]
    config |= {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 4,
        "unet_max_num_features": 8,
        "n_conv_per_stage_encoder": given["n_conv_per_stage"],
        "conv_kernel_sizes": given["kernel_sizes"],
        "n_conv_per_stage_decoder": given["n_conv_per_stage_decoder"],
        "pool_op_kernel_sizes": given["strides"],
        "num_pool_per_axis": [1, 2, 2],
    }
    (tmp_path / "model" / "plans.json").write_text(json.dumps(earlier))
    patch = torch.randn(1, 1, 24, 32, 16)
    with torch.inference_mode():
        np.testing.assert_array_equal(opened(tmp_path / "model").model(patch), expected.model(patch))


@pytest.mark.parametrize(
    ("labels", "chosen", "channel", "activation"),
    [
        ({"background": 0, "lung": 1, "lung_nodules": 2}, None, 2, "softmax"),
        ({"background": 0, "lung_nodules": 1, "lung": 2}, None, 1, "softmax"),
        ({"background": 0, "a": 1, "b": 2}, "a", 1, "softmax"),
        ({"background": 0, "thing": 1}, None, 1, "softmax"),
        ({"background": 0, "whole": [1, 2], "tumor": [2]}, None, 1, "sigmoid"),
        ({"background": 0, "nodule": 1, "ignore": 2}, None, 1, "softmax"),
    ],
)
def test_the_nodule_channel_is_chosen_by_its_label(
    tmp_path: Path, labels: dict[str, Any], chosen: str | None, channel: int, activation: str
) -> None:
    plans, heads = nnunet_plans(), [name for name in labels if name != "ignore"]
    if activation == "sigmoid":
        heads.remove("background")
    save_nnunet(tmp_path / "model", plans, {name: number for number, name in enumerate(heads)})
    dataset = {"channel_names": {"0": "CT"}, "labels": labels, "regions_class_order": [1, 2]}
    (tmp_path / "model" / "dataset.json").write_text(json.dumps(dataset))
    if chosen:
        (tmp_path / "model" / "pivot.yaml").write_text(f"label: {chosen}\n")
    output = opened(tmp_path / "model").identity["output"]
    assert (output["channel"], output["activation"]) == (channel, activation)


def at(*keys: Any, value: Any) -> Any:  # noqa: ANN401
    def change(files: dict[str, Any]) -> None:
        part: Any = files
        for key in keys[:-1]:
            part = part[key]
        part[keys[-1]] = value

    return change


CONFIG = ("plans.json", "configurations", "3d_fullres")
NETWORK = (*CONFIG, "architecture")
REFUSED: dict[str, tuple[Any, str]] = {
    "a custom network class": (at(*NETWORK, "network_class_name", value="os.system"), "names the network"),
    "a network of another package": (at(*NETWORK, "network_class_name", value="evil.PlainConvUNet"), "names the net"),
    "a custom activation": (at(*NETWORK, "arch_kwargs", "nonlin", value="subprocess.run"), "PIVOT knows"),
    "a known class of another package": (at(*NETWORK, "arch_kwargs", "nonlin", value="evil.ReLU"), "PIVOT knows"),
    "a two-dimensional network": (at(*NETWORK, "arch_kwargs", "conv_op", value="torch.nn.Conv2d"), "Conv3d"),
    "an unknown dropout class": (at(*NETWORK, "arch_kwargs", "dropout_op", value="evil.run"), "dropout_op"),
    "an unknown argument": (at(*NETWORK, "arch_kwargs", "block", value="evil.Block"), "block"),
    "no arguments": (at(*NETWORK, "arch_kwargs", value=None), "cannot be used"),
    "too many features": (at(*NETWORK, "arch_kwargs", "features_per_stage", value=[10**9] * 3), "features_per_stage"),
    "larger than its weights": (at(*NETWORK, "arch_kwargs", "features_per_stage", value=[4096] * 3), "do not fit"),
    "contradicting numbers of stages": (at(*NETWORK, "arch_kwargs", "n_stages", value=5), "cannot be built|do not fit"),
    "a patch that does not fit": (at(*CONFIG, "patch_size", value=[16, 30, 24]), "strides"),
    "a huge patch": (at(*CONFIG, "patch_size", value=[10**6] * 3), "patch_size"),
    "another normalisation": (at(*CONFIG, "normalization_schemes", value=["ZScoreNormalization"]), "CTNormalization"),
    "two channels": (at("dataset.json", "channel_names", value={"0": "CT", "1": "PET"}), "2 channels"),
    "another resampling": (at(*CONFIG, "resampling_fn_data", value="evil"), "resampling_fn_data"),
    "a linear resampling": (
        at(*CONFIG, "resampling_fn_data_kwargs", value={"order": 1}),
        "resampling_fn_data_kwargs",
    ),
    "a cascade": (at(*CONFIG, "previous_stage", value="3d_lowres"), "cascade"),
    "a circular reference between configurations": (at(*CONFIG, "inherits_from", value="3d_fullres"), "inherits"),
    "a missing configuration": (at("plans.json", "configurations", value={}), "no configuration"),
    "no intensities": (at("plans.json", "foreground_intensity_properties_per_channel", value=[1]), "foreground"),
    "an invalid axis order": (at("plans.json", "transpose_forward", value=[0, 0, "../x"]), "transpose_forward"),
    "no label": (at("dataset.json", "labels", value={"background": 0, "a": 1, "b": 2}), r"a, b.*label: NAME"),
    "two labels": (at("dataset.json", "labels", value={"background": 0, "nodule": 1, "lesion": 2}), "label: NAME"),
    "a label that is text": (
        at("dataset.json", "labels", value={"background": 0, "nodule": "$run"}),
        "no labels",
    ),
    "an unknown key": (at("pivot.yaml", value={"labels": "x"}), "labels: unknown key"),
}


@pytest.mark.parametrize("name", [*REFUSED])
def test_a_setting_that_pivot_cannot_reproduce_is_refused(tmp_path: Path, name: str) -> None:
    change, message = REFUSED[name]
    save_nnunet(tmp_path / "model", nnunet_plans())
    files = {file: json.loads((tmp_path / "model" / file).read_text()) for file in ("plans.json", "dataset.json")}
    change(files)
    for file, content in files.items():
        (tmp_path / "model" / file).write_text(json.dumps(content))
    with pytest.raises(BadCheckpoint, match=message):
        open_model(tmp_path / "model")


def test_the_axes_follow_the_image_reader_unless_pivot_yaml_states_them(tmp_path: Path) -> None:
    save_nnunet(tmp_path / "model", {**nnunet_plans(), "image_reader_writer": "NibabelIOWithReorient"})
    assert opened(tmp_path / "model").grid.axes == "RAS"
    (tmp_path / "model" / "pivot.yaml").write_text("axes: LAS\n")
    scan = piece()
    grid = opened(tmp_path / "model").grid
    assert grid.axes == "LAS"
    shape, affine, prepared = grid.laid(scan)
    assert shape == prepared(None).array.shape
    assert np.sign(np.diag(affine)[:3]).tolist() == [-1, 1, 1]
    assert canonical(scan.array, scan.affine, "LAS")[1][0, 0] < 0
