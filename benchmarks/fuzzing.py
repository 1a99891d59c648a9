"""Mutated uploads in every format: no 5xx, no hang, nothing left, and no volume that silently differs.

    python -m benchmarks.fuzzing --count 500

A third of the mutations hit the form, the others the scan alone. What is accepted and completed is compared with the
original, voxel by voxel; a difference must have its note. Formats whose voxels have no checksum are sent inside a zip.
A job may fail for the fault of its scan or its configuration alone.
The exit code is 1 where a limit is broken.
"""

import argparse
import gzip
import io
import json
import os
import random
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import nibabel
import numpy as np
import numpy.typing as npt

from benchmarks.service import OPEN, QUICK
from tests.api_service import JOBS, served
from tests.dicom_files import chest, itk_image, write_series

__all__ = ["mutated"]

REFUSED = 422  # the status of a job's error that is the scan's or the configuration's fault
Voxels = npt.NDArray[Any]


def mutated(body: bytes, chance: random.Random) -> bytes:
    """The body with some bytes changed, a part repeated or left out, or its end cut off."""
    data = bytearray(body)
    for _ in range(chance.randint(1, 8)):
        if not data:
            break
        place = chance.randrange(len(data) if chance.random() < 0.5 else min(1000, len(data)))  # headers come first
        length = chance.randint(1, 400)
        match chance.randrange(5):
            case 0:
                data[place] = chance.randrange(256)
            case 1:
                del data[place : place + length]
            case 2:
                data[place:place] = data[place : place + length]
            case 3:
                data[place:place] = chance.randbytes(length)
            case _ if chance.random() < 0.2:
                del data[place + 1 :]
    return bytes(data)


def fuzz(folder: Path, count: int) -> bool:
    """Send them all, wait for their jobs, compare what was read, and delete everything."""
    chance = random.Random(0)  # noqa: S311 - keeps no secret
    original = chest()
    forms = list(_scans(folder, original))
    statuses, problems = Counter[int](), list[str]()
    with served(folder, PIVOT_LEASE_SECONDS="5", **OPEN) as (address, _), httpx.Client(base_url=address) as client:
        for number in range(count):
            name, content = forms[number % len(forms)]
            body, headers = _request(name, content, chance, form=number % 3 == 0)
            statuses[client.post(JOBS, content=body, headers=headers, timeout=60).status_code] += 1
        found = _wait(client)
        ended = Counter(job["status"] for job in found)
        silent = [
            job["job_id"]
            for job in found
            if job["status"] == "completed" and _silently_differs(client, job["job_id"], original)
        ]
        blamed = [job["error"] for job in found if job["error"] and job["error"]["status"] != REFUSED]
        for job in found:
            client.delete(job["links"]["self"])
        left = [path for path in (folder / "data" / "jobs").rglob("*") if path.is_file()]
    problems += [f"{len(left)} files left"] * bool(left) + [f"differ silently: {silent}"] * bool(silent)
    problems += [f"no fault of the scan: {blamed}"] * bool(blamed)
    print(f"{count} mutated uploads: {dict(statuses)}; the jobs among them: {dict(ended)}; {problems or 'no problem'}")
    return max(statuses) < 500 and not problems


def _scans(folder: Path, array: Voxels) -> Iterator[tuple[str, bytes]]:
    """The scan in every format, each with a checksum somewhere."""
    import SimpleITK as sitk

    image = itk_image(array)
    for name in ("a.nii.gz", "b.mha", "c.nrrd", "d.mhd", "e.nhdr", "f.mhd"):
        sitk.WriteImage(image, str(folder / name), name not in ("d.mhd", "e.nhdr"))
    read = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    yield "scan.nii.gz", read["a.nii.gz"]
    yield "scan.mha", read["b.mha"]
    yield "scan.nrrd", read["c.nrrd"]
    for names in (("d.mhd", "d.raw"), ("e.nhdr", "e.raw"), ("f.mhd", "f.zraw")):
        yield "scan.zip", _zipped({name: read[name] for name in names})
    slices = write_series(folder / "series", array)
    yield "scan.zip", _zipped({path.name: path.read_bytes() for path in sorted(slices.glob("*"))})
    yield "scan.nii.gz", gzip.compress(gzip.decompress(read["a.nii.gz"]), 1)


def _zipped(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def _request(name: str, content: bytes, chance: random.Random, *, form: bool) -> tuple[bytes, dict[str, str]]:
    """The body of an upload and its headers; the form as a whole is mutated, or the scan in it."""
    scan = content if form else mutated(content, chance)
    request = httpx.Request("POST", "http://x", files={"file": (name, scan), "config": QUICK.encode()})
    body = request.read()
    return mutated(body, chance) if form else body, {"content-type": request.headers["content-type"]}


def _wait(client: httpx.Client) -> list[dict[str, Any]]:
    """Every job, once none is open."""
    until = time.monotonic() + 1800
    while True:
        found, url = list[dict[str, Any]](), f"{JOBS}?limit=100"
        while url:
            page = client.get(url).json()
            found += page["jobs"]
            url = page["next"]
        if not {job["status"] for job in found} & {"queued", "running"}:
            return found
        assert time.monotonic() < until  # noqa: S101 - a job hangs
        time.sleep(0.5)


def _silently_differs(client: httpx.Client, job: str, original: Voxels) -> bool:
    """Whether what was read has other voxels than the original, in whatever order of axes, and no note says so."""
    files = client.get(f"{JOBS}/{job}/files").json()["files"]
    content = client.get(next(file["url"] for file in files if file["kind"] == "scan")).content
    plain = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    read = np.asarray(nibabel.Nifti1Image.from_bytes(plain).dataobj)
    same = read.shape == original.shape and any(
        np.array_equal(read[::x, ::y, ::z], original) for x in (1, -1) for y in (1, -1) for z in (1, -1)
    )
    return not same and not client.get(f"{JOBS}/{job}/results").json()["metadata"]["notes"]


def main() -> int:
    """Fuzz a server of one's own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pivot-benchmark-") as name:
        good = fuzz(Path(name), options.count)
        if not good:
            print((Path(name) / "server.log").read_text()[-5000:])
    print(json.dumps({"part": "fuzz", "good": good, "load": os.getloadavg()}))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
