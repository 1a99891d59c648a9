"""The files of jobs: `jobs/ID/input/` holds the upload, `jobs/ID/LEASE/` the files of an attempt.

The job's row names the attempt whose results are valid. So they appear all at once, and only once.
"""

import mimetypes
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from ..errors import BadScan
from .jobs import Job

__all__ = [
    "OUTLINES",
    "PATIENT",
    "PREVIEW",
    "SCAN",
    "SERIES",
    "STUDY",
    "SUFFIXES",
    "Artifact",
    "artifacts",
    "new_folder",
    "remove",
    "report_of",
    "safe_name",
    "scan_id",
    "study_name",
    "sync",
    "tidy",
]

SUFFIXES = (".nii.gz", ".nii", ".mha", ".nrrd", ".zip", ".dcm")  # formats of one file
STUDY = ".study"  # instead of a scan, a StudyInstanceUID to fetch
SUPPORTED = ", ".join(SUFFIXES)
LONGEST = 150  # bytes of a name; the results' names are longer, and file systems take 255
SCAN = "scan"  # subfolder with the scan as NIfTI
SERIES = ".series"  # subfolder with the DICOM series, of a job with DICOM objects: a reviewed report refers to it
PATIENT = ".patient.json"  # beside the upload: the patient data for the guidelines
OUTLINES = ".outlines.json"  # the masks, for the page
PREVIEW = ".preview.nii"  # a coarse image of the scan, for the page
KINDS = {"detections.csv": "table"}  # for all others it is the name up to the first dot
TYPES = {".gz": "application/gzip", ".nii": "application/octet-stream", ".npy": "application/octet-stream"}


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file for download. `file` is its name in URLs, without the scan's name; `name` includes the scan's name."""

    path: Path
    file: str
    name: str
    etag: str
    size: int

    @property
    def kind(self) -> str:
        """The kind of content."""
        return KINDS.get(self.file) or self.file.partition(".")[0]

    @property
    def media_type(self) -> str:
        """The media type of its content."""
        return TYPES.get(self.path.suffix) or mimetypes.guess_type(self.file)[0] or "application/octet-stream"


def safe_name(name: str, head: bytes) -> str:
    """A safe file name with the suffix of its content. `head` is the beginning of the file.

    Raises:
        BadScan: neither the name nor the content has a supported format.
    """
    base = re.sub(r"[^\w.+ -]|\s+", "_", name.replace("\\", "/").rsplit("/", 1)[-1]).strip("._ ")
    suffix = next((suffix for suffix in SUFFIXES if base.lower().endswith(suffix)), "")
    stem = base[: len(base) - len(suffix)].encode()[:LONGEST].decode(errors="ignore").strip("._ ") or "scan"
    found = suffix or _suffix_by_content(head)
    if not found:
        msg = f"the upload has no supported format: send {SUPPORTED}"
        raise BadScan(msg)
    return stem + found


def study_name(head: bytes) -> str:
    """The name of the file for a study. Its content, `head`, is the StudyInstanceUID.

    Raises:
        BadScan: the content is no UID (PS3.5 section 9.1).
    """
    if not re.fullmatch(rb"[0-9.]{1,64}", head):
        msg = "study must be a StudyInstanceUID: up to 64 digits and dots"
        raise BadScan(msg)
    return f"{head.decode()}{STUDY}"


def scan_id(file: str) -> str:
    """The name of the scan in the upload called `file`."""
    return next(file[: -len(suffix)] for suffix in (*SUFFIXES, STUDY) if file.endswith(suffix))


def new_folder(jobs: Path, number: str) -> Path:
    """The folder for a new upload."""
    folder = jobs / number / "input"
    folder.mkdir(mode=0o700, parents=True)
    return folder


def remove(jobs: Path, number: str, part: str = "") -> None:
    """Delete a job's folder, or a part of it. A missing file is no error."""
    shutil.rmtree(jobs / number / part, ignore_errors=True)


def tidy(jobs: Path, number: str, keep: str | None) -> None:
    """Delete all files of an ended job but its results, the part called `keep`."""
    for part in (jobs / number).glob("*"):
        if part.name != keep:
            remove(jobs, number, part.name)


def sync(folder: Path) -> None:
    """Flush the files in `folder`, and the folder's name, to the disk."""
    for path in (*folder.iterdir(), folder, folder.parent, folder.parents[1]):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def artifacts(jobs: Path, job: Job) -> list[Artifact]:
    """The files of a completed job, by name; none for another job."""
    if not job.result:
        return []
    folder, stem = jobs / job.id / job.result, scan_id(job.file)
    named = {path.name[len(stem) + 1 :]: path for path in folder.glob("*") if path.name.startswith(f"{stem}_")}
    scans = {f"scan{path.name[len(stem) :]}": path for path in (folder / SCAN).glob("*")}
    objects = {f"dicom.{path.name}": path for path in (folder / f"{stem}_dicom").glob("*")}
    found = sorted({**named, **scans, **objects}.items())
    return [_artifact(job, path, file) for file, path in found if path.is_file()]


def report_of(jobs: Path, job: Job) -> Path:
    """The JSON report of a completed job. It is hidden if the configuration disables it."""
    folder, name = jobs / job.id / str(job.result), f"{scan_id(job.file)}_detections.json"
    return folder / name if (folder / name).is_file() else folder / f".{name}"


def _artifact(job: Job, path: Path, file: str) -> Artifact:
    size, stem = path.stat().st_size, scan_id(job.file)
    name = path.name if path.name.startswith(stem) else f"{stem}_{file}"
    return Artifact(path, file, name, f'"{str(job.result)[:16]}-{file}-{size:x}"', size)


def _suffix_by_content(head: bytes) -> str:
    """The suffix of the format whose signature a file begins with, or an empty string."""
    header = {int.from_bytes(head[:4], order) for order in ("little", "big")} if len(head) >= 4 else set()
    starts = {b"\x1f\x8b": ".nii.gz", b"PK": ".zip", b"NRRD": ".nrrd", b"ObjectType": ".mha", b"NDims": ".mha"}
    if header & {348, 540}:
        return ".nii"
    if head[128:132] == b"DICM":
        return ".dcm"
    return next((suffix for start, suffix in starts.items() if head.startswith(start)), "")
