"""The command line: `python -m src.inference.main --input scan.nii.gz --output results/`."""

import argparse
import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import Config, load_config
from ..errors import BadScan, PivotError, SomeScansFailed

if TYPE_CHECKING:
    from .pipeline import InferencePipeline

__all__ = ["InferencePipeline", "batch_inference", "cli", "main"]

log = logging.getLogger("pivot")


def __getattr__(name: str) -> Any:  # noqa: ANN401
    # The pipeline loads torch, which `--help` must not wait for.
    if name == "InferencePipeline":
        from .pipeline import InferencePipeline  # noqa: PLC0415

        return InferencePipeline
    raise AttributeError(name)


def batch_inference(  # noqa: PLR0913
    checkpoint: str | Path | None = None,
    input_dir: str | Path = ".",
    output_dir: str | Path = "results",
    config: Config | dict[str, Any] | str | Path | None = None,
    num_workers: int | None = None,
    batch_size: int | None = None,
) -> dict[str, Any]:
    """Run over every scan in a folder; a failing scan is reported in `failed` and does not stop the rest.

    Returns `num_scans`, `total_detections`, `avg_time` (seconds) and `failed` (path to message).
    """
    from ..data.loader import find_scans  # noqa: PLC0415
    from .pipeline import InferencePipeline  # noqa: PLC0415

    settings = _override(load_config(config), batch_size=batch_size, num_workers=num_workers)
    pipeline = InferencePipeline(checkpoint, settings)
    return _run_all(pipeline, find_scans(input_dir), Path(output_dir))


def _run_all(pipeline: "InferencePipeline", paths: Sequence[Path], output: Path) -> dict[str, Any]:
    failed: dict[str, str] = {}
    found, seconds = 0, []
    for path in paths:
        start = time.perf_counter()
        try:
            found += _run_one(pipeline, path, output)
            seconds.append(time.perf_counter() - start)
        except BadScan as error:
            failed[str(path)] = str(error)
    average = sum(seconds) / len(seconds) if seconds else 0.0
    return {"num_scans": len(seconds), "total_detections": found, "avg_time": average, "failed": failed}


def _run_one(pipeline: "InferencePipeline", path: Path, output: Path) -> int:
    """Read, predict and write every configured output of one scan; the number of nodules."""
    from ..data.loader import read_scan  # noqa: PLC0415
    from ..types import Volume  # noqa: PLC0415
    from ..viz.overlay import visualize_detections  # noqa: PLC0415

    scan = read_scan(path)
    results = pipeline.predict(scan)
    options, name = pipeline.config.output, scan.scan_id
    if options.save_heatmap:
        suffix = ".npy" if options.formats.heatmap == "numpy" else ".nii.gz"
        pipeline.save_heatmap(results["heatmap"], output / f"{name}_heatmap{suffix}")
    if options.save_visualization:
        look = pipeline.config.visualization
        visualize_detections(
            scan=Volume(scan.array, scan.affine),
            detections=results["detections"],
            spacing=scan.spacing,
            output_path=output / f"{name}_visualization.png",
            num_slices=look.num_slices,
            colormap=look.colormap,
            alpha=look.overlay_alpha,
            heatmap=results["heatmap"],
        )
    if options.save_detections:
        for kind in ("json", "csv"):
            if options.formats.detections in (kind, "both"):
                pipeline.save_detections(results, output / f"{name}_detections.{kind}")
    print(f"{name}: {len(results['detections'])} nodules")  # noqa: T201
    return len(results["detections"])


def _override(config: Config, **inference: Any) -> Config:  # noqa: ANN401
    data = config.model_dump()
    data["inference"].update({key: value for key, value in inference.items() if value is not None})
    data["inference"].update(device=None, mixed_precision=None)
    return load_config(data)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pivot", description="Find lung nodules on chest CT. Research use only.")
    parser.add_argument("--checkpoint", type=Path, help="model file (default: the shipped one)")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", type=Path, help="a scan: NIfTI, MHD, MHA, NRRD, a DICOM folder or a zip of one")
    source.add_argument("--input-dir", type=Path, help="a folder of scans")
    source.add_argument("--demo", action="store_true", help="make a synthetic chest and find its nodules")
    parser.add_argument("--output", "--output-dir", type=Path, default=Path("results"), help="default: %(default)s")
    parser.add_argument("--config", type=Path, help="YAML configuration")
    parser.add_argument("--batch-size", type=int, help="patches for each pass of the network")
    parser.add_argument("--num-workers", type=int, help="threads that read and write")
    parser.add_argument("--device", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--format", choices=("json", "csv", "both"), help="format of the detections")
    return parser


def _demo(pipeline: "InferencePipeline", output: Path) -> None:
    """A synthetic chest of known nodules, its truth beside what was found."""
    import nibabel  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415

    from ..data.files import whole_file  # noqa: PLC0415
    from ..data.phantom import chest_phantom  # noqa: PLC0415
    from .output_formatter import load_detections  # noqa: PLC0415

    scan, truth = chest_phantom()
    with whole_file(output / "demo.nii.gz") as partial:
        nibabel.save(nibabel.Nifti1Image(scan.array, scan.affine), partial)
    _run_one(pipeline, output / "demo.nii.gz", output)
    found = load_detections(output / "demo_detections.json")
    print("truth: mm  type           found: mm  confidence")  # noqa: T201
    for nodule in truth:
        hits = [f for f in found if np.linalg.norm(np.subtract(f["coordinates"], nodule.coordinates)) < nodule.diameter_mm / 2]
        seen = f"{hits[0]['diameter_mm']:9.1f}  {hits[0]['confidence']:.2f}" if hits else "   missed"
        print(f"{nodule.diameter_mm:9.1f}  {nodule.nodule_type:13}  {seen}")  # noqa: T201


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        return _main(options)
    except PivotError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code


def _main(options: argparse.Namespace) -> int:
    config = _override(load_config(options.config), batch_size=options.batch_size, num_workers=options.num_workers)
    if options.format:
        config = load_config({**config.model_dump(), "output": {**config.output.model_dump(), "formats": {"detections": options.format}}})
    from ..data.files import writable_folder  # noqa: PLC0415
    from .pipeline import InferencePipeline  # noqa: PLC0415

    output = writable_folder(options.output)
    if config.output.save_report or config.visualization.save_3d:
        log.warning("the PDF report and the 3D page are not built yet: output.save_report and save_3d are ignored")
    pipeline = InferencePipeline(options.checkpoint, config, options.device)
    if options.demo:
        _demo(pipeline, output)
        return 0
    if options.input:
        _run_one(pipeline, options.input, output)
        return 0
    from ..data.loader import find_scans  # noqa: PLC0415

    summary = _run_all(pipeline, find_scans(options.input_dir), output)
    print(json.dumps(summary, indent=2))  # noqa: T201
    return SomeScansFailed.exit_code if summary["failed"] else 0


def cli() -> None:
    """The `pivot` command."""
    sys.exit(main())


if __name__ == "__main__":
    cli()
