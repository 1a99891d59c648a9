"""A process that writes a job's reviewed report as PDF or DICOM objects. It opens no untrusted scan."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from ..config import Config
from ..results.outlines import mask_in
from ..runs import confined
from ..types import NoduleMask, Volume
from .answering import answer, limits_of

__all__ = ["PDF", "main"]

PDF = "report.pdf"


def main(arguments: list[str] | None = None) -> None:
    """Write into the folder, and print `{}` or `{"error": {"kind": ..., "message": ...}}`."""
    parser = argparse.ArgumentParser(prog="python -m src.api.rewrite", description="write a reviewed report")
    parser.add_argument("scan", type=Path, help="the scan as NIfTI for the PDF, the DICOM series for DICOM objects")
    parser.add_argument("--task", type=Path, required=True, help="JSON: the reviewed `report`, `masks` by id")
    parser.add_argument("--kind", choices=("pdf", "dicom"), required=True)
    parser.add_argument("--target", type=Path, required=True, help="folder for the files")
    answer(parser, arguments, _write)


def _write(options: argparse.Namespace) -> dict[str, Any]:
    task = json.loads(options.task.read_text(encoding="utf-8"))
    write = _write_pdf if options.kind == "pdf" else _write_objects
    masks = {int(number): mask_in(outline) for number, outline in task["masks"].items()}
    write(options, task["report"], masks)
    return {}


def _write_pdf(options: argparse.Namespace, report: dict[str, Any], masks: dict[int, NoduleMask]) -> None:
    from ..viz.report import write_report  # noqa: PLC0415 - slow

    scan, _ = confined.read(options.scan, Config(), limits_of(options))
    by_id = [masks.get(number) for number in range(1 + max(masks, default=-1))]
    write_report(scan, {**report, "masks": by_id}, options.target / PDF)


def _write_objects(options: argparse.Namespace, report: dict[str, Any], masks: dict[int, NoduleMask]) -> None:
    found = [*report["detections"], *report["masses"]]
    unused = Volume(np.zeros((1, 1, 1), np.float32), np.eye(4))
    results: Any = {**report, "heatmap": unused, "masks": [masks.get(one["id"]) for one in found]}
    confined.export_objects(limits_of(options), options.scan, results, options.target, None, (), ())


if __name__ == "__main__":
    main()
