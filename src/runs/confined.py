"""A confined process that reads one untrusted scan: it can open nothing else, and its memory and time are limited.

Workers start it (`read`, `export_objects`, `measure`) without the service's settings. It returns values only, JSON and
voxels, or writes DICOM objects. It imports only what its task needs, because each scan waits for that.
"""

import argparse
import errno
import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import errors
from ..errors import PivotError, lacking, way_to
from ..processes import limit_memory
from ..sandbox import confine, end_with_parent, needed_by_python
from ..types import Acquisition, Affine, Results, Scan, Vec3, Volume

if TYPE_CHECKING:
    from ..config import Config

__all__ = ["ProcessLimits", "export_objects", "main", "measure", "read"]

log = logging.getLogger("pivot")
PACKAGES = Path(__file__).resolve().parents[2]
KEPT = ("PATH", "LANG", "LC_ALL", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
KNOWN = ("BadScan", "BadOutput", "PivotError")  # errors that it may return
VOXELS, ANSWER, TASK = "voxels.npy", "answer.json", "task.pickle"
LOOK_SECONDS = 0.05
GIGABYTE = 1e9


class ProcessLimits(NamedTuple):
    """The process's limits: a folder for temporary files, bytes of memory (None: all), and time.

    `check` is called regularly. If it raises, the process is ended.
    """

    scratch: Path
    memory: int | None
    check: Callable[[], None]


def read(upload: Path, config: "Config", limits: ProcessLimits) -> tuple[Scan, float]:
    """The scan at `upload`, and the seconds of reading.

    Raises:
        BadScan: the scan cannot be read as a chest CT, or its configured outputs are not possible.
        PivotError: it needs more memory than allowed, or the process died (see `lacking`).
    """
    with _Folder(limits.scratch) as folder:
        answer = _run(["read", str(upload.absolute()), *(["--check"] if config.output.dicom else [])], folder, limits)
        with _opened(folder / VOXELS) as file:
            voxels = np.load(file, allow_pickle=False)
    affine = np.array(answer["affine"], dtype=np.float64).reshape(4, 4)
    uid = answer["series_uid"]
    notes = tuple(str(note) for note in answer["notes"])
    thickness, kernel, numbers = answer["acquisition"]
    made = Acquisition(None if thickness is None else float(thickness), str(kernel), tuple(int(one) for one in numbers))
    scan = Scan(voxels, affine, str(answer["scan_id"]), uid and str(uid), notes, str(answer["body_part"]), made)
    if config.output.dicom:
        from .outputs import check_names  # noqa: PLC0415 - not in the confined process

        check_names(scan, config, limits.scratch)
    return scan, float(answer["seconds"])


def export_objects(
    limits: ProcessLimits,
    series: str | Path,
    results: Results,
    folder: Path,
    report_pdf: Path | None,
    pictures: Sequence[npt.NDArray[np.uint8]],
    asked: Sequence[str],
) -> None:
    """`dicom_io.export.export_objects` in the confined process. It reads the upload again, for its headers.

    Raises:
        BadScan: as for that.
        PivotError: as for `read`.
    """
    series, folder, report = Path(series).absolute(), folder.absolute(), report_pdf and report_pdf.absolute()
    with _Folder(limits.scratch) as scratch:
        with (scratch / TASK).open("wb") as file:
            affine = results["heatmap"].affine  # pickling would lose it
            pickle.dump((results, affine, report, list(pictures), list(asked)), file, protocol=5)
        _run(["export", str(series), "--target", str(folder)], scratch, limits)
    if any(path.is_symlink() or not path.is_file() for path in folder.iterdir()):
        msg = "the process that wrote the DICOM objects made something else: they are not used"
        raise PivotError(msg)


def measure(upload: Path, place: Vec3, limits: ProcessLimits) -> dict[str, Any]:
    """The nodule of the scan at `upload` at a world point (LPS mm): its place, diameter, properties and outline.

    Values that cannot be measured are null.

    Raises:
        ValueError: the answer's outline is invalid.
        BadOutput, BadScan, PivotError: as for `read`; BadScan too if the point is outside the scan.
    """
    from ..results.outlines import mask_in, packed  # noqa: PLC0415 - not in the confined process

    with _Folder(limits.scratch) as folder:
        point = [f"--place={','.join(map(repr, place))}"]
        answer = _run(["measure", str(upload.absolute()), *point], folder, limits)
    voxel, properties = answer["voxel"], answer["properties"]
    return {
        "coordinates": [float(value) for value in answer["coordinates"]],
        "coordinates_voxel": [int(index) for index in voxel],
        "coordinates_lps": [float(value) for value in place],
        "diameter_mm": _number(answer["diameter"]),
        "properties": {
            str(key): str(value) if key == "nodule_type" and value is not None else _number(value)
            for key, value in properties.items()
        },
        "outline": None if answer["outline"] is None else packed(mask_in(answer["outline"])),
    }


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and np.isfinite(value) else None


def _opened(path: Path) -> BinaryIO:
    """The opened file. Links are refused: an attacker in that process could have made one."""
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")


class _Folder:
    """A temporary folder in `scratch`."""

    def __init__(self, scratch: Path) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="read-", dir=scratch))

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def _run(task: list[str], folder: Path, limits: ProcessLimits) -> dict[str, Any]:
    """Run the process, and return its answer."""
    command = [sys.executable, "-P", "-m", f"{__package__}.confined", *task, "--folder", str(folder)]
    command += ["--memory", str(limits.memory)] if limits.memory else []
    variables = {name: os.environ[name] for name in KEPT if name in os.environ}
    variables |= {"PYTHONPATH": str(PACKAGES), "TMPDIR": str(folder), "HOME": str(folder), "MPLCONFIGDIR": str(folder)}
    # Libraries may write names of patients to the standard error.
    none = subprocess.DEVNULL
    process = subprocess.Popen(command, env=variables, cwd=folder, stdin=none, stdout=none, stderr=none)  # noqa: S603
    try:
        while process.poll() is None:
            limits.check()
            time.sleep(LOOK_SECONDS)
    finally:
        process.kill()
        process.wait()
    try:
        with _opened(folder / ANSWER) as file:
            answer: dict[str, Any] = json.load(file)
    except (OSError, ValueError):
        msg = f"the process that read the scan died ({process.returncode}), perhaps for lack of memory or disk space"
        raise PivotError(msg) from MemoryError()
    if "fault" in answer:
        log.error("reading met an unexpected fault (%s)", answer["fault"])
    if kind := answer.get("error"):
        raise getattr(errors, kind if kind in KNOWN else "PivotError")(str(answer["message"])) from _lack(answer)
    return answer


