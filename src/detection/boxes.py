"""A RetinaNet as a detector: MONAI computes its boxes, which become marks and a heatmap."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..config import Config, PeakDetection
from ..data.geometry import map_points, spacing_of
from ..data.lungs import Lungs
from ..detectors.networks import library
from ..detectors.recipe import BoxOutput, Foreign
from ..errors import BadCheckpoint, BadConfig
from ..model.device import autocast, cudnn_benchmark
from ..types import Affine, FloatArray, Peak, Preprocessed, Scan, Shape3
from .detector import Answer, Search
from .findings import PlacedPeak, least_confidence
from .foreign import ForeignDetector
from .sliding_window import Progress

__all__ = ["BoxDetector"]

TESTED = 64  # voxels: side of the part that tests half precision
COARSE = 2  # voxels of the detector per heatmap voxel
BLOB = 0.25  # SD of a mark's Gaussian in the heatmap, as a fraction of its diameter


class BoxDetector(ForeignDetector):
    """See `Detector`. The checkpoint, MONAI's RetinaNet, has a `BoxOutput`.

    Windows and the choice of boxes are the detector's own, not those of the configuration. Of the section `inference`
    it uses `region`.

    Raises:
        BadConfig: the configuration asks for augmentation or another engine.
        BadCheckpoint: MONAI is not installed.
    """

    def __init__(self, checkpoint: Foreign, config: Config, device: torch.device) -> None:
        if config.inference.tta.enabled or config.inference.engine not in ("auto", "torch"):
            msg = f"inference.tta and engine {config.inference.engine} are not for a RetinaNet: leave both out"
            raise BadConfig(msg)
        self.parts = library("monai.apps.detection.networks.retinanet_detector", "monai")
        super().__init__(checkpoint, config, device)
        self.divisible = self.model.size_divisible

    def prepare(self, scan: Scan, lungs: Lungs) -> Search:
        """See `Detector`."""
        laid = self.checkpoint.grid.laid(scan)
        part = self.search_box(laid, lungs)
        volume = laid.prepared(part.box)

        def search(rules: PeakDetection, progress: Progress | None) -> Answer:
            boxes, scores, windows = self.boxes(volume, progress)
            sure = scores >= least_confidence(rules)
            peaks = _marks(boxes[sure], scores[sure], volume.affine, volume.array.shape)
            heat, affine = _drawn(peaks, volume)
            return Answer(peaks, heat, affine, windows, 0, everywhere=part.region is None)

        return search

    @torch.inference_mode()
    def boxes(
        self, volume: Preprocessed, progress: Progress | None = None
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], int]:
        """Boxes (n, 6) as x, y, z of their first and last corners in voxels of the volume, their scores (n,), windows.

        Raises:
            BadCheckpoint: the network gives NaN or infinity.
        """
        image = torch.from_numpy(np.ascontiguousarray(volume.array))[None].to(self.device)
        middle = tuple(slice(max(0, (size - TESTED) // 2), (size + TESTED) // 2) for size in image.shape[1:])
        self.chosen.test(lambda dtype: self._scores(image[(slice(None), *middle)], dtype))
        network = _Counted(self.model, self.chosen.dtype, self.device, progress)
        detector = self._detector(network)
        large = image.numel() >= np.prod(self.checkpoint.windows.patch_size)
        with cudnn_benchmark(wanted=self.options.cudnn_benchmark):
            found = detector([image], use_inferer=large)[0]
        if progress is not None:
            progress(network.count, network.count)
        boxes, scores = (found[key].cpu().numpy().astype(np.float64) for key in ("box", "label_scores"))
        return boxes, scores, network.count

    def _detector(self, network: nn.Module) -> Any:  # noqa: ANN401 - MONAI's, which keeps the anchors of its last scan
        output, windows = self._output, self.checkpoint.windows
        anchors = library("monai.apps.detection.utils.anchor_utils", "monai")
        generator = anchors.AnchorGeneratorWithAnchorShape(output.scales, [list(shape) for shape in output.anchors])
        detector = self.parts.RetinaNetDetector(network, generator).eval()
        detector.set_target_keys("box", "label")
        detector.set_box_selector_parameters(
            output.score_thresh, output.topk_candidates_per_level, output.nms_thresh, output.detections_per_img
        )
        detector.set_sliding_window_inferer(
            windows.patch_size, 1, windows.overlap, windows.blending, windows.sigma, device="cpu"
        )
        return detector

    def _scores(self, image: Tensor, dtype: torch.dtype) -> Tensor:
        """The scores of all anchors of the finest level in a part of the scan."""
        sides = [-size % step for size, step in zip(image.shape[1:], self.divisible, strict=True)]
        x, y, z = sides
        padded = torch.nn.functional.pad(image, (0, z, 0, y, 0, x))
        with autocast(self.device, dtype):
            outputs = self.model(padded[None])
        scores: Tensor = outputs[self.model.cls_key][0].float().sigmoid()
        return scores

    @property
    def _output(self) -> BoxOutput:
        output = self.checkpoint.output
        assert isinstance(output, BoxOutput)  # noqa: S101 - `open_detector` sees to it
        return output


class _Counted(nn.Module):
    """Adapts a network to the detector's interface, with a precision and a count of windows."""

    def __init__(self, network: nn.Module, dtype: torch.dtype, device: torch.device, progress: Progress | None) -> None:
        super().__init__()
        self.network, self.dtype, self.device, self.progress = network, dtype, device, progress
        self.count = 0
        for name in ("spatial_dims", "num_classes", "size_divisible", "cls_key", "box_reg_key", "num_anchors"):
            setattr(self, name, getattr(network, name))

    def forward(self, images: Tensor) -> dict[str, list[Tensor]]:
        with autocast(self.device, self.dtype):
            found = self.network(images.to(self.device).contiguous(memory_format=torch.channels_last_3d))
        outputs = {key: [one.float() for one in maps] for key, maps in found.items()}
        if not all(bool(one.isfinite().all()) for maps in outputs.values() for one in maps):
            msg = "the model's output is NaN or infinite: its weights are damaged, or half precision overflowed "
            msg += "(model.mixed_precision: false)"
            raise BadCheckpoint(msg)
        self.count += 1
        if self.progress is not None:
            self.progress(self.count, self.count + 1)
        return outputs


