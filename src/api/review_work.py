"""Work on scans for reviews, in separate processes: one at a time, so that jobs continue."""

import asyncio
import json
import tempfile
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

from ..errors import BadScan, PivotError
from ..files import write_json
from .jobs import Job
from .problems import Busy, NotFound
from .review import NodulePoint
from .storage import OUTLINES, SCAN, SERIES
from .submission import Service
from .supervisor import start

__all__ = ["measured_at", "rewritten", "run", "scan_of"]

SECONDS, GRACE_SECONDS = 300.0, 10.0


async def measured_at(service: Service, job: Job, point: NodulePoint) -> dict[str, Any]:
    """The nodule at the point, measured by `measure.py` in a confined process."""
    answer = await run(
        service, job, "measure", scan_of(service, job), f"--place={','.join(map(repr, point.coordinates_lps))}"
    )
    measured: dict[str, Any] = answer["nodule"]
    return measured


async def rewritten(service: Service, job: Job, report: dict[str, Any], file: str) -> bytes:
    """A file of the reviewed report, written by `rewrite.py` in a separate process.

    Raises:
        NotFound: the job has no such file: it was run without DICOM objects, or no nodule has an outline.
    """
    folder = service.settings.jobs / job.id
    kind = "pdf" if file.endswith(".pdf") else "dicom"
    source = scan_of(service, job) if kind == "pdf" else series_of(service, job)
    with tempfile.TemporaryDirectory(prefix="review-", dir=folder, ignore_cleanup_errors=True) as scratch:
        task = Path(scratch, "task.json")
        target = await asyncio.to_thread(_prepared, folder / str(job.result) / OUTLINES, report, task)
        await run(service, job, "rewrite", source, f"--task={task}", f"--kind={kind}", f"--target={target}")
        try:
            return await asyncio.to_thread((target / file).read_bytes)
        except FileNotFoundError:
            msg = "no nodule that is left has an outline, so there is no segmentation"
            raise NotFound(msg) from None


def _prepared(outlines: Path, report: dict[str, Any], task: Path) -> Path:
    """Write the task, and create an empty folder beside it for the files."""
    write_json({"report": report, "masks": _masks(outlines, report)}, task)
    target = task.with_name("files")
    target.mkdir()
    return target


def _masks(outlines: Path, report: dict[str, Any]) -> dict[int, Any]:
    """The outlines of the findings by id: those of the search, and those of nodules that a reader added."""
    try:
        found = json.loads(outlines.read_text(encoding="utf-8"))["masks"]
    except FileNotFoundError:  # of an earlier release
        found = []
    masks = {one["number"] - 1: one for one in found}
    added = {one["finding"]: one.get("outline") for one in report["review"]["added"]}
    own = [one for one in report["detections"] if one["confidence"] is None]
    labels = {one["id"]: one["review"]["finding"] for one in own if one["review"]}
    return masks | {number: added[label] for number, label in labels.items() if added.get(label)}


def scan_of(service: Service, job: Job) -> Path:
    """The scan of a job, as NIfTI.

    Raises:
        NotFound: it was removed.
    """
    return _only(service, job, SCAN, "the scan of this job is not there any more")


def series_of(service: Service, job: Job) -> Path:
    """The DICOM series of a job.

    Raises:
        NotFound: the job was run without DICOM objects.
    """
    return _only(service, job, SERIES, "the job was not asked for DICOM objects (output.save_dicom)")


def _only(service: Service, job: Job, part: str, otherwise: str) -> Path:
    found = sorted((service.settings.jobs / job.id / str(job.result) / part).glob("*"))
    if not found:
        raise NotFound(otherwise)
    return found[0]


async def run(service: Service, job: Job, module: str, source: Path, *more: str) -> dict[str, Any]:
    """The answer of the process `module` on a scan."""
    folder, memory = service.settings.jobs / job.id, service.settings.memory
    if service.measuring.locked():
        msg = "another nodule is being measured, another report written or compared: try again"
        raise Busy(msg, retry_after=2)
    options = [*more, f"--scratch={folder}", f"--seconds={SECONDS}", *([f"--memory={memory}"] if memory else [])]
    async with service.measuring:
        process = await start(module, str(source), *options, stdout=PIPE)
        try:
            output, _ = await asyncio.wait_for(process.communicate(), SECONDS + GRACE_SECONDS)
            answer: dict[str, Any] = json.loads(output)
        except (TimeoutError, ValueError):
            msg = "the process died, perhaps for lack of memory, or took too long"
            raise PivotError(msg) from None
        finally:
            if process.returncode is None:
                process.kill()
    if error := answer.get("error"):
        raise (BadScan if error["kind"] == "BadScan" else PivotError)(error["message"])
    return answer
