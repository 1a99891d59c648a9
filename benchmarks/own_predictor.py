"""A detector run as its users run it: `python -m benchmarks.own_predictor --checkpoint C --scan S --output F`.

MONAI's transforms prepare the whole scan; its `SlidingWindowInferer` or `RetinaNetDetector` does the rest, in float32,
with the model's own settings. A folder of nnU-Net is run by its `nnUNetPredictor` without mirroring (with
`uv run --with nnunetv2`; the scan is a NIfTI file). The marks (LPS in mm, confidence) are written as JSON.
`benchmarks.detectors --beside` compares them with PIVOT's. Of a probability map the marks are its components, as
PIVOT takes them.
"""

import argparse
import warnings
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from nibabel.nifti1 import load as read_nifti

from src.data.geometry import map_points
from src.detection.segmenter import marks_in
from src.detectors.opening import open_model
from src.detectors.recipe import BoxOutput, Foreign, MapOutput
from src.files import write_json

__all__ = ["main"]

LEAST = 0.1  # of a mark's confidence
Mark: TypeAlias = tuple[Any, float]  # its place (LPS, mm) and confidence


def main() -> None:
    """Run it, and write the marks."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("checkpoint", "scan", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # MONAI's, of its own future
    model = open_model(options.checkpoint)
    if not isinstance(model, Foreign):
        parser.error("it is PIVOT's own")
    with torch.inference_mode():
        marks = (_by_nnunet if model.grid.like == "nnU-Net" else _by_monai)(model, options.scan)
    write_json([{"lps": [float(v) for v in place], "confidence": sure} for place, sure in marks], options.output)


def _by_nnunet(model: Foreign, scan: Path) -> list[Mark]:
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model.path), None)
    image, about = SimpleITKIO().read_images([str(scan)])
    _, probabilities = predictor.predict_single_npy_array(image, about, None, None, True)  # noqa: FBT003
    assert isinstance(model.output, MapOutput)  # noqa: S101 - nnU-Net has no other
    heat = np.ascontiguousarray(probabilities[model.output.channel].T, np.float32)
    return _marks(heat, read_nifti(scan).affine)


def _by_monai(model: Foreign, scan: Path) -> list[Mark]:
    return (_boxes if isinstance(model.output, BoxOutput) else _bodies)(model, _image(model, scan))


def _image(model: Foreign, scan: Path) -> Any:  # noqa: ANN401 - MONAI's
    from monai import transforms

    grid = model.grid
    reader = "PydicomReader" if scan.is_dir() else None
    prepared = transforms.Compose(
        [
            transforms.LoadImage(reader=reader, ensure_channel_first=True),
            transforms.Orientation(grid.axes),
            transforms.Spacing(grid.spacing, mode="bilinear", padding_mode="border"),
            transforms.ScaleIntensityRange(*grid.clip_range, *grid.output_range, clip=True),
        ]
    )
    return prepared(scan)


def _boxes(model: Foreign, image: Any) -> list[Mark]:  # noqa: ANN401
    from monai.apps.detection.networks.retinanet_detector import RetinaNetDetector
    from monai.apps.detection.utils.anchor_utils import AnchorGeneratorWithAnchorShape

    output, windows = model.output, model.windows
    assert isinstance(output, BoxOutput)  # noqa: S101 - `_by_monai` sees to it
    anchors = AnchorGeneratorWithAnchorShape(output.scales, [list(shape) for shape in output.anchors])
    detector = RetinaNetDetector(model.model, anchors).eval()
    detector.set_target_keys("box", "label")
    detector.set_box_selector_parameters(
        output.score_thresh, output.topk_candidates_per_level, output.nms_thresh, output.detections_per_img
    )
    detector.set_sliding_window_inferer(windows.patch_size, 1, windows.overlap, windows.blending, device="cpu")
    large = image.numel() >= np.prod(windows.patch_size)
    found = detector([image.as_tensor()], use_inferer=large)[0]
    boxes = found["box"].numpy()
    world = map_points(np.diag([-1.0, -1, 1, 1]) @ image.affine.numpy(), (boxes[:, :3] + boxes[:, 3:]) / 2)
    return [(one, float(sure)) for one, sure in zip(world, found["label_scores"], strict=True) if sure >= LEAST]


def _bodies(model: Foreign, image: Any) -> list[Mark]:  # noqa: ANN401
    from monai.inferers import SlidingWindowInferer

    windows = model.windows
    inferer = SlidingWindowInferer(windows.patch_size, 1, windows.overlap, windows.blending, windows.sigma)
    logits = inferer(image[None].as_tensor(), model.model)[0]
    output = model.output
    assert isinstance(output, MapOutput)  # noqa: S101 - `_by_monai` sees to it
    heat = (logits.softmax(dim=0) if output.activation == "softmax" else logits.sigmoid())[output.channel]
    return _marks(heat.numpy(), image.affine.numpy())


def _marks(heat: Any, affine: Any) -> list[Mark]:  # noqa: ANN401 - arrays
    return [(mark.world * (-1, -1, 1), mark.peak["confidence"]) for mark in marks_in(heat, affine, LEAST)]


if __name__ == "__main__":
    main()
