"""The report of one scan: facts, summary, a part for each nodule, method, model card, limits."""

import dataclasses
from pathlib import Path

from ..data.arrays import GivenScan, as_scan
from ..errors import BadOutput
from ..files import whole_file
from ..given import path_of
from ..types import Scan
from .report_content import report_blocks
from .report_pdf import write_pdf
from .report_text import as_markdown
from .source import DetectionSource, check_pairing, read_detections

__all__ = ["generate_report", "write_report"]


def generate_report(scan_path: GivenScan, detections: DetectionSource, output_path: str | Path) -> None:
    """Write the report of the scan at `scan_path`: a PDF, or its text alone if the path ends in .md or .txt.

    `scan_path` may also be the result of `load_scan` or `read_scan`. `detections` are a list, a report, or the path of
    its JSON. With a list, the report does not name the model. For a `*_reviewed.json` it states what the reader
    accepted, rejected and added. The same input gives the same bytes.

    Raises:
        BadScan: the scan cannot be read.
        BadOutput: the detections are not PIVOT's or belong to another scan, or the file cannot be written.
    """
    _check_suffix(output_path)
    write_report(as_scan(scan_path, None)[0], detections, output_path)


def write_report(scan: Scan, detections: DetectionSource, output_path: str | Path) -> None:
    """`generate_report` for a scan in memory.

    Raises:
        BadOutput: as for `generate_report`.
    """
    pdf = _check_suffix(output_path)
    found = read_detections(detections, reviewed=True)
    check_pairing(found, scan.shape, scan.affine)
    name = "".join(letter if letter.isprintable() else "?" for letter in scan.scan_id)
    blocks = report_blocks(dataclasses.replace(scan, scan_id=name), found, pictures=pdf)
    with whole_file(output_path) as partial:
        if pdf:
            write_pdf(blocks, f"Lung nodules on {name}", partial)
        else:
            partial.write_text(as_markdown(blocks), encoding="utf-8")


def _check_suffix(path: str | Path) -> bool:
    """Whether the name ends in .pdf. Raises `BadOutput` if it ends in no known suffix."""
    suffix = path_of(path, "output_path", BadOutput).suffix.lower()
    if suffix not in (".pdf", ".md", ".txt"):
        msg = f"cannot write the report {path}: its name must end in .pdf, .md or .txt"
        raise BadOutput(msg)
    return suffix == ".pdf"
