"""The service's responses, for OpenAPI. `docs/service.md` describes them in words."""

from datetime import UTC, datetime
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field

from .jobs import Job, State
from .storage import Artifact, scan_id

__all__ = [
    "PREFIX",
    "FileList",
    "FileOut",
    "FindingMasks",
    "JobList",
    "JobListed",
    "JobOut",
    "Limits",
    "PackedMask",
    "Problem",
    "Progress",
    "ReadState",
    "message",
]

PREFIX = "/api/v1/inference"
ID = "0199f3a2c4d87b1e9c3f5a6b7d8e9f01"


class Problem(BaseModel):
    """Problem details (RFC 9457). Some types have further members."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str


class Links(BaseModel):
    """Addresses of a job."""

    self: str
    results: str
    files: str
    stream: str


class JobOut(BaseModel):
    """A job. Times are UTC."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "job_id": ID,
                    "status": "running",
                    "progress": 42.9,
                    "windows_done": 27,
                    "windows_total": 63,
                    "scan_id": "scan",
                    "size_bytes": 61234567,
                    "attempts": 1,
                    "created_at": "2026-11-24T14:43:12.345Z",
                    "started_at": "2026-11-24T14:43:13.001Z",
                    "finished_at": None,
                    "expires_at": None,
                    "error": None,
                    "links": {
                        "self": f"{PREFIX}/{ID}",
                        "results": f"{PREFIX}/{ID}/results",
                        "files": f"{PREFIX}/{ID}/files",
                        "stream": f"{PREFIX}/{ID}/stream",
                    },
                }
            ]
        }
    )

    job_id: str
    status: State
    progress: Annotated[float, Field(ge=0, le=100, description="percent, of the windows done")]
    windows_done: int
    windows_total: int | None
    scan_id: str
    size_bytes: int
    attempts: int
    created_at: str
    started_at: str | None
    finished_at: str | None
    expires_at: str | None
    error: dict[str, Any] | None
    links: Links

    @classmethod
    def of(cls, job: Job, retention: float) -> Self:
        """A job, kept for `retention` seconds after its end."""
        address = f"{PREFIX}/{job.id}"
        return cls(
            job_id=job.id,
            status=job.state,
            progress=_percent(job),
            windows_done=job.windows_done,
            windows_total=job.windows_total,
            scan_id=scan_id(job.file),
            size_bytes=job.size_bytes,
            attempts=job.attempts,
            created_at=_iso(job.created_at) or "",
            started_at=_iso(job.started_at),
            finished_at=_iso(job.finished_at),
            expires_at=_iso(job.finished_at and job.finished_at + retention),
            error=job.error,
            links=Links(
                self=address, results=f"{address}/results", files=f"{address}/files", stream=f"{address}/stream"
            ),
        )


class Progress(BaseModel):
    """How many of the findings have a verdict. Candidates do not count."""

    read: int
    total: int


class ReadState(Progress):
    """How far a job is read: the names of those who gave verdicts, and when the review was changed last."""

    by: list[str]
    at: str | None


class JobListed(JobOut):
    """A job in the list."""

    review: Annotated[ReadState | None, Field(description="null: there is nothing to read yet")] = None


class JobList(BaseModel):
    """A page of jobs, newest first, and the address of the next page."""

    jobs: list[JobListed]
    next: str | None


class FileOut(BaseModel):
    """A file of a completed job."""

    kind: str
    name: str
    url: str
    media_type: str
    size_bytes: int
    etag: str

    @classmethod
    def of(cls, artifact: Artifact, job: Job) -> Self:
        """An artifact with its address."""
        return cls(
            kind=artifact.kind,
            name=artifact.name,
            url=f"{PREFIX}/{job.id}/files/{artifact.file}",
            media_type=artifact.media_type,
            size_bytes=artifact.size,
            etag=artifact.etag,
        )


class FileList(BaseModel):
    """The files for download."""

    files: list[FileOut]


class PackedMask(BaseModel):
    """A mask: a box of voxels from the index `origin` on.

    `bits` are base64: one bit for each voxel, the last axis fastest, the highest bit of a byte first.
    """

    origin: tuple[int, int, int]
    shape: tuple[int, int, int]
    bits: str


class FindingMask(PackedMask):
    """The mask of the finding with this number, from 1."""

    number: int


class FindingMasks(BaseModel):
    """The masks of the findings that have one. `affine` maps voxels to RAS+ mm, by rows."""

    affine: list[list[float]]
    masks: list[FindingMask]


class Limits(BaseModel):
    """The service's limits."""

    version: str
    model: str
    formats: list[str]
    upload_bytes: int
    job_seconds: float
    retention_hours: float


def message(
    job: Job | None, report: dict[str, Any] | None = None, error: dict[str, Any] | None = None
) -> dict[str, Any]:
    """A WebSocket message about a job, or about a refused scan."""
    content: dict[str, Any] = {
        "job_id": job and job.id,
        "status": job.state if job else "failed",
        "progress": _percent(job) if job else 0.0,
        "windows_done": job.windows_done if job else 0,
        "windows_total": job and job.windows_total,
    }
    if report:
        content |= {"detections": report["detections"], "summary": report["summary"]}
    if error := error or (job and job.error) or None:
        content["error"] = error
    return content


def _percent(job: Job) -> float:
    """The progress. It is 100 only for a completed job, because files are written after the last window."""
    if job.state == "completed":
        return 100.0
    return min(99.9, round(100 * job.windows_done / job.windows_total, 1)) if job.windows_total else 0.0


def _iso(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
