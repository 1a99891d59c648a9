"""The listener's second process: reads a series, finds its nodules, and writes DICOM objects.

Data from peers is read in a third process, which can open only that series (`runs.confined`).
"""

import functools
from pathlib import Path

from ..config import Config, load_config
from ..detection.pipeline import InferencePipeline
from ..errors import lacking
from ..runs import confined
from ..runs.outputs import check_outputs, write_outputs
from .processing import Outcome
from .settings import Inference, ObjectKind, PacsConfig

__all__ = ["open_pipeline", "run_series"]

FILES: dict[ObjectKind, str] = {
    "sr": "nodules_sr.dcm",
    "seg": "nodules_seg.dcm",
    "pm": "heatmap.dcm",
    "sc": "key_image_*.dcm",
    "pdf": "report.dcm",
}


@functools.cache
def open_pipeline(settings: Inference) -> InferencePipeline:
    """Load the model. Raises `BadConfig` or `BadCheckpoint`, as `InferencePipeline` does."""
    config = load_config(settings.config)
    check_outputs(config)
    return InferencePipeline(settings.checkpoint, config, settings.device)


def run_series(series: Path, folder: Path, config: PacsConfig) -> Outcome:
    """Find the nodules of the series in a folder. Results stay in `keep_results`, or else in the given `folder`.

    Raises:
        BadScan: the series is no readable chest CT, or no DICOM objects can refer to it.
        PivotError: any other failure.
        OSError, MemoryError: the machine lacks disk, file handles or memory, or the process that read it died.
    """
    try:
        return _run(open_pipeline(config.inference), series, folder, config)
    except Exception as error:
        if lack := lacking(error):  # a chain of causes does not survive the way to the other process
            raise lack from error
        raise


def _run(pipeline: InferencePipeline, series: Path, folder: Path, config: PacsConfig) -> Outcome:
    limits = confined.ProcessLimits(folder, config.inference.memory, lambda: None)  # the listener limits the time
    wanted = _outputs(pipeline.config, config)
    scan, seconds = confined.read(series, wanted, limits)
    results = pipeline.predict(scan)
    export = functools.partial(confined.export_objects, limits)
    outputs = write_outputs(scan, results, wanted, config.keep_results or folder, seconds, series, export)
    (objects,) = (path for path in outputs if path.is_dir() and not path.is_symlink())
    found = [path for kind in config.results for path in sorted(objects.glob(FILES[kind]))]
    return Outcome(len(results["detections"]), [path for path in found if not path.is_symlink()])


def _outputs(inference: Config, pacs: PacsConfig) -> Config:
    """The inference settings, with DICOM objects and without outputs that are not kept."""
    kept = pacs.keep_results is not None
    output = inference.output.model_dump()
    output |= {"save_dicom": True, "save_report": "pdf" in pacs.results or (kept and output["save_report"])}
    output |= {name: kept and output[name] for name in ("save_heatmap", "save_visualization")}
    if "pm" in pacs.results:
        exports = dict.fromkeys((*inference.output.formats.exports, "heatmap_dicom"))
        output["formats"] = {**output["formats"], "exports": list(exports)}
    return load_config({**inference.model_dump(), "output": output})