def _lack(answer: dict[str, Any]) -> MemoryError | OSError | None:
    """The resource that the process could not get, as an error that `lacking` finds."""
    number = answer.get("lack")
    if number is None:
        return None
    return MemoryError() if number == errno.ENOMEM else OSError(int(number), os.strerror(int(number)))


def main(arguments: list[str] | None = None) -> None:
    """Do one task, confined to its folder, and write the answer there."""
    end_with_parent()
    parser = argparse.ArgumentParser(prog="python -m src.runs.confined", description="read one scan, confined")
    parser.add_argument("task", choices=("read", "export", "measure"))
    parser.add_argument("scan", type=Path, help="below the parent of the parent of --folder")
    parser.add_argument("--folder", type=Path, required=True, help="for temporary files and the answer")
    parser.add_argument("--check", action="store_true", help="refuse a scan that DICOM objects cannot refer to")
    parser.add_argument("--target", type=Path, help="for DICOM objects")
    parser.add_argument("--place", help="LPS mm, to measure: x,y,z")
    parser.add_argument("--memory", type=int, help="bytes (default: no limit)")
    options = parser.parse_args(arguments)
    limit_memory(options.memory)
    source, folder, target = options.scan, options.folder, options.target
    task = pickle.loads((folder / TASK).read_bytes()) if options.task == "export" else None  # noqa: S301 - the worker's
    report = [task[2]] if task and task[2] else []
    confine([*needed_by_python(), source, *report], [folder, *([target] if target else [])])
    try:
        if options.place:
            answer = _measure(source, options.place)
        else:
            answer = _export(source, target, *task) if task else _read(source, folder, check=options.check)
    except Exception as error:  # noqa: BLE001 - every error is reported to the worker
        answer = _failure(error, options.memory)
    (folder / ANSWER).write_text(json.dumps(answer))


