"""The loaded model and all its steps, from a scan to described nodules."""

import logging
import os
import platform
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from .. import __version__
from ..config import Config, load_config
from ..data.checks import as_hounsfield, check_extent, check_shape, nearest_orthogonal
from ..data.geometry import RAS_TO_LPS, affine_from_spacing, canonical, map_points, spacing_of, to_lps, turn_box
from ..data.lungs import Lungs, Mask, search_region
from ..data.pairing import check_spacing
from ..data.preprocessing import preprocess
from ..data.resample import Box, check_size, new_grid, to_grid
from ..errors import BadConfig, BadScan, PivotError
from ..guidelines.apply import SOURCES, apply_guidelines
from ..guidelines.lung_rads import exam
from ..guidelines.patient import Patient, load_patient
from ..model.checkpoint import Checkpoint, load_model
from ..model.device import pick_device, precision
from ..model.engines import open_engine
from ..model.unet import DIAMETER, HEATMAP, grid_of, strides_of
from ..results.conclusion import conclude, warnings_of
from ..results.output_formatter import save_csv, save_heatmap, save_json
from ..triage.model import default_model, score
from ..types import (
    Affine,
    Detection,
    FloatArray,
    LeftOut,
    Location,
    NoduleMask,
    Peak,
    Preprocessed,
    Properties,
    Results,
    Scan,
    Shape3,
    Vec3,
    Volume,
)
from .blending import BlendMethod
from .post_processing import filter_detections, filter_masses
from .second_look import add_large, halve
from .sliding_window import CONTEXT, Predictions, count_windows, plan_box, plan_tiles, predict_windows
from .tta import IDENTITY, views

if TYPE_CHECKING:
    from ..measurement.segmentation import Segmentation

__all__ = ["InferencePipeline"]

named = logging.getLogger("pivot.scan")  # what names the scan, which may be called after a patient
WorldPoint: TypeAlias = npt.NDArray[np.float64]  # (3,) mm, RAS+

BESIDE_LUNG = 12.0  # mm from aerated lung to a nodule's edge; a mark further away is in bowel, skin or on the table
SEARCHED = BESIDE_LUNG + 3.0  # mm around the lungs; they are known to about 3 mm
# Voxels that neighbouring tiles share, and that the network sees around the lungs (docs/performance.md).
TILES = {"balanced": (96, 16), "fast": (48, 0)}
MEASURED_AT_ONCE = min(8, os.cpu_count() or 1)  # nodules
OVERFLOWED = "%s: %d batches overflowed in half precision, and were repeated in float32"
OUT_OF_MEMORY = ("out of memory", "DefaultCPUAllocator")  # in the messages of CUDA and MPS, and of the CPU


class _Plan(NamedTuple):
    """Where the network looks: which windows, which part of the resampled scan, and where in it nodules can be."""

    patch: Shape3
    stride: Shape3
    box: Box | None = None
    region: Mask | None = None


class _Found(NamedTuple):
    """What was found: `nodules` of them, then masses, each with its mask; and what was left out."""

    numbered: list[Detection]
    nodules: int
    masks: list[NoduleMask | None]
    left_out: LeftOut


