"""The files of one scan. They are written together or not at all, and a later run can tell whether they are complete.

The JSON report is written last: if it exists, the scan is done. If you do not want it (`formats.detections: csv`,
`save_detections: false`), it is kept under a name that begins with a dot.

Modules that draw and write are imported when they are used. This takes seconds, while the network runs.
"""

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any, get_args

from ..config import Config, DetectionsFormat, Formats, HeatmapFormat, Output, Visualization
from ..data.loader import scan_name
from ..errors import BadConfig, BadOutput, BadScan
from ..exports import EXPORTS
from ..files import whole_files
from ..results.findings_table import is_findings_table, save_findings
from ..results.output_formatter import load_report, save_csv, save_heatmap, save_json
from ..types import Results, Scan, Volume
from .exports import DICOM, ExportObjects, check_objects, exported_names, write_dicom, write_exports

__all__ = [
    "check_names",
    "check_outputs",
    "check_scan",
    "is_complete",
    "load_writers",
    "output_names",
    "write_batch_table",
    "write_outputs",
]

log = logging.getLogger("pivot")
FINDINGS = "_findings.csv"
TEMPORARY = len(".4194304.partial.")  # extra bytes of a name while its file is written (see `files`)
# These change the speed, not the results. The checkpoint is compared by its hash.
WITHOUT_EFFECT = {
    "versions.python",
    "versions.torch",
    "versions.numpy",
    "config.model.checkpoint",
    "config.model.device",
    *(
        f"config.inference.{key}"
        for key in ("device", "batch_size", "num_workers", "prefetch_factor", "cudnn_benchmark", "clear_cache")
    ),
}


def check_outputs(config: Config) -> None:
    """Refuse outputs that could not be written, before any work is done.

    Raises:
        BadConfig: no output is enabled, or the picture's colormap does not exist.
    """
    wanted = config.output
    pictures = wanted.save_visualization or wanted.save_report or config.visualization.save_3d
    if not (wanted.save_detections or wanted.save_heatmap or wanted.dicom or pictures or wanted.formats.exports):
        msg = (
            "output.save_detections, save_heatmap, save_visualization, save_report, save_dicom and "
            "visualization.save_3d are all false, and formats.exports is empty: nothing would be written"
        )
        raise BadConfig(msg)
    if wanted.save_visualization and config.visualization.colormap != Visualization().colormap:
        from ..viz.overlay import find_colormap

        find_colormap(config.visualization.colormap)


def load_writers(config: Config) -> None:
    """Import the slow modules that measure and write. This runs in another thread than the network."""
    from ..detection import peak_detection  # noqa: F401
    from ..measurement import nodule_properties  # noqa: F401

    if config.output.save_heatmap:
        import nibabel  # noqa: F401
    if config.output.save_visualization:
        from ..viz import overlay  # noqa: F401


def check_scan(scan: Scan, config: Config, source: str | Path, folder: Path) -> None:
    """Refuse a scan whose outputs could not be written into `folder`, before any work is done.

    Raises:
        BadScan: its name is too long. DICOM objects are wanted, but cannot refer to it.
    """
    check_names(scan, config, folder)
    if config.output.dicom:
        check_objects(scan, source)


def check_names(scan: Scan, config: Config, folder: Path) -> None:
    """Refuse a scan whose name is too long for the names of its outputs.

    Raises:
        BadScan: it is too long.
    """
    most = os.pathconf(folder, "PC_NAME_MAX") - TEMPORARY
    longest = max(len(os.fsencode(name)) for name in output_names(scan.scan_id, config))
    if longest > most:
        msg = f"its name is {longest - most} bytes too long for the names of its results ({longest} bytes): rename it"
        raise BadScan(msg)


def output_names(scan_id: str, config: Config) -> list[str]:
    """The names of a scan's files in writing order. The JSON report is the last.

    The DICOM objects are in a folder, because their number depends on the findings.
    """
    wanted = config.output
    names = []
    if wanted.save_heatmap:
        names.append(f"{scan_id}_heatmap{'.npy' if wanted.formats.heatmap == 'numpy' else '.nii.gz'}")
    if wanted.save_visualization:
        names.append(f"{scan_id}_visualization.png")
    if config.visualization.save_3d:
        names.append(f"{scan_id}_3d.html")
    if wanted.save_report:
        names.append(f"{scan_id}_report.pdf")
    names += exported_names(scan_id, config)
    formats = wanted.formats.detections if wanted.save_detections else "none"
    if formats in ("csv", "both"):
        names += [f"{scan_id}_detections.csv", f"{scan_id}{FINDINGS}"]
    return [*dict.fromkeys(names), f"{'' if formats in ('json', 'both') else '.'}{scan_id}_detections.json"]


def _every_name(scan_id: str) -> set[str]:
    """The names of all files that any configuration writes for a scan."""
    shown = Visualization(save_3d=True)
    outputs = (
        Output(
            save_report=True,
            save_dicom=True,
            save_detections=saved,
            formats=Formats(detections=one, heatmap=other, exports=tuple(EXPORTS)),
        )
        for saved, one, other in product((True, False), get_args(DetectionsFormat), get_args(HeatmapFormat))
    )
    return {name for output in outputs for name in output_names(scan_id, Config(output=output, visualization=shown))}


