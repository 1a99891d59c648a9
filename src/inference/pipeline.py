"""The loaded model and all its steps, from a scan to described nodules."""

import logging
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import torch

from ..config import Config, load_config
from ..data.files import whole_file
from ..data.geometry import affine_from_spacing, canonical, map_points, spacing_of, to_lps
from ..data.preprocessing import preprocess
from ..data.resample import to_grid
from ..errors import BadConfig, BadScan
from ..model.checkpoint import load_model
from ..model.device import pick_device, precision
from ..model.unet import DIAMETER, HEATMAP
from ..types import Detection, Peak, Preprocessed, Report, Scan, Triage, Vec3, Volume
from .nodule_properties import extract_properties
from .output_formatter import save_csv, save_json
from .peak_detection import detect_peaks
from .post_processing import filter_detections
from .sliding_window import Predictions, predict_windows
from .tta import IDENTITY, views

__all__ = ["InferencePipeline", "Results"]

log = logging.getLogger("pivot")
UNSCORED = Triage(malignancy_score=None, risk_category=None, reason="the malignancy head of this model is not trained")


class Results(Report):
    """A report with the heatmap: (X, Y, Z) float32 in 0..1 on the input scan's grid."""

    heatmap: Volume


class InferencePipeline:
    """A model with its configuration, ready for any number of scans.

    Args:
        checkpoint: the model file; without one, `model.checkpoint` of the config, then the shipped weights.
        config: YAML file, mapping or `Config`.
        device: overrides `model.device`.

    Raises:
        BadConfig: the configuration is wrong, or contradicts the model's preprocessing.
        BadCheckpoint: the model cannot be loaded.
    """

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        config: Config | dict[str, Any] | str | Path | None = None,
        device: str | None = None,
    ) -> None:
        self.config = load_config(config)
        self.checkpoint = load_model(checkpoint or self.config.model.checkpoint)
        self.device = pick_device(device or self.config.model.device)
        self.model = self.checkpoint.model.to(self.device)
        torch.backends.cudnn.benchmark = self.config.inference.cudnn_benchmark
        self._check_input()

    def predict(
        self,
        scan: Scan | npt.NDArray[Any],
        spacing: Vec3 | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Results:
        """The nodules of a scan: a `Scan`, or an (X, Y, Z) array in HU with its spacing in millimetres."""
        start = time.perf_counter()
        scan, placed = _as_scan(scan, spacing)
        about = self.checkpoint.about.preprocessing
        method = about.normalization_method if about.normalize else None
        volume = preprocess(scan, about.spacing, about.clip_range, method)  # type: ignore[arg-type]
        ready = time.perf_counter()
        predictions = self._infer(volume, progress)
        inferred = time.perf_counter()
        scale = int(getattr(self.model, "output_stride", 1))
        heat_affine = volume.affine @ np.diag([scale, scale, scale, 1])
        candidates = self._describe(scan, predictions, heat_affine, placed=placed)
        kept = filter_detections(candidates, self.config.post_processing)
        detections = [Detection(**{**found, "id": number}) for number, found in enumerate(kept)]  # type: ignore[typeddict-item]
        heatmap = to_grid(predictions.maps[HEATMAP], heat_affine, scan.shape, scan.affine).clip(0, 1)
        timings = {
            "preprocess": ready - start,
            "inference": inferred - ready,
            "postprocess": time.perf_counter() - inferred,
        }
        return Results(
            scan_id=scan.scan_id,
            model=self.checkpoint.about.name,
            timestamp=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            metadata=self._metadata(scan, predictions, timings),
            detections=detections,
            summary=_summary(detections, time.perf_counter() - start),
            heatmap=Volume(heatmap, scan.affine),
        )

    def save_detections(self, results: Results, path: str | Path) -> None:
        """Write the JSON report, or the CSV table where `path` ends in `.csv`."""
        (save_csv if Path(path).suffix == ".csv" else save_json)(results, path)

    def save_heatmap(self, heatmap: npt.NDArray[Any], path: str | Path) -> None:
        """Write a heatmap (X, Y, Z) in 0..1 to NIfTI, in steps of 1/255, or to `.npy`."""
        with whole_file(path) as partial:
            if Path(path).suffix == ".npy":
                np.save(partial, np.asarray(heatmap))
                return
            affine = getattr(heatmap, "affine", None)
            image = nibabel.Nifti1Image(np.round(np.asarray(heatmap) * 255).astype(np.uint8), affine)
            image.header.set_slope_inter(1 / 255, 0)
            image.header.set_xyzt_units("mm")
            nibabel.save(image, partial)

    def _check_input(self) -> None:
        trained = self.checkpoint.about.preprocessing.model_dump()
        for key, wanted in self.config.input.model_dump(exclude_none=True).items():
            if wanted != trained[key]:
                msg = f"input.{key} is {wanted!r}, but the model was trained with {trained[key]!r}: remove the key"
                raise BadConfig(msg)

    def _infer(self, volume: Preprocessed, progress: Callable[[int, int], None] | None) -> Predictions:
        options = self.config.inference
        patch, stride = options.patch_size, options.step
        if options.mode == "whole_volume":
            multiple = int(getattr(self.model, "multiple", 1))
            x, y, z = (-(-size // multiple) * multiple for size in volume.array.shape)
            patch = stride = (x, y, z)
        tta = options.tta
        return predict_windows(
            self.model,
            volume.array,
            patch,
            stride,
            batch_size=options.batch_size,
            device=self.device,
            blending=options.blending.method,
            sigma=options.blending.sigma,
            views=views(tta.num_augmentations, tta.augmentations) if tta.enabled else (IDENTITY,),
            mixed_precision=self.config.model.mixed_precision,
            clear_cache=options.clear_cache,
            progress=progress,
        )

    def _describe(
        self, scan: Scan, predictions: Predictions, heat_affine: npt.NDArray[np.float64], *, placed: bool
    ) -> list[Detection]:
        rules = self.config.post_processing.peak_detection
        spacing = spacing_of(heat_affine)
        peaks = detect_peaks(predictions.maps[HEATMAP], rules.threshold, rules.min_distance, spacing, rules.method)
        array, affine = canonical(scan.array, scan.affine)  # measured with the third axis from feet to head
        found = []
        for peak in peaks:
            guess = float(predictions.maps[(DIAMETER, *peak["coordinates_voxel"])])
            world = map_points(heat_affine, np.array(peak["coordinates"]) / spacing)
            here = map_points(np.linalg.inv(affine), world) * spacing_of(affine)
            properties = extract_properties(array, _vec3(here), guess, spacing_of(affine))
            found.append(_detection(scan, peak, world, guess, properties, placed=placed))
        return found

    def _metadata(self, scan: Scan, predictions: Predictions, timings: dict[str, float]) -> dict[str, Any]:
        about = self.checkpoint.about
        return {
            "spacing": [round(v, 6) for v in scan.spacing],
            "shape": list(scan.shape),
            "affine": scan.affine.tolist(),
            "series_uid": scan.series_uid,
            "notes": list(scan.notes),
            "checkpoint": {"name": about.name, "version": about.version, "sha256": self.checkpoint.sha256},
            "config": self.config.model_dump(mode="json"),
            "device": str(self.device),
            "precision": str(precision(self.device, mixed=self.config.model.mixed_precision)).removeprefix("torch."),
            "windows": predictions.windows,
            "windows_retried": predictions.retried,
            "timings_seconds": {key: round(value, 3) for key, value in timings.items()},
            "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        }


def _as_scan(scan: Scan | npt.NDArray[Any], spacing: Vec3 | None) -> tuple[Scan, bool]:
    """The input as a `Scan`, and whether its place in the world is known."""
    if isinstance(scan, Scan):
        return scan, True
    affine = getattr(scan, "affine", None)
    if affine is None and spacing is None:
        msg = "an array without an affine needs its spacing: predict(scan, spacing)"
        raise BadScan(msg)
    if affine is not None and spacing is not None and not np.allclose(spacing_of(affine), spacing, rtol=1e-3):
        msg = f"the spacing {list(spacing)} contradicts the scan's own {[round(v, 4) for v in spacing_of(affine)]}"
        raise BadScan(msg)
    if np.ndim(scan) != 3:  # noqa: PLR2004 - a volume
        msg = f"a scan has three axes, this array has shape {np.shape(scan)}"
        raise BadScan(msg)
    if affine is None:
        assert spacing is not None  # noqa: S101 - checked above
        # The axes' directions are unknown: taken to run to the left, back and head.
        return Scan(np.asarray(scan), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine_from_spacing(spacing)), False
    return Scan(np.asarray(scan), affine), True


def _detection(  # noqa: PLR0913
    scan: Scan, peak: Peak, world: npt.NDArray[np.float64], guess: float, properties: Any, *, placed: bool  # noqa: ANN401
) -> Detection:
    index = map_points(np.linalg.inv(scan.affine), world)
    voxel = np.clip(np.round(index), 0, np.array(scan.shape) - 1).astype(int)
    measured = properties["effective_diameter_mm"]
    return Detection(
        id=0,
        coordinates=_vec3(index * scan.spacing),
        coordinates_voxel=(int(voxel[0]), int(voxel[1]), int(voxel[2])),
        coordinates_lps=_vec3(to_lps(scan.affine, index)) if placed else None,
        diameter_mm=round(float(measured if measured is not None else guess), 2),
        diameter_source="segmentation" if measured is not None else "network",
        confidence=round(peak["confidence"], 4),
        properties=properties,
        triage=UNSCORED,
    )


def _vec3(values: npt.NDArray[np.float64]) -> Vec3:
    x, y, z = (round(float(v), 3) for v in values)
    return x, y, z


def _summary(detections: list[Detection], seconds: float) -> dict[str, Any]:
    risks = [found["triage"]["risk_category"] for found in detections]
    return {
        "num_detections": len(detections),
        "high_risk_count": risks.count("high"),
        "low_risk_count": risks.count("low"),
        "unscored_count": risks.count(None),
        "processing_time_seconds": round(seconds, 3),
    }
