"""A segmentation network as a detector: its windows, its probability map, and the marks in it."""

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from ..config import Config, PeakDetection
from ..data.geometry import map_points, spacing_of, sphere_diameter
from ..data.lungs import Lungs
from ..data.resample import Box
from ..detectors.recipe import Foreign, MapOutput
from ..errors import BadConfig
from ..model.device import cudnn_benchmark
from ..types import Affine, FloatArray, Peak, Preprocessed, Scan
from .blending import blend_weights, nnunet_weights
from .detector import Answer, Search
from .findings import PlacedPeak, least_confidence
from .foreign import ForeignDetector
from .peak_detection import NEIGHBOURS
from .sliding_window import Progress, blend_windows
from .tta import IDENTITY, ViewedNetwork, views
from .windows import Region, needed_windows

__all__ = ["Segmenter", "marks_in"]

BODY = 0.5  # least probability of a nodule's voxels
LANES = 2  # windows at the same time in half precision: they need no more memory than one in float32
MOST_MARKS = 1000  # in a scan; the most confident are kept


class Segmenter(ForeignDetector):
    """See `Detector`. The checkpoint has a `MapOutput`.

    Windows and blending are the detector's own, not those of the configuration. Of the section `inference` it uses
    `region`, `batch_size` and `tta`.

    Raises:
        BadConfig: the configuration asks for another engine.
    """

    def __init__(self, checkpoint: Foreign, config: Config, device: torch.device) -> None:
        if config.inference.engine not in ("auto", "torch"):
            msg = f"inference.engine {config.inference.engine} is not for {checkpoint.about.architecture}: use auto"
            raise BadConfig(msg)
        super().__init__(checkpoint, config, device)

    def prepare(self, scan: Scan, lungs: Lungs) -> Search:
        """See `Detector`."""
        laid = self.checkpoint.grid.laid(scan)
        part = self.search_box(laid, lungs)
        volume = laid.prepared(part.box)

        def search(rules: PeakDetection, progress: Progress | None) -> Answer:
            heat, windows, retried = self.probability(volume, part.region, progress, part.windows)
            peaks = marks_in(heat, volume.affine, least_confidence(rules))
            return Answer(peaks, heat, volume.affine, windows, retried, everywhere=part.region is None)

        return search

    def probability(
        self,
        volume: Preprocessed,
        region: Region | None,
        progress: Progress | None = None,
        windows: list[Box] | None = None,
    ) -> tuple[FloatArray, int, int]:
        """The probability of a nodule (X, Y, Z), 0 outside the region; the windows run, and those repeated.

        Without `windows`, those of a scan of this size are laid.

        Raises:
            BadCheckpoint: the model gives NaN or infinity even in float32.
        """
        patch = self.checkpoint.windows.patch_size
        short = [max(0, side - size) for side, size in zip(patch, volume.array.shape, strict=True)]
        beyond = [(lack // 2, lack - lack // 2) for lack in short]  # zeros, as MONAI's inferer pads a small scan
        padded = np.pad(volume.array, beyond)
        if windows is None:
            windows = self.windows(volume.array.shape)
        blend = self._weights()
        if region is not None:
            windows = needed_windows(windows, blend, np.pad(region, beyond), 1)
        tensor = torch.from_numpy(np.ascontiguousarray(padded))
        self.chosen.test(
            lambda dtype: self._activated(self._viewed(dtype)(tensor[windows[0]][None, None].to(self.device))[0])
        )
        network = self._viewed(self.chosen.dtype)
        with cudnn_benchmark(wanted=self.options.cudnn_benchmark):
            logits = blend_windows(
                network,
                tensor,
                windows,
                blend,
                batch_size=1 if self.device.type == "cpu" else self.options.batch_size,
                lanes=LANES if self.device.type == "cpu" and self.chosen.dtype != torch.float32 else 1,
                clear_cache=self.options.clear_cache,
                progress=progress,
            )
        inside = tuple(slice(low, low + size) for (low, _), size in zip(beyond, volume.array.shape, strict=True))
        found: FloatArray = self._activated(logits).cpu().numpy()[inside]
        return found if region is None else found * region, len(windows), network.retried

    def _weights(self) -> FloatArray:
        own = self.checkpoint.windows
        if own.like == "nnU-Net" and own.blending == "gaussian":
            return nnunet_weights(own.patch_size, own.sigma)
        return blend_weights(
            own.patch_size, "average" if own.blending == "constant" else "gaussian", own.sigma, plain=True
        )

    def _viewed(self, dtype: torch.dtype) -> ViewedNetwork:
        tta = self.options.tta
        shown = views(tta.num_augmentations, tta.augmentations) if tta.enabled else (IDENTITY,)
        return ViewedNetwork(self.model, self.device, dtype, shown)

    def _activated(self, logits: Tensor) -> Tensor:
        """The nodules' probability (X, Y, Z) from the network's channels (C, X, Y, Z)."""
        if self._output.activation == "softmax":
            return logits.softmax(dim=0)[self._output.channel]
        own = logits[self._output.channel]
        return own.sigmoid() if self._output.activation == "sigmoid" else own.clamp(0, 1)

    @property
    def _output(self) -> MapOutput:
        output = self.checkpoint.output
        assert isinstance(output, MapOutput)  # noqa: S101 - `open_detector` ensures it
        return output


def marks_in(heat: FloatArray, affine: Affine, least: float) -> list[PlacedPeak]:
    """One mark per component of a probability map with the `affine` (RAS+), most confident first.

    A component is a set of connected voxels of at least `BODY`, or of at least `least` if none of them reaches `BODY`.
    Its confidence is its mean probability. The map is lowered there, so that its maximum equals the confidence. Its
    diameter is that of the sphere of its volume.
    """
    labels, count = ndimage.label(heat >= BODY, NEIGHBOURS)
    if least < BODY:
        weak, weaker = ndimage.label(heat >= least, NEIGHBOURS)
        fresh = np.ones(weaker + 1, dtype=bool)
        fresh[np.append(0, np.unique(weak[labels > 0]))] = False
        labels[fresh[weak]] = count + weak[fresh[weak]]
    found = (
        _mark(heat, labels, number, part, affine)
        for number, part in enumerate(ndimage.find_objects(labels), start=1)
        if part is not None
    )
    return sorted(found, key=lambda mark: -mark.peak["confidence"])[:MOST_MARKS]


def _mark(
    heat: FloatArray, labels: npt.NDArray[np.integer], number: int, part: tuple[slice, ...], affine: Affine
) -> PlacedPeak:
    """The mark of one component, which lies in `part`."""
    inside, first = labels[part] == number, [side.start for side in part]
    values, voxels = heat[part][inside], np.argwhere(inside)
    confidence = float(values.mean())
    centre = np.average(voxels, axis=0, weights=values)
    nearest = voxels[((voxels - centre) ** 2).sum(axis=1).argmin()]
    if not inside[tuple(np.rint(centre).astype(int))]:
        centre = nearest.astype(float)  # for a bent body: a point inside it
    heat[part][inside] = values * (confidence / values.max())
    spacing = spacing_of(affine)
    x, y, z = ((centre + first) * spacing).tolist()
    i, j, k = (int(v) for v in nearest + first)
    peak = Peak(coordinates=(x, y, z), coordinates_voxel=(i, j, k), diameter_mm=None, confidence=confidence)
    diameter = sphere_diameter(len(values) * float(np.prod(spacing)))
    return PlacedPeak(peak, map_points(affine, centre + first), diameter)
