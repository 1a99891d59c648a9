"""The inference pipeline: from a scan to measured nodules."""

import logging
import platform
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from .. import __version__
from ..config import Config, load_config
from ..data.arrays import GivenScan, as_scan
from ..data.geometry import canonical
from ..data.lungs import Lungs, check_chest
from ..detectors.opening import GivenModel, open_model
from ..detectors.recipe import Together
from ..errors import OUT_OF_MEMORY, BadConfig, BadOutput, PivotError
from ..given import path_of
from ..guidelines.apply import SOURCES
from ..guidelines.lung_rads import exam
from ..guidelines.patient import Patient, load_patient
from ..model.checkpoint import Checkpoint
from ..model.device import pick_device
from ..results.conclusion import conclude, warnings_of
from ..results.output_formatter import GivenHeatmap, as_report, heatmap_of, save_csv, save_heatmap, save_json
from ..triage.model import default_model
from ..types import Detection, Expected, FloatArray, Results, Scan, Vec3, Volume
from .detector import Answer
from .findings import Findings, describe_peaks, draw_heatmap
from .network import Network
from .opened import open_detector
from .sliding_window import Progress

__all__ = ["InferencePipeline"]

named = logging.getLogger("pivot.scan")  # for messages with the scan's name, which may identify a patient
OVERFLOWED = "%s: %d batches overflowed in half precision and were repeated in float32"