@contextmanager
def _enough_memory() -> Iterator[None]:
    """Whatever torch and NumPy raise when memory runs out, as one plain error."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(sign in str(error) for sign in OUT_OF_MEMORY):
            raise
        msg = "not enough memory for this scan: lower inference.batch_size (--batch-size) or inference.patch_size"
        raise PivotError(msg) from error


class InferencePipeline:
    """A model with its configuration, ready for any number of scans.

    Several threads may call `predict` of one pipeline at once, with any engine; each gets its own scan's results. On
    one processor that is no faster than one after the other, and takes the memory of all.

    Args:
        checkpoint: the model file, or one that is loaded; without one, `model.checkpoint` of the config, then the
            shipped weights.
        config: YAML file, mapping or `Config`.
        device: overrides `model.device`.

    Raises:
        BadConfig: the configuration is wrong, or contradicts the model's preprocessing.
        BadCheckpoint: the model cannot be loaded.
    """

    def __init__(
        self,
        checkpoint: Checkpoint | str | Path | None = None,
        config: Config | dict[str, Any] | str | Path | None = None,
        device: str | None = None,
    ) -> None:
        config = load_config(config)
        self.device = pick_device(device or config.model.device)
        self.checkpoint = (
            checkpoint if isinstance(checkpoint, Checkpoint) else load_model(checkpoint or config.model.checkpoint)
        )
        _check_input(config, self.checkpoint)
        self.config = config
        options = config.inference
        open_it = partial(open_engine, self.checkpoint, device=self.device, mixed=config.model.mixed_precision)
        network = open_it(options.engine, tiled=options.speed in TILES)
        self.model: torch.nn.Module = network
        self.any_shape = network if network.kind is None else open_it("torch")  # a graph has one shape

    def with_config(self, config: Config | dict[str, Any] | str | Path | None) -> Self:
        """The same loaded weights, on the same device, under another configuration.

        Raises:
            BadConfig: the configuration is wrong, or contradicts the model's preprocessing.
        """
        return type(self)(self.checkpoint, config, str(self.device))

    @_enough_memory()
    def predict(
        self,
        scan: Scan | npt.NDArray[Any],
        spacing: Vec3 | None = None,
        progress: Callable[[int, int], None] | None = None,
        patient: Patient | dict[str, Any] | str | Path | None = None,
        lungs: Lungs | None = None,
    ) -> Results:
        """The nodules of a scan: a `Scan`, or an (X, Y, Z) array in HU with its spacing in millimetres.

        `progress` is called with the number of windows done and of all. `patient`, a YAML file, a mapping or
        a `Patient`, is what the guidelines may know of the patient; the results do not repeat it. `lungs` is what
        `find_lungs` says of the scan, where it has been asked already.

        Raises:
            BadScan: an array that is no chest CT volume, or whose spacing is missing or contradicts its affine.
            BadConfig: `inference.patch_size` or `stride` does not suit the model, or `patient` is wrong.
            PivotError: memory ran out.
        """
        start = time.perf_counter()
        scan, placed = _as_scan(scan, spacing)
        patient = load_patient(patient)
        array, affine = canonical(scan.array, scan.affine)
        if lungs is None:
            from ..data.lung_finder import find_lungs  # noqa: PLC0415 - a scan from a file has met it in `read_timed`

            lungs = find_lungs(array, affine)
        plan = self._plan(array.shape, affine, lungs)
        volume = self._preprocess(scan, plan.box)
        ready = time.perf_counter()
        predictions = self._infer(volume, plan, progress)
        if predictions.retried:
            named.warning(OVERFLOWED, scan.scan_id, predictions.retried)
        inferred = time.perf_counter()
        heat_affine = volume.affine @ grid_of(self.model).matrix
        peaks = self._peaks(predictions, heat_affine)
        with ThreadPoolExecutor(1) as beside:
            drawn = beside.submit(_drawn, predictions.maps[HEATMAP], heat_affine, scan, peaks)
            found = self._describe(scan, lungs, predictions, peaks, placed=placed)
            heatmap = drawn.result()
        search = {
            "searched": "everything" if plan.region is None else "lungs",
            "lung_litres": lungs.litres if lungs.recognised else None,
            "lungs": lungs.report(),
            "left_out": found.left_out,
        }
        ruled = _ruled(found.numbered, patient)
        detections, masses = ruled[: found.nodules], ruled[found.nodules :]
        conclusion = conclude(detections, masses, lungs.report(), self.checkpoint.about.results)
        warnings = warnings_of(masses, lungs.report())
        for warning in warnings:
            named.warning("%s: %s", scan.scan_id, warning)
        end = time.perf_counter()
        timings = {"preprocess": ready - start, "inference": inferred - ready, "postprocess": end - inferred}
        return Results(
            scan_id=scan.scan_id,
            model=self.checkpoint.about.name,
            timestamp=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            metadata=self._metadata(scan, predictions, search, timings, patient),
            detections=detections,
            masses=masses,
            summary={
                **_counts(detections),
                "num_masses": len(masses),
                "lung_rads": exam([one["guidelines"]["lung_rads"] for one in ruled], patient, lungs.report()),
                "conclusion": conclusion,
                "warnings": warnings,
                "processing_time_seconds": round(end - start, 3),
            },
            heatmap=Volume(heatmap, scan.affine),
            masks=found.masks,
        )

    def save_detections(self, results: Results, path: str | Path) -> None:
        """Write the JSON report, or the CSV table where `path` ends in `.csv`."""
        (save_csv if Path(path).suffix == ".csv" else save_json)(results, path)

    def save_heatmap(self, heatmap: npt.NDArray[Any], path: str | Path) -> None:
        """Write a (X, Y, Z) heatmap in 0..1 to NIfTI, in steps of 1/255, or to `.npy`."""
        save_heatmap(heatmap, path)

    @property
    def origin(self) -> dict[str, Any]:
        """What results depend on beside the scan: the model, the configuration and the versions."""
        about = self.checkpoint.about
        return {
            "checkpoint": {"name": about.name, "version": about.version, "sha256": self.checkpoint.sha256},
            "triage": {"model": default_model().name, "score": default_model().label},
            "guidelines": {**SOURCES, "patient": False},
            "config": self.config.model_dump(mode="json"),
            "versions": {
                "pivot": __version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
            },
        }

    def _plan(self, shape: Shape3, affine: Affine, lungs: Lungs) -> _Plan:
        options = self.config.inference
        patch, stride = options.patch_size, options.step
        scale, multiple = strides_of(self.model)
        shape, affine = new_grid(shape, affine, self.checkpoint.about.preprocessing.spacing)
        x, y, z = (-(-size // scale) for size in shape)
        coarse = affine @ grid_of(self.model).matrix
        check_size((x, y, z), spacing_of(coarse))
        region = search_region(lungs, (x, y, z), coarse, SEARCHED) if options.region == "lungs" else None
        if options.mode == "whole_volume":
            a, b, c = (-(-size // multiple) * multiple for size in shape)
            return _Plan((a, b, c), (a, b, c))
        context = CONTEXT
        if options.speed in TILES:
            overlap, context = TILES[options.speed]
            patch, stride = plan_tiles(region, shape, overlap, scale=scale, multiple=multiple, context=context)
        if region is None:
            return _Plan(patch, stride)
        box = plan_box(region, shape, patch, stride, scale=scale, multiple=multiple, context=context)
        inside = tuple(slice(side.start // scale, -(-side.stop // scale)) for side in box)
        return _Plan(patch, stride, box, region[inside])

    def _preprocess(self, scan: Scan, box: Box | None) -> Preprocessed:
        trained = self.checkpoint.about.preprocessing
        method = trained.normalization_method if trained.normalize else None
        return preprocess(scan, trained.spacing, trained.clip_range, method, box)  # type: ignore[arg-type]

    def _infer(self, volume: Preprocessed, plan: _Plan, progress: Callable[[int, int], None] | None) -> Predictions:
        with _cudnn_benchmark(wanted=self.config.inference.cudnn_benchmark):
            found = self._looks(volume, plan, progress)
        second, about = self.checkpoint.second_stage, self.checkpoint.about.second_stage
        if second is not None and about is not None:
            from .second_stage import judge  # noqa: PLC0415 - slow, see `load_writers`

            mixed = self.config.model.mixed_precision
            judge(found.maps, volume.array, second.to(self.device), about.fusion, self.device, mixed=mixed)
        return found

    def _looks(self, volume: Preprocessed, plan: _Plan, progress: Callable[[int, int], None] | None) -> Predictions:
        """The maps of the first look, and what the second look adds to them."""
        options = self.config.inference
        blending = "linear" if options.speed in TILES else options.blending.method
        if not options.second_look:
            return self._look(self.model, volume.array, plan, blending, progress)
        halved, before = self._halved(volume.array, plan.box)
        again = _Plan(*self._whole_tiles(halved.shape))
        late = count_windows(self.any_shape, halved.shape, again.patch, again.stride)
        found = self._look(self.model, volume.array, plan, blending, _shifted(progress, late=late))
        second = self._look(self.any_shape, halved, again, "linear", _shifted(progress, early=found.windows))
        grid = grid_of(self.any_shape)
        a, b, c = (voxels // grid.stride for voxels in before)
        add_large(found.maps, second.maps[:, a:, b:, c:], grid.offset / grid.stride)
        if plan.region is not None:
            found.maps[HEATMAP] *= plan.region
        return Predictions(found.maps, found.windows + second.windows, found.retried + second.retried)

    def _halved(self, volume: FloatArray, box: Box | None) -> tuple[FloatArray, Shape3]:
        """The halved volume for the second look, and the voxels of air before it along each axis.

        A `box` of the whole is extended by air, to lie on the network's lattice as the whole does (docs/design.md, 25).
        """
        scale, multiple = strides_of(self.any_shape)
        a, b, c = (side.start // 2 % multiple // scale * scale for side in box or [slice(0, 0)] * 3)
        halved = halve(volume)
        return np.pad(halved, [(before, 0) for before in (a, b, c)], constant_values=halved.min()), (a, b, c)

    def _whole_tiles(self, shape: Shape3) -> tuple[Shape3, Shape3]:
        """Patch and stride of the second look: mostly of a single window."""
        scale, multiple = strides_of(self.any_shape)
        return plan_tiles(None, shape, TILES["fast"][0], scale=scale, multiple=multiple)

    def _look(
        self,
        model: torch.nn.Module,
        volume: FloatArray,
        plan: _Plan,
        blending: BlendMethod,
        progress: Callable[[int, int], None] | None = None,
    ) -> Predictions:
        options = self.config.inference
        tta = options.tta
        return predict_windows(
            model,
            volume,
            plan.patch,
            plan.stride,
            # On a CPU more at once are no faster, and take more memory.
            batch_size=1 if self.device.type == "cpu" else options.batch_size,
            device=self.device,
            blending=blending,
            sigma=options.blending.sigma,
            views=views(tta.num_augmentations, tta.augmentations) if tta.enabled else (IDENTITY,),
            mixed_precision=self.config.model.mixed_precision,
            clear_cache=options.clear_cache,
            progress=progress,
            region=plan.region,
        )

    def _peaks(self, predictions: Predictions, heat_affine: Affine) -> list[tuple[Peak, WorldPoint]]:
        """The heatmap's peaks, strongest first, and where they lie in the world (RAS+)."""
        from .peak_detection import detect_peaks  # noqa: PLC0415 - slow, see `load_writers`

        rules, spacing = self.config.post_processing.peak_detection, spacing_of(heat_affine)
        peaks = detect_peaks(predictions.maps[HEATMAP], rules.threshold, rules.min_distance, spacing, rules.method)
        return [(peak, map_points(heat_affine, np.array(peak["coordinates"]) / spacing)) for peak in peaks]

    def _describe(
        self,
        scan: Scan,
        lungs: Lungs,
        predictions: Predictions,
        peaks: list[tuple[Peak, WorldPoint]],
        *,
        placed: bool,
    ) -> _Found:
        """The peaks beside the lungs as measured nodules and masses; all peaks where lung may be anywhere."""
        from ..measurement.nodule_properties import segment_and_measure  # noqa: PLC0415 - slow, see `load_writers`

        array, affine = canonical(scan.array, scan.affine)  # measured with the third axis from feet to head
        to_input, to_voxels = np.linalg.inv(scan.affine) @ affine, np.linalg.inv(affine)

        def describe(marked: tuple[Peak, WorldPoint]) -> tuple[Detection, NoduleMask | None] | None:
            peak, world = marked
            guess = float(predictions.maps[(DIAMETER, *peak["coordinates_voxel"])])
            if lungs.certain and lungs.distance_to(world) > guess / 2 + BESIDE_LUNG:
                return None
            here = map_points(to_voxels, world) * spacing_of(affine)
            properties, body = segment_and_measure(array, _vec3(here), guess, spacing_of(affine))
            centre = world if body is None else map_points(affine, np.divide(body.centre, spacing_of(affine)))
            location = lungs.locate(centre) if placed else Location(side=None, third=None)
            nodule = _detection(scan, peak, (world, centre), guess, properties, placed=placed)
            return {**nodule, "location": location}, _mask(body, to_input)

        with ThreadPoolExecutor(MEASURED_AT_ONCE) as pool:
            described = [one for one in pool.map(describe, peaks) if one is not None]
        found: list[Detection] = [{**nodule, "id": number} for number, (nodule, _) in enumerate(described)]
        masks = [mask for _, mask in described]
        rules = self.config.post_processing
        kept = filter_detections(found, rules, masks)
        every = [*kept, *filter_masses(found, rules, masks)]
        numbered: list[Detection] = [{**nodule, "id": number} for number, nodule in enumerate(every)]
        small = sum(nodule["diameter_mm"] < rules.size_filter.min_diameter for nodule in found)
        left_out = LeftOut(away_from_lungs=len(peaks) - len(found), too_small=small)
        return _Found(numbered, len(kept), [masks[nodule["id"]] for nodule in every], left_out)

    def _metadata(
        self, scan: Scan, predictions: Predictions, search: dict[str, Any], timings: dict[str, float], patient: Patient
    ) -> dict[str, Any]:
        return {
            "spacing": [round(v, 6) for v in scan.spacing],
            "shape": list(scan.shape),
            "affine": scan.affine.tolist(),
            "series_uid": scan.series_uid,
            "notes": list(scan.notes),
            **self.origin,
            "guidelines": {**SOURCES, "patient": patient != Patient()},  # whether anything was known, not what
            "device": str(self.device),
            "precision": str(precision(self.device, mixed=self.config.model.mixed_precision)).removeprefix("torch."),
            **search,
            "engine": getattr(self.model, "engine", "torch"),
            "windows": predictions.windows,
            "windows_retried": predictions.retried,
            "timings_seconds": {stage: round(seconds, 3) for stage, seconds in timings.items()},
        }