def _marks(
    boxes: npt.NDArray[np.float64], scores: npt.NDArray[np.float64], affine: Affine, shape: Shape3
) -> list[PlacedPeak]:
    """A mark in the middle of each box, surest first. Its diameter is the mean of the box's sides."""
    spacing, found = np.array(spacing_of(affine)), []
    for box, score in sorted(zip(boxes, scores, strict=True), key=lambda pair: -pair[1]):
        centre = (box[:3] + box[3:]) / 2
        i, j, k = (int(v) for v in np.clip(np.rint(centre), 0, np.array(shape) - 1))
        x, y, z = (centre * spacing).tolist()
        peak = Peak(coordinates=(x, y, z), coordinates_voxel=(i, j, k), diameter_mm=None, confidence=float(score))
        diameter = float(((box[3:] - box[:3]) * spacing).mean())
        found.append(PlacedPeak(peak, map_points(affine, centre), diameter))
    return found


def _drawn(peaks: list[PlacedPeak], volume: Preprocessed) -> tuple[FloatArray, Affine]:
    """A heatmap of the marks, and its affine (RAS+): a Gaussian for each, as high as its confidence."""
    x, y, z = (-(-size // COARSE) for size in volume.array.shape)
    heat, affine = np.zeros((x, y, z), np.float32), volume.affine @ np.diag([COARSE, COARSE, COARSE, 1.0])
    spacing = np.array(spacing_of(affine))
    for peak, world, diameter, _ in peaks:
        centre, sigma = map_points(np.linalg.inv(affine), world), max(diameter * BLOB, float(spacing.max()) / 2)
        low = np.maximum(np.floor(centre - 3 * sigma / spacing).astype(int), 0)
        high = np.minimum(np.ceil(centre + 3 * sigma / spacing).astype(int) + 1, heat.shape)
        if (high <= low).any():
            continue
        sides = [np.arange(a, b) for a, b in zip(low, high, strict=True)]
        along = [((side - c) * step) ** 2 for side, c, step in zip(sides, centre, spacing, strict=True)]
        square = along[0][:, None, None] + along[1][:, None] + along[2]
        part = heat[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        np.maximum(part, peak["confidence"] * np.exp(-square / (2 * sigma**2)), out=part, casting="same_kind")
    return heat, affine
