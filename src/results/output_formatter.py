"""Writes results to files, and reads them: detections as JSON and CSV, heatmaps as NIfTI.

nibabel is imported on first use: the import takes a second.
"""

import json
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import BadConfig, BadOutput
from ..files import whole_file, write_csv, write_json
from ..given import array_of, is_path, number_of, numbers_of, path_of, words_for
from ..quiet import quiet_libraries
from ..types import Detection, Report, Volume

__all__ = [
    "CSV_COLUMNS",
    "GivenDetections",
    "GivenHeatmap",
    "as_detections",
    "heatmap_of",
    "load_detections",
    "load_heatmap",
    "load_report",
    "marks_of",
    "rounded",
    "save_csv",
    "save_heatmap",
    "save_json",
]

GivenDetections: TypeAlias = Iterable[Detection] | Mapping[str, Any] | str | os.PathLike[str]
GivenHeatmap: TypeAlias = npt.ArrayLike | Mapping[str, Any] | str | os.PathLike[str]
CSV_COLUMNS = (
    "scan_id",
    "detection_id",
    "coord_x",
    "coord_y",
    "coord_z",
    "diameter_mm",
    "confidence",
    "malignancy_score",
    "risk_category",
)
DIGITS = {
    "volume_mm3": 2,
    "mean_intensity": 1,
    "std_intensity": 1,
    "min_intensity": 1,
    "max_intensity": 1,
    "effective_diameter_mm": 2,
    "long_axis_mm": 2,
    "short_axis_mm": 2,
    "solid_mm": 2,
    "sphericity": 3,
    "solid_fraction": 3,
    "lung_litres": 2,
    "litres": 2,
    "upper_lobe": 4,
    "other_lobe": 4,
    "affine": 9,
}
REPORT_KEYS = ("scan_id", "model", "timestamp", "metadata", "detections", "masses", "candidates", "summary")
LATER_KEYS = {"masses", "candidates"}  # missing in reports of earlier versions
NEEDED = ("coordinates", "diameter_mm", "confidence")  # in each detection


def save_json(report: Mapping[str, Any], path: str | Path) -> None:
    """Write a report's `*_detections.json`. Other keys, such as the heatmap, are left out."""
    write_json(rounded({key: report[key] for key in REPORT_KEYS if key in report}), path, indent=2)


def rounded(value: Any, key: str = "") -> Any:  # noqa: ANN401 - any JSON value
    """The value with measurements rounded, to digits far below their repeatability."""
    if isinstance(value, float):
        return round(value, DIGITS[key]) if key in DIGITS else value
    if isinstance(value, Mapping):
        return {name: rounded(one, name) for name, one in value.items()}
    return [rounded(one, key) for one in value] if isinstance(value, list | tuple) else value


def save_csv(report: Mapping[str, Any], path: str | Path) -> None:
    """Write a report's `*_detections.csv`: one row per nodule, with coordinates in millimetres as in the JSON."""
    write_csv(CSV_COLUMNS, (_row(report["scan_id"], detection) for detection in report["detections"]), path)


def _row(scan_id: str, detection: Detection) -> list[object]:
    triage = detection["triage"]
    return [
        scan_id,
        detection["id"],
        *detection["coordinates"],
        detection["diameter_mm"],
        detection["confidence"],
        triage["malignancy_score"],  # a missing score gives an empty field
        triage["risk_category"],
    ]


def save_heatmap(heatmap: npt.NDArray[Any], path: str | Path) -> None:
    """Write an (X, Y, Z) heatmap in 0..1 to NIfTI in steps of 1/255 with its `affine`, or to `.npy`."""
    with whole_file(path) as partial:
        if Path(path).suffix == ".npy":
            np.save(partial, np.asarray(heatmap))
            return
        import nibabel  # noqa: PLC0415

        image = nibabel.Nifti1Image(_in_steps(np.asarray(heatmap)), getattr(heatmap, "affine", None))
        image.header.set_slope_inter(1 / 255, 0)
        image.header.set_xyzt_units("mm")
        nibabel.save(image, partial)