def _check_input(config: Config, checkpoint: Checkpoint) -> None:
    """Refuse a configuration that contradicts the model's preprocessing."""
    trained = checkpoint.about.preprocessing.model_dump()
    for key, wanted in config.input.model_dump(exclude_none=True).items():
        if wanted != trained[key]:
            msg = f"input.{key} is {wanted!r}, but the model was trained with {trained[key]!r}: remove the key"
            raise BadConfig(msg)


@contextmanager
def _cudnn_benchmark(*, wanted: bool) -> Iterator[None]:
    """Where cuDNN tries which of its algorithms is fastest, if that is wanted; the host's own setting is kept."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, wanted
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _shifted(
    progress: Callable[[int, int], None] | None, *, early: int = 0, late: int = 0
) -> Callable[[int, int], None] | None:
    """The progress of one look, told as that of all: `early` windows came before it, and `late` follow."""
    return None if progress is None else lambda done, total: progress(early + done, early + total + late)


def _as_scan(scan: Scan | npt.NDArray[Any], spacing: Vec3 | None) -> tuple[Scan, bool]:
    """The input as a `Scan`, and whether its place in the world is known."""
    if isinstance(scan, Scan):
        return scan, True
    own: Affine | None = getattr(scan, "affine", None)
    affine = _affine(scan, own, spacing)
    try:
        shape, _ = check_shape(np.shape(scan))
        affine, straightened = nearest_orthogonal(affine)
        check_extent(shape, affine)
        array, changed = as_hounsfield(np.asarray(scan).reshape(shape))
    except BadScan as error:
        msg = f"the given array {error}"
        raise BadScan(msg) from error
    return Scan(array, affine, notes=(*getattr(scan, "notes", ()), *straightened, *changed)), own is not None


def _affine(scan: npt.NDArray[Any], own: Affine | None, spacing: Vec3 | None) -> Affine:
    """The array's own affine; else one of its spacing, with axes that are taken to run to the left, back and head."""
    if spacing is None:
        if own is None:
            msg = "an array without an affine needs its spacing: predict(scan, spacing)"
            raise BadScan(msg)
        return own
    steps = np.asarray(spacing, dtype=np.float64)
    if steps.shape != (3,) or not (np.isfinite(steps).all() and (steps > 0).all()):
        msg = f"the spacing {spacing} must be three positive numbers, millimetres along x, y and z"
        raise BadScan(msg)
    if own is None:
        return RAS_TO_LPS @ affine_from_spacing(spacing)
    check_spacing(scan, spacing)
    return own


