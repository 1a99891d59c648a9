"""The same task with MONAI's and with nnU-Net's parts, and PIVOT's weights, as their users would write it.

`python -m benchmarks.peers monai --input SCAN --output FOLDER`, which `benchmarks.speed` runs. Each script reads a scan
and writes a heatmap on its grid into the folder. The seconds of each stage and the marks (LPS in mm, confidence) are in
`run.json`.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.commands import Run
from src.data.geometry import map_points
from src.detection.peak_detection import detect_peaks
from src.detection.second_look import add_large, halve
from src.files import write_json
from src.model.checkpoint import load_model
from src.model.device import pick_device
from src.model.unet import DIAMETER, HEATMAP, UNet
from src.types import Vec3

__all__ = ["PATCH", "PEERS", "main"]

PATCH, OVERLAP, BATCH = 128, 0.5, 4
THRESHOLD, MIN_DISTANCE = 0.5, 10.0
RESAMPLING = "resample_data_or_seg_to_shape"


def _order(order: int, *, is_seg: bool = False) -> dict[str, Any]:
    return {"is_seg": is_seg, "order": order, "order_z": 0, "force_separate_z": None}


# The plan that nnU-Net would make for a CT network with PIVOT's patch size, grid and HU window.
PLANS: dict[str, Any] = {
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "image_reader_writer": "SimpleITKIO",
    "foreground_intensity_properties_per_channel": {
        "0": {"mean": -1000.0, "std": 1400.0, "percentile_00_5": -1000.0, "percentile_99_5": 400.0}
    },
    "configurations": {
        "3d_fullres": {
            "preprocessor_name": "DefaultPreprocessor",
            "patch_size": [PATCH] * 3,
            "spacing": [1.0] * 3,
            "normalization_schemes": ["CTNormalization"],
            "use_mask_for_norm": [False],
            "architecture": {},
            "resampling_fn_data": RESAMPLING,
            "resampling_fn_data_kwargs": _order(3),
            "resampling_fn_seg": RESAMPLING,
            "resampling_fn_seg_kwargs": _order(1, is_seg=True),
            "resampling_fn_probabilities": RESAMPLING,
            "resampling_fn_probabilities_kwargs": _order(1),
        }
    },
}
REGION = {"labels": {"background": 0, "nodule": [1, 2]}, "regions_class_order": [1]}  # one channel, and a sigmoid


def main() -> None:
    """Run one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    write_json(PEERS[options.peer](options.input, options.output), options.output / "run.json")


def _monai(scan: Path, folder: Path) -> Run:
    from monai.inferers import SlidingWindowInferer
    from monai.transforms import (
        Compose,
        DivisiblePad,
        LoadImage,
        Orientation,
        ResampleToMatch,
        SaveImage,
        ScaleIntensityRange,
        Spacing,
    )

    device = pick_device()
    model = load_model().model.to(device)
    times: dict[str, float] = {}
    reader = "PydicomReader" if scan.is_dir() else None
    image = _timed(times, "read", lambda: LoadImage(reader=reader, ensure_channel_first=True)(scan))
    prepare = Compose([Orientation("LPS"), Spacing((1, 1, 1)), ScaleIntensityRange(-1000, 400, 0, 1, clip=True)])
    volume = _timed(times, "preprocess", lambda: prepare(image))
    inferer = SlidingWindowInferer(PATCH, BATCH, OVERLAP, mode="gaussian", padding_mode="constant")

    def look(patches: Tensor) -> Tensor:
        maps: Tensor = model(patches)[:, : DIAMETER + 1]
        return maps

    @torch.inference_mode()
    def infer() -> Any:  # noqa: ANN401 - MONAI's
        first = inferer(volume[None].to(device), look)[0].cpu()
        halved = DivisiblePad(model.multiple, method="end")(halve(volume[0].numpy())[None])
        x, y, z = (-(-size // 2) for size in first.shape[1:])
        add_large(first.numpy(), look(halved[None].to(device))[0, :, :x, :y, :z].cpu().numpy())
        return first[: HEATMAP + 1]

    heat = _timed(times, "inference", infer)
    before = time.perf_counter()
    heat.affine = volume.affine @ torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64))
    peaks = detect_peaks(heat[0].numpy(), THRESHOLD, MIN_DISTANCE, (2.0, 2.0, 2.0))
    on_scan = ResampleToMatch(mode="bilinear", padding_mode="zeros")(heat, image)
    times["postprocess"] = time.perf_counter() - before
    save = SaveImage(folder / "monai", output_postfix="heatmap", separate_folder=False, print_log=False)
    _timed(times, "write", lambda: save(on_scan))
    world = [map_points(heat.affine.numpy(), np.divide(peak["coordinates"], 2.0)) for peak in peaks]
    found = [((-x, -y, z), peak["confidence"]) for (x, y, z), peak in zip(world, peaks, strict=True)]
    return {"stages": times, "found": found}