def _in_steps(heatmap: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Scale 0..1 to 0..255, slice by slice, without a copy of the whole heatmap."""
    steps = np.empty(heatmap.shape, np.uint8, order="F")
    for z in range(heatmap.shape[2]):
        steps[..., z] = np.rint(heatmap[..., z] * 255)
    return steps


@quiet_libraries()
def load_heatmap(path: str | Path) -> npt.NDArray[np.float32]:
    """The (X, Y, Z) heatmap in a file of `save_heatmap`: a `Volume`, or a plain array from `.npy`.

    Raises:
        BadOutput: the file is missing, or holds no volume.
    """
    import nibabel  # noqa: PLC0415
    from nibabel.filebasedimages import ImageFileError  # noqa: PLC0415

    try:
        if Path(path).suffix == ".npy":
            heatmap: npt.NDArray[np.float32] = np.load(path, allow_pickle=False).astype(np.float32)
        else:
            image: Any = nibabel.load(path)
            heatmap = Volume(image.get_fdata(dtype=np.float32), image.affine)
    except OSError as error:
        msg = f"cannot read the heatmap {path}: {error.strerror or 'it is damaged or cut short'}"
        raise BadOutput(msg) from None
    except (ValueError, EOFError, zlib.error, ImageFileError) as error:
        msg = f"{path} is no heatmap that PIVOT wrote ({error})"
        raise BadOutput(msg) from None
    if heatmap.ndim != 3:
        msg = f"{path} holds an array of shape {heatmap.shape}, not a heatmap (X, Y, Z)"
        raise BadOutput(msg)
    return heatmap


def load_report(path: str | Path, *, reviewed: bool = False) -> Report:
    """The content of a `*_detections.json`, or of a `*_reviewed.json` if `reviewed` ones are allowed.

    Raises:
        BadOutput: the file is missing, or not written by PIVOT.
    """
    try:
        report = json.loads(path_of(path, "the detections", BadOutput).read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"cannot read the detections {path}: {error.strerror}"
        raise BadOutput(msg) from None
    except ValueError as error:
        msg = f"{path} is not JSON ({error})"
        raise BadOutput(msg) from None
    missing = [key for key in REPORT_KEYS if not isinstance(report, dict) or key not in {*report, *LATER_KEYS}]
    if missing:
        msg = f"{path} is not a detections file of PIVOT: it lacks {', '.join(missing)}"
        raise BadOutput(msg)
    if not isinstance(report["metadata"], dict):
        msg = f"{path} is not a detections file of PIVOT: its metadata is no mapping"
        raise BadOutput(msg)
    as_detections(report["detections"], str(path), reviewed=reviewed)
    report["masses"] = as_detections(report.get("masses") or [], str(path))
    report.setdefault("candidates", [])
    result: Report = report
    return result


def as_report(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """A report, after validation.

    Raises:
        BadOutput: it is something else.
    """
    missing = [key for key in REPORT_KEYS if not isinstance(given, Mapping) or key not in {*given, *LATER_KEYS}]
    if missing:
        msg = f"results must be what predict returns, not {words_for(given)}: it lacks {', '.join(missing)}"
        raise BadOutput(msg)
    return given


def heatmap_of(given: GivenHeatmap) -> npt.NDArray[Any]:
    """A heatmap (X, Y, Z) from an array or a tensor, from the results of `predict`, or from a file.

    Raises:
        BadOutput: it is something else.
    """
    if is_path(given):
        return load_heatmap(given)  # type: ignore[arg-type]
    array = array_of(given.get("heatmap") if isinstance(given, Mapping) else given, "the heatmap", BadOutput)
    if array.ndim == 4:
        msg = (
            f"the heatmap has the shape {array.shape}: of the maps of sliding_window_inference give the first, maps[0]"
        )
        raise BadOutput(msg)
    if array.ndim != 3 or array.dtype.kind == "c":
        msg = f"a heatmap is an array of numbers of shape (X, Y, Z), not {words_for(given)}"
        raise BadOutput(msg)
    return array


def marks_of(given: GivenDetections) -> list[Detection]:
    """The marks in a list, in a report, or in a JSON file. Their diameters may be unknown.

    Raises:
        BadOutput: it is something else.
    """
    where = str(given) if is_path(given) else "detections"
    content = load_report(given) if is_path(given) else given  # type: ignore[arg-type]
    return as_detections(content.get("detections") if isinstance(content, Mapping) else content, where, measured=False)


def load_detections(path: str | Path) -> list[Detection]:
    """The nodules in a `*_detections.json`, strongest first, as written.

    Raises:
        BadOutput: the file is missing, or not written by PIVOT.
    """
    return load_report(path)["detections"]


def as_detections(listed: object, where: str, *, measured: bool = True, reviewed: bool = False) -> list[Detection]:
    """A list of detections, after validation. Unless `measured`, the diameter may be missing.

    With `reviewed`, a nodule that a reader added may lack its confidence and its diameter.

    Raises:
        BadOutput: it is something else; the message begins with `where`.
    """
    if not isinstance(listed, Iterable) or isinstance(listed, str | bytes | Mapping | np.ndarray):
        msg = f"{where} holds no list `detections`: give PIVOT's detections JSON, or a list of detections"
        raise BadOutput(msg)
    detections: list[Detection] = list(listed)
    for position, detection in enumerate(detections):
        needed = NEEDED if measured else [key for key in NEEDED if key != "diameter_mm"]
        if not isinstance(detection, Mapping) or not set(needed) <= set(detection):
            msg = f"{where}: detections[{position}] lacks {', '.join(needed[:-1])} or {needed[-1]}; it is not PIVOT's"
            raise BadOutput(msg)
        own = reviewed and "review" in detection and detection["confidence"] is None
        _check_numbers(detection, f"{where}: detections[{position}]", measured=measured and not own, sure=not own)
    return detections


def _check_numbers(detection: Mapping[str, Any], where: str, *, measured: bool, sure: bool) -> None:
    try:
        numbers_of(detection["coordinates"], "coordinates")
        if sure:
            number_of(detection["confidence"], "confidence", 0, 1)
        diameter = detection.get("diameter_mm")
        if measured and diameter is None:
            msg = "diameter_mm is not known: measure it with extract_properties, and set it first"
            raise BadConfig(msg)  # noqa: TRY301 - reported like the others
        if diameter is not None:
            number_of(diameter, "diameter_mm", 0)
    except BadConfig as error:
        msg = f"{where}: {error}"
        raise BadOutput(msg) from None