def write_outputs(
    scan: Scan,
    results: Results,
    config: Config,
    folder: str | Path,
    seconds_to_read: float | None = None,
    source: str | Path | None = None,
    export: ExportObjects | None = None,
) -> list[Path]:
    """Write the configured outputs into `folder`: every file of the scan, or none.

    Files of an earlier run on a scan of this name are removed, whatever its configuration was. DICOM objects need
    `source`, the path that the scan was read from; `export` writes them, by default in this process.

    Raises:
        BadOutput: the folder cannot be written to.
        BadScan: DICOM objects are wanted, and `source` is not the DICOM series of the scan.
    """
    start = time.perf_counter()
    names = output_names(results["scan_id"], config)
    with whole_files(folder, last=names[-1], stale=_every_name(results["scan_id"])) as draft:
        write_exports(scan, results, config, draft)
        exported = exported_names(results["scan_id"], config)
        for path in (draft / name for name in names[:-1] if name.endswith(DICOM) or name not in exported):
            if path.name.endswith(DICOM):
                write_dicom(scan, results, path, source, config.output.formats.exports, export)
            else:
                _write(scan, results, config, path)
        save_json(_timed(results, seconds_to_read, time.perf_counter() - start), draft / names[-1])
    return [Path(folder, name) for name in names]


def write_batch_table(
    scans: Iterable[Path], config: Config, folder_of: Callable[[Path], Path], folder: Path, shard: tuple[int, int]
) -> None:
    """Write the findings of all complete scans into one table, or remove an earlier one if none is wanted.

    Each part of a folder (`shard`: which of how many) has a table of its own.
    """
    index, count = shard
    path = folder / (f"findings_{index}_of_{count}.csv" if count > 1 else "findings.csv")
    if not any(name.endswith(FINDINGS) for name in output_names("", config)):
        if is_findings_table(path):
            path.unlink()
        return
    reports = (folder_of(scan) / output_names(scan_name(scan), config)[-1] for scan in scans)
    save_findings((load_report(report) for report in reports), path)


def is_complete(path: Path, config: Config, folder: Path, origin: Mapping[str, Any]) -> bool:
    """Whether `folder` holds all files of the scan at `path`, made from its content with the same model and settings.

    `origin` is `InferencePipeline.origin`. If the files exist but differ in it, a warning names the difference.
    """
    scan_id = scan_name(path)
    names = output_names(scan_id, config)
    if not all((folder / name).exists() for name in names):
        return False
    try:
        metadata = load_report(folder / names[-1])["metadata"]
    except BadOutput as error:
        log.warning("%s is repeated: %s", scan_id, error)
        return False
    earlier = dict(_flat({key: metadata.get(key) for key in origin}))
    now = dict(_flat(origin))
    changed = {key for key in earlier | now if earlier.get(key) != now.get(key)} - WITHOUT_EFFECT
    if not changed and not _is_of(path, metadata.get("input_sha256")):
        changed = {"scan of this name"}
    if changed:
        log.warning("%s is repeated: its results were made with another %s", scan_id, ", ".join(sorted(changed)))
    return not changed


def _is_of(path: Path, sha256: str | None) -> bool:
    """Whether the scan's files have this hash. False if they cannot be read: the run then reports the error."""
    from ..data.fingerprint import content_hash

    try:
        return content_hash(path) == sha256
    except (BadScan, OSError):
        return False


def _write(scan: Scan, results: Results, config: Config, path: Path) -> None:
    """Write the output at `path`. Its name tells the kind."""
    match path.suffix:
        case ".csv":
            if path.name.endswith(FINDINGS):
                save_findings([results], path)
            else:
                save_csv(results, path)
        case ".png":
            _draw(scan, results, config, path)
        case ".html":
            from ..viz.rendering_3d import write_3d

            write_3d(scan, results["heatmap"], results, path)
        case ".pdf":
            from ..viz.report import write_report

            write_report(scan, results, path)
        case _:
            save_heatmap(results["heatmap"], path)


def _draw(scan: Scan, results: Results, config: Config, path: Path) -> None:
    from ..viz.overlay import visualize_detections

    look = config.visualization
    visualize_detections(
        scan=Volume(scan.array, scan.affine),
        detections=results,
        spacing=scan.spacing,
        output_path=path,
        num_slices=look.num_slices,
        colormap=look.colormap,
        alpha=look.overlay_alpha,
        heatmap=results["heatmap"],
    )


def _timed(results: Results, read: float | None, write: float) -> dict[str, Any]:
    """The report with the seconds of reading and writing. Writing the report itself is not included."""
    metadata = results["metadata"]
    timings = {**metadata["timings_seconds"], "write": round(write, 3)}
    if read is not None:
        timings = {"read": round(read, 3), **timings}
    return {**results, "metadata": {**metadata, "timings_seconds": timings}}


def _flat(mapping: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """`inference.batch_size: 4` for `{"inference": {"batch_size": 4}}`."""
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value
