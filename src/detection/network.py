"""Runs the network on a scan, in two looks."""

from functools import partial

import numpy as np
import torch

from ..config import Config, PeakDetection
from ..data.geometry import canonical
from ..data.lungs import Lungs
from ..data.preprocessing import preprocess
from ..data.resample import Box, new_grid
from ..model.checkpoint import Checkpoint
from ..model.device import cudnn_benchmark, precision
from ..model.engines import open_engine, return_freed_memory
from ..model.unet import DIAMETER, HEATMAP, OutputGrid, output_grid, strides_of
from ..types import FloatArray, Preprocessed, Scan, Shape3
from .blending import BlendMethod
from .detector import Answer, Search
from .findings import find_peaks
from .search_plan import TILES, SearchPlan, plan_search
from .second_look import add_large, halve
from .sliding_window import Predictions, Progress, count_windows, predict_windows
from .tta import IDENTITY, views
from .windows import plan_tiles

__all__ = ["Network"]


class Network:
    """A checkpoint's networks on one device, with the options of the configuration.

    Args:
        checkpoint: the loaded model.
        config: its `model.mixed_precision` and its section `inference`.
        device: where to compute.
    """

    def __init__(self, checkpoint: Checkpoint, config: Config, device: torch.device) -> None:
        self.checkpoint, self.device = checkpoint, device
        self.options, self.mixed = config.inference, config.model.mixed_precision
        open_it = partial(open_engine, checkpoint, device=device, mixed=self.mixed)
        network = open_it(self.options.engine, tiled=self.options.speed in TILES)
        self.model: torch.nn.Module = network
        self.any_shape = network if network.kind is None else open_it("torch")  # an exported graph has a fixed shape

    @property
    def grid(self) -> OutputGrid:
        """The grid of the maps, relative to the preprocessed scan."""
        return output_grid(self.model)

    @property
    def precision(self) -> str:
        """The number format that the device computes in."""
        return str(precision(self.device, mixed=self.mixed)).removeprefix("torch.")

    @property
    def engine(self) -> str:
        """The engine that computes the network."""
        return str(getattr(self.model, "engine", "torch"))

    def prepare(self, scan: Scan, lungs: Lungs) -> Search:
        """See `Detector`."""
        plan = self.plan(scan, lungs)
        volume = self.preprocess(scan, plan.box)

        def search(rules: PeakDetection, progress: Progress | None) -> Answer:
            found = self.maps(volume, plan, progress)
            if self.device.type == "cpu":
                return_freed_memory()
            heat, affine = found.maps[HEATMAP], volume.affine @ self.grid.matrix
            peaks = find_peaks(heat, affine, rules, found.maps[DIAMETER])
            return Answer(peaks, heat, affine, found.windows, found.retried, everywhere=plan.region is None)

        return search

    def plan(self, scan: Scan, lungs: Lungs) -> SearchPlan:
        """The plan of the search in a scan."""
        array, affine = canonical(scan.array, scan.affine)
        grid = new_grid(array.shape, affine, self.checkpoint.about.preprocessing.spacing)
        return plan_search(*grid, lungs, self.model, self.options)

    def preprocess(self, scan: Scan, box: Box | None) -> Preprocessed:
        """The scan, or its part in the `box` of the resampled grid, preprocessed as in the model's training."""
        trained = self.checkpoint.about.preprocessing
        method = trained.normalization_method if trained.normalize else None
        return preprocess(scan, trained.spacing, trained.clip_range, method, box)  # type: ignore[arg-type]

    def maps(self, volume: Preprocessed, plan: SearchPlan, progress: Progress | None) -> Predictions:
        """The maps of the first look, with the large nodules of the second.

        `volume` is the result of `preprocess` for `plan.box`. `progress` is called with the number of windows done and
        the number of all windows.

        Raises:
            BadConfig: `inference.patch_size` or `stride` does not suit the model.
            BadCheckpoint: the model gives NaN or infinity even in float32.
        """
        with cudnn_benchmark(wanted=self.options.cudnn_benchmark):
            return self._both_looks(volume, plan, progress)

    def _both_looks(self, volume: Preprocessed, plan: SearchPlan, progress: Progress | None) -> Predictions:
        options = self.options
        blending = "linear" if options.speed in TILES else options.blending.method
        if not options.second_look:
            return self._predict(self.model, volume.array, plan, blending, progress)
        halved, before = self._halved(volume.array, plan.box)
        again = SearchPlan(*self._second_look_tiles(halved.shape))
        late = count_windows(self.any_shape, halved.shape, again.patch, again.stride)
        found = self._predict(self.model, volume.array, plan, blending, _shifted(progress, late=late))
        second = self._predict(self.any_shape, halved, again, "linear", _shifted(progress, early=found.windows))
        grid = output_grid(self.any_shape)
        a, b, c = (voxels // grid.stride for voxels in before)
        add_large(found.maps, second.maps[:, a:, b:, c:], grid.offset / grid.stride)
        if plan.region is not None:
            found.maps[HEATMAP] *= plan.region
        return Predictions(found.maps, found.windows + second.windows, found.retried + second.retried)

    def _halved(self, volume: FloatArray, box: Box | None) -> tuple[FloatArray, Shape3]:
        """The halved volume for the second look, and the voxels of air added before it along each axis.

        The air puts the part in `box` on the network's lattice, as the whole scan is (docs/design.md, 25).
        """
        scale, multiple = strides_of(self.any_shape)
        a, b, c = (side.start // 2 % multiple // scale * scale for side in box or [slice(0, 0)] * 3)
        halved = halve(volume)
        return np.pad(halved, [(before, 0) for before in (a, b, c)], constant_values=halved.min()), (a, b, c)

    def _second_look_tiles(self, shape: Shape3) -> tuple[Shape3, Shape3]:
        """Patch and stride of the second look: one window for most scans."""
        scale, multiple = strides_of(self.any_shape)
        return plan_tiles(None, shape, TILES["fast"][0], scale=scale, multiple=multiple)

    def _predict(
        self,
        model: torch.nn.Module,
        volume: FloatArray,
        plan: SearchPlan,
        blending: BlendMethod,
        progress: Progress | None = None,
    ) -> Predictions:
        options = self.options
        tta = options.tta
        return predict_windows(
            model,
            volume,
            plan.patch,
            plan.stride,
            # On a CPU larger batches are no faster, and need more memory.
            batch_size=1 if self.device.type == "cpu" else options.batch_size,
            device=self.device,
            blending=blending,
            sigma=options.blending.sigma,
            views=views(tta.num_augmentations, tta.augmentations) if tta.enabled else (IDENTITY,),
            mixed_precision=self.mixed,
            clear_cache=options.clear_cache,
            progress=progress,
            region=plan.region,
        )


def _shifted(progress: Progress | None, *, early: int = 0, late: int = 0) -> Progress | None:
    """The progress of one look as a part of all looks: `early` windows come before it, `late` windows after it."""
    return None if progress is None else lambda done, total: progress(early + done, early + total + late)