@contextmanager
def _enough_memory() -> Iterator[None]:
    """Turn the errors that torch and NumPy raise when memory runs out into one `PivotError`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(sign in str(error) for sign in OUT_OF_MEMORY):
            raise
        msg = "not enough memory for this scan: lower inference.batch_size (--batch-size) or inference.patch_size"
        raise PivotError(msg) from error


class InferencePipeline:
    """A model with its configuration, ready for any number of scans.

    Several threads may call `predict` at once, with any engine. On one processor this is no faster than one call after
    another, and it needs the memory of all calls.

    Args:
        checkpoint: a model's path, a loaded model, or a list of them, which search together (docs/detectors.md).
            Default: `model.checkpoint` of the config, else the shipped weights.
        config: a YAML file, a mapping or a `Config`.
        device: overrides `model.device`.

    Raises:
        BadConfig: the configuration is wrong, or contradicts the model's preprocessing.
        BadCheckpoint: the model cannot be loaded.
    """

    def __init__(
        self,
        checkpoint: GivenModel = None,
        config: Config | dict[str, Any] | str | Path | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        config = load_config(config)
        self.device = pick_device(config.model.device if device is None else device)
        self.checkpoint = open_model(config.model.checkpoint if checkpoint is None else checkpoint)
        _check_input(config, self.checkpoint)
        self.config = config
        self.detector = open_detector(self.checkpoint, config, self.device)

    def with_config(self, config: Config | dict[str, Any] | str | Path | None) -> Self:
        """The same loaded weights, on the same device, under another configuration.

        Raises:
            BadConfig: the configuration is wrong, or contradicts the model's preprocessing.
        """
        return type(self)(self.checkpoint, config, str(self.device))

    @property
    def network(self) -> Network:
        """The detector of a PIVOT checkpoint."""
        assert isinstance(self.detector, Network)  # noqa: S101 - for callers who know their checkpoint
        return self.detector

    @_enough_memory()
    def predict(
        self,
        scan: GivenScan,
        spacing: Vec3 | None = None,
        progress: Progress | None = None,
        patient: Patient | dict[str, Any] | str | Path | None = None,
        scan_id: str | None = None,
    ) -> Results:
        """Find the nodules of a scan.

        Args:
            scan: a path, a `Scan`, or an (X, Y, Z) array in HU.
            spacing: mm, for an array.
            progress: is called with the number of windows done and the number of all windows.
            patient: what the guidelines may use: a YAML file, a mapping or a `Patient`. The results do not repeat it.
            scan_id: the scan's name in the results. By default that of its file.

        Raises:
            BadScan: the array is no chest CT volume. Its spacing is missing or contradicts its affine. The scan has no
                lungs, and its header names another part of the body.
            BadConfig: `inference.patch_size` or `stride` does not suit the model, or `patient` or `scan_id` is wrong.
            PivotError: memory ran out.
        """
        start = time.perf_counter()
        from ..data.lung_finder import find_lungs  # noqa: PLC0415 - for a file, `read_timed` has imported it already

        scan, placed = as_scan(scan, spacing, scan_id)
        known = load_patient(patient)
        return self._run(scan, find_lungs(*canonical(scan.array, scan.affine)), progress, known, start, placed=placed)

    @_enough_memory()
    def predict_read(self, scan: Scan, lungs: Lungs, progress: Progress | None, patient: Patient) -> Results:
        """`predict` for a scan from a file. Its lungs were found when it was read."""
        return self._run(scan, lungs, progress, patient, time.perf_counter(), placed=True)

    def _run(
        self, scan: Scan, lungs: Lungs, progress: Progress | None, patient: Patient, start: float, *, placed: bool
    ) -> Results:
        check_chest(scan.body_part, lungs)
        search = self.detector.prepare(scan, lungs)
        ready = time.perf_counter()
        answer = search(self.config.post_processing.peak_detection, progress)
        del search  # and its resampled scan
        if answer.retried:
            named.warning(OVERFLOWED, scan.scan_id, answer.retried)
        inferred = time.perf_counter()
        heatmap, found = self._find(scan, lungs, answer, placed=placed)
        found = found.with_guidelines(patient).with_probabilities(self.checkpoint.about.validation)
        for warning in warnings_of(found.masses, lungs.report()):
            named.warning("%s: %s", scan.scan_id, warning)
        summary = self._summary(found, lungs, patient)
        end = time.perf_counter()
        timings = {"preprocess": ready - start, "inference": inferred - ready, "postprocess": end - inferred}
        searched = _about_search(lungs, answer, found)
        return Results(
            scan_id=scan.scan_id,
            model=self.checkpoint.about.name,
            timestamp=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            metadata=self._metadata(scan, searched, timings, patient),
            detections=found.detections,
            masses=found.masses,
            candidates=found.candidates,
            summary={**summary, "processing_time_seconds": round(end - start, 3)},
            heatmap=Volume(heatmap, scan.affine),
            masks=found.masks,
        )

    def _find(self, scan: Scan, lungs: Lungs, answer: Answer, *, placed: bool) -> tuple[FloatArray, Findings]:
        """The heatmap on the scan's grid, and the findings."""
        rules, peaks = self.config.post_processing, answer.peaks
        with ThreadPoolExecutor(1) as beside:
            drawn = beside.submit(draw_heatmap, answer.heat, answer.affine, scan, peaks)
            found = describe_peaks(peaks, scan=scan, lungs=lungs, rules=rules, placed=placed)
            return drawn.result(), found

    def _summary(self, found: Findings, lungs: Lungs, patient: Patient) -> dict[str, Any]:
        categories = [one["guidelines"]["lung_rads"] for one in (*found.detections, *found.masses)]
        report = lungs.report()
        return {
            **_counts(found.detections),
            "num_masses": len(found.masses),
            "lung_rads": exam(categories, patient, report),
            "conclusion": conclude(found.detections, found.masses, report, self.expected),
            "warnings": warnings_of(found.masses, report),
        }

    def save_detections(self, results: Results, path: str | Path) -> None:
        """Write the JSON report, or the CSV table if `path` ends in `.csv`.

        Raises:
            BadOutput: these are no results of `predict`, or the file cannot be written.
        """
        target = path_of(path, "path", BadOutput)
        (save_csv if target.suffix == ".csv" else save_json)(as_report(results), target)

    def save_heatmap(self, heatmap: GivenHeatmap, path: str | Path) -> None:
        """Write a (X, Y, Z) heatmap in 0..1, or that of results: NIfTI in steps of 1/255, or `.npy`.

        Raises:
            BadOutput: it is no heatmap, or the file cannot be written.
        """
        save_heatmap(heatmap_of(heatmap), path_of(path, "path", BadOutput))

    @property
    def expected(self) -> Expected | None:
        """The model's measured performance at the configured threshold; None if it was not measured."""
        validation = self.checkpoint.about.validation
        return validation.expected_at(self.config.post_processing.threshold) if validation else None

    @property
    def origin(self) -> dict[str, Any]:
        """All inputs of the results except the scan: the model, the configuration and the versions."""
        return {
            "checkpoint": self.checkpoint.identity,
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

    def _metadata(
        self, scan: Scan, searched: dict[str, Any], timings: dict[str, float], patient: Patient
    ) -> dict[str, Any]:
        return {
            "spacing": [round(v, 6) for v in scan.spacing],
            "shape": list(scan.shape),
            "affine": scan.affine.tolist(),
            "series_uid": scan.series_uid,
            "notes": list(scan.notes),
            **self.origin,
            "guidelines": {**SOURCES, "patient": patient != Patient()},  # only whether patient data was given
            "expected": self.expected,
            "device": str(self.device),
            "precision": self.detector.precision,
            "engine": self.detector.engine,
            **searched,
            "timings_seconds": {stage: round(seconds, 3) for stage, seconds in timings.items()},
        }


def _about_search(lungs: Lungs, answer: Answer, found: Findings) -> dict[str, Any]:
    """The report's metadata about the search."""
    return {
        "searched": "everything" if answer.everywhere else "lungs",
        "lung_litres": lungs.litres if lungs.recognised else None,
        "lungs": lungs.report(),
        "left_out": found.left_out,
        "windows": answer.windows,
        "windows_retried": answer.retried,
    }


def _check_input(config: Config, checkpoint: Checkpoint) -> None:
    """Raise `BadConfig` if the configuration contradicts the model's preprocessing."""
    if isinstance(checkpoint, Together):
        for member in checkpoint.members:
            _check_input(config, member)
        return
    trained = checkpoint.about.preprocessing.model_dump()
    for key, wanted in config.input.model_dump(exclude_none=True).items():
        if wanted != trained[key]:
            msg = f"input.{key} is {wanted!r}, but the model was trained with {trained[key]!r}, and every scan is "
            msg += "resampled and clipped to this: remove the key, or give another model"
            raise BadConfig(msg)


def _counts(detections: Sequence[Detection]) -> dict[str, Any]:
    risks = [found["triage"]["risk_category"] for found in detections]
    return {
        "num_detections": len(detections),
        "high_risk_count": risks.count("high"),
        "intermediate_risk_count": risks.count("intermediate"),
        "low_risk_count": risks.count("low"),
        "unscored_count": risks.count(None),
    }