def _nnunet(scan: Path, folder: Path) -> Run:
    """The stages of `nnUNetv2_predict --disable_tta --save_probabilities`, one after another."""
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    network = _SameSize(cast("UNet", load_model().model))
    plans = PlansManager(PLANS)
    settings = plans.get_configuration("3d_fullres")
    predictor = nnUNetPredictor(tile_step_size=OVERLAP, use_mirroring=False, device=pick_device(), allow_tqdm=False)
    predictor.manual_initialization(network, plans, settings, [network.state_dict()], REGION, "none", None)
    times: dict[str, float] = {}
    image, about = _timed(times, "read", lambda: SimpleITKIO().read_images([str(scan)]))
    prepare = settings.preprocessor_class(verbose=False)
    volume, _, about = _timed(
        times, "preprocess", lambda: prepare.run_case_npy(image, None, about, plans, settings, REGION)
    )
    logits = _timed(
        times, "inference", lambda: predictor.predict_logits_from_preprocessed_data(torch.from_numpy(volume))
    )
    before = time.perf_counter()
    peaks = detect_peaks(logits[0].float().sigmoid().numpy(), THRESHOLD, MIN_DISTANCE)
    segmentation, probabilities = convert_predicted_logits_to_segmentation_with_correct_shape(
        logits, plans, settings, predictor.label_manager, about, return_probabilities=True
    )
    times["postprocess"] = time.perf_counter() - before

    def write() -> None:
        np.savez_compressed(folder / "nnunet.npz", probabilities=probabilities)
        SimpleITKIO().write_seg(segmentation, str(folder / "nnunet.nii.gz"), about)

    _timed(times, "write", write)
    found = [(_point(peak["coordinates"], volume.shape[1:], about), peak["confidence"]) for peak in peaks]
    return {"stages": times, "found": found}


def _point(index: Vec3, shape: Sequence[int], about: dict[str, Any]) -> tuple[float, ...]:
    """The affine of nnU-Net's grid. The grid fills the scan's extent, and its axes are z, y, x."""
    old, scan = np.array(about["shape_after_cropping_and_before_resampling"]), about["sitk_stuff"]
    first = [part[0] for part in about["bbox_used_for_cropping"]]
    voxel = (np.array(index) + 0.5) * old / shape - 0.5 + first
    turned = np.reshape(scan["direction"], (3, 3)) * scan["spacing"]
    return tuple(turned @ voxel[::-1] + scan["origin"])


class _SameSize(torch.nn.Module):
    """The heatmap's logits on the input's grid, with axes z, y, x, as nnU-Net expects."""

    def __init__(self, model: UNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits = self.model.logits(x.permute(0, 1, 4, 3, 2))[:, HEATMAP, None]
        return functional.interpolate(logits, scale_factor=2.0).permute(0, 1, 4, 3, 2)


def _timed(times: dict[str, float], stage: str, work: Callable[[], Any]) -> Any:  # noqa: ANN401 - the result of `work`
    start = time.perf_counter()
    result = work()
    times[stage] = time.perf_counter() - start
    return result


PEERS: dict[str, Callable[[Path, Path], Run]] = {"monai": _monai, "nnunet": _nnunet}

if __name__ == "__main__":
    main()
