"""One scan in many DICOM encodings reads the same; damaged ones are refused, noted or read the same."""

from collections.abc import Callable
from pathlib import Path

import gdcm  # type: ignore[import-untyped]
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian

from benchmarks.dicom_mutations import WAYS, mutations
from benchmarks.mutations import differs
from src.data.loader import read_scan
from src.errors import BadScan

from .dicom_files import AFFINE, CHEST, Edit, change, compress, write_enhanced, write_series, zipped


def compressed(syntax: gdcm.TransferSyntax) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        for file in write_series(folder / "scan", CHEST).iterdir():
            compress(file, syntax)
        return folder / "scan"

    return make


def written(uid: str, kind: str = "<i2") -> Callable[[Path], Path]:
    """Return a maker of slices in another uncompressed transfer syntax."""

    def edit(dataset: Dataset) -> None:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<i2").astype(kind).tobytes()
        dataset.file_meta.TransferSyntaxUID = UID(uid)

    return lambda folder: write_series(folder / "scan", CHEST, edit=edit)


def edited(edit: Edit) -> Callable[[Path], Path]:
    return lambda folder: write_series(folder / "scan", CHEST, edit=edit)


def split(folder: Path) -> Path:
    for number, file in enumerate(sorted(write_series(folder / "scan", CHEST).iterdir())):
        (folder / "scan" / str(number % 3)).mkdir(exist_ok=True)
        file.rename(folder / "scan" / str(number % 3) / f"IM{number:03d}")
    return folder / "scan"


def feet_first(folder: Path) -> Path:
    """Write slices numbered from the other end, as for a patient who lies feet first."""
    return write_series(
        folder / "scan",
        CHEST,
        edit=lambda one: change(PatientPosition="FFS", InstanceNumber=13 - one.InstanceNumber)(one),
    )


GDCM = gdcm.TransferSyntax
SAME: dict[str, Callable[[Path], Path]] = {
    "implicit": compressed(GDCM.ImplicitVRLittleEndian),
    "explicit": edited(change()),
    "big endian": written(ExplicitVRBigEndian, ">i2"),
    "deflated": written(DeflatedExplicitVRLittleEndian),
    "RLE": compressed(GDCM.RLELossless),
    "JPEG lossless": compressed(GDCM.JPEGLosslessProcess14),
    "JPEG lossless, first order": compressed(GDCM.JPEGLosslessProcess14_1),
    "JPEG-LS": compressed(GDCM.JPEGLSLossless),
    "JPEG 2000": compressed(GDCM.JPEG2000Lossless),
    "enhanced": lambda folder: write_enhanced(folder / "scan", CHEST),
    "feet first": feet_first,
    "shuffled": edited(lambda one: setattr(one, "InstanceNumber", one.InstanceNumber * 5 % 13)),
    "without numbers": edited(change(InstanceNumber=None, SeriesNumber=None)),
    "split": split,
    "zip": lambda folder: zipped(folder / "scan.zip", write_series(folder / "content", CHEST)),
}


@pytest.mark.parametrize("name", SAME)
def test_one_scan_in_many_encodings_reads_the_same(tmp_path: Path, name: str) -> None:
    scan = read_scan(SAME[name](tmp_path))
    np.testing.assert_array_equal(scan.array, CHEST)
    np.testing.assert_allclose(scan.affine, AFFINE, atol=1e-6)
    assert scan.notes == ()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", WAYS)
def test_no_damaged_scan_reads_differently_without_a_note(tmp_path: Path, name: str) -> None:
    assert not {seed: worst for seed, path in mutations(name, tmp_path, range(12)) if (worst := differs(path))}


def test_a_frame_that_would_crash_the_decoder_is_refused(tmp_path: Path) -> None:
    folder = compressed(GDCM.JPEGLosslessProcess14_1)(tmp_path)
    file = min(folder.iterdir())
    dataset = dcmread(file)
    dataset.BitsAllocated = 32
    dataset.save_as(file)
    with pytest.raises(BadScan, match="has BitsAllocated 32, which JPEG Lossless"):
        read_scan(folder)