def _drawn(heat: FloatArray, affine: Affine, scan: Scan, peaks: list[tuple[Peak, WorldPoint]]) -> FloatArray:
    """The heatmap on the scan's grid, whose voxel at each peak has the peak's own value.

    Between its voxels a map is interpolated, which alone would lower a peak, by more the thicker the slices are.
    """
    drawn = to_grid(heat.clip(0, 1), affine, scan.shape, scan.affine)
    for peak, world in peaks:
        voxel = _voxel(scan, map_points(np.linalg.inv(scan.affine), world))
        drawn[voxel] = max(float(drawn[voxel]), peak["confidence"])
    return drawn


def _voxel(scan: Scan, index: npt.NDArray[np.float64]) -> Shape3:
    """The scan's voxel nearest to a fractional index."""
    x, y, z = (int(i) for i in np.clip(np.round(index), 0, np.array(scan.shape) - 1))
    return x, y, z


def _detection(
    scan: Scan,
    peak: Peak,
    places: tuple[WorldPoint, WorldPoint],
    guess: float,
    properties: Properties,
    *,
    placed: bool,
) -> Detection:
    """The nodule of a peak; `places` in the world are the peak's and that of the nodule's centre."""
    at_peak, index = (map_points(np.linalg.inv(scan.affine), place) for place in places)
    measured = properties["effective_diameter_mm"]
    diameter = round(float(measured if measured is not None else guess), 2)
    return Detection(
        id=0,
        coordinates=_vec3(index * scan.spacing),
        coordinates_voxel=_voxel(scan, index),
        coordinates_lps=_vec3(to_lps(scan.affine, index)) if placed else None,
        peak_lps=_vec3(to_lps(scan.affine, at_peak)) if placed else None,
        diameter_mm=diameter,
        diameter_source="segmentation" if measured is not None else "network",
        confidence=round(peak["confidence"], 4),
        properties=properties,
        triage=score(properties, diameter),
    )


def _mask(body: "Segmentation | None", to_input: Affine) -> NoduleMask | None:
    """The segmented nodule on the input's grid."""
    if body is None:
        return None
    voxels, origin = turn_box(body.mask, body.origin, to_input)
    return NoduleMask(voxels.astype(bool), origin)


def _vec3(values: npt.NDArray[np.float64]) -> Vec3:
    x, y, z = (round(float(v), 3) for v in values)
    return x, y, z


def _ruled(detections: list[Detection], patient: Patient) -> list[Detection]:
    """The detections with what the guidelines say of them."""
    ruled = apply_guidelines([nodule["properties"] for nodule in detections], patient)
    return [{**nodule, "guidelines": rules} for nodule, rules in zip(detections, ruled, strict=True)]


def _counts(detections: list[Detection]) -> dict[str, Any]:
    risks = [found["triage"]["risk_category"] for found in detections]
    return {
        "num_detections": len(detections),
        "high_risk_count": risks.count("high"),
        "intermediate_risk_count": risks.count("intermediate"),
        "low_risk_count": risks.count("low"),
        "unscored_count": risks.count(None),
    }