def _failure(error: Exception, memory: int | None) -> dict[str, Any]:
    """The answer for an error: a missing resource, a fault of the scan, or an unexpected error without its message."""
    lack, kind = lacking(error), type(error).__name__
    if isinstance(lack, MemoryError):
        most = f"{memory / GIGABYTE:.1f} GB" if memory else "there is"
        message = f"reading the scan needs more memory than {most}"
        return {"error": "PivotError", "message": message, "lack": errno.ENOMEM}
    if lack and not isinstance(lack, PermissionError):
        message = f"the service lacks resources to read the scan ({lack.strerror})"
        return {"error": "PivotError", "message": message, "lack": lack.errno}
    if isinstance(error, PivotError):
        return {"error": kind, "message": str(error)}
    message = f"unexpected {kind}; see the worker's log"
    return {"error": "PivotError", "message": message, "fault": f"{kind}: {way_to(error)}"}


def _read(source: Path, folder: Path, *, check: bool) -> dict[str, Any]:
    from ..data.loader import read_scan  # noqa: PLC0415 - after `confine`

    start = time.perf_counter()
    scan = read_scan(source)
    if check:
        from .exports import check_objects  # noqa: PLC0415

        check_objects(scan, source)
    np.save(folder / VOXELS, scan.array)
    return {
        "affine": scan.affine.tolist(),
        "scan_id": scan.scan_id,
        "series_uid": scan.series_uid,
        "notes": scan.notes,
        "body_part": scan.body_part,
        "acquisition": scan.acquisition,
        "seconds": time.perf_counter() - start,
    }


def _measure(source: Path, place: str) -> dict[str, Any]:
    from ..data.geometry import map_points, spacing_of  # noqa: PLC0415 - after `confine`
    from ..data.loader import read_scan  # noqa: PLC0415
    from ..measurement.at_point import measured_at  # noqa: PLC0415
    from ..results.outlines import packed  # noqa: PLC0415

    scan = read_scan(source)
    x, y, z = (float(value) for value in place.split(","))
    index = map_points(np.linalg.inv(scan.affine), np.array([-x, -y, z]))
    voxel = np.round(index).astype(int)
    if (voxel < 0).any() or (voxel >= scan.shape).any():
        msg = f"the point ({x:.1f}, {y:.1f}, {z:.1f}) mm (LPS) is outside the scan"
        raise errors.BadScan(msg)
    a, b, c = (float(value) for value in index * spacing_of(scan.affine))
    found, mask = measured_at(scan, (a, b, c))
    return {
        "coordinates": [a, b, c],
        "voxel": voxel.tolist(),
        "diameter": found["effective_diameter_mm"],
        "properties": found,
        "outline": None if mask is None else packed(mask),
    }


def _export(
    series: Path,
    folder: Path,
    results: Results,
    affine: Affine,
    report: Path | None,
    pictures: list[npt.NDArray[np.uint8]],
    asked: list[str],
) -> dict[str, Any]:
    from ..dicom_io.export import export_objects  # noqa: PLC0415

    results["heatmap"] = Volume(results["heatmap"], affine)
    export_objects(series, results, folder, report, pictures, asked)
    return {}


if __name__ == "__main__":
    main()
