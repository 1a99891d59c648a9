"""Damages DICOM scans in seeded ways: none is read as another scan without a note.

    python -m benchmarks.dicom_mutations [--count 500] [--first 0] [--only NAME]

One file of a series is damaged: its bytes before the pixels, where it ends, or one attribute. Pixels have no checksum
in DICOM, so they are left as they are; and what an enhanced file states once for all its slices (geometry, rescaling)
is left too, since changing it makes another scan.
"""

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gdcm  # type: ignore[import-untyped]
import pydicom

from benchmarks.mutations import tell
from tests.dicom_files import CHEST, compress, write_enhanced, write_series

__all__ = ["WAYS", "mutations"]

PIXELS = b"\xe0\x7f\x10\x00"  # the tag of PixelData, little endian
SHARED = b"\x00\x52\x29\x92"  # that of what an enhanced file states once for all its slices
WORDS = (b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\xff\xff\xff\xff", b"nan ", b"-1 ", b"1e99", b"\\", b"../", b"\r\n", b" ")
VALUES: dict[str, tuple[Any, ...]] = {
    "ImagePositionPatient": (["0", "0", "0"], ["-30", "-35", "-97.7"], ["-28", "-35", "-110"]),
    "ImageOrientationPatient": ([0, 1, 0, 1, 0, 0], [1, 0, 0, 0, 0.9998, 0.0175], [-1, 0, 0, 0, -1, 0]),
    "PixelSpacing": (["2", "1.6"], ["1.5", "2"], ["-2", "1.5"], ["0", "0"]),
    "RescaleIntercept": ("-1000", "0", "-2048"),
    "RescaleSlope": ("2", "0.5", "-1", "0"),
    "Rows": (19, 24, 0),
    "Columns": (23, 20, 48),
    "BitsStored": (8, 12, 10),
    "HighBit": (7, 11),
    "BitsAllocated": (8, 32),
    "PixelRepresentation": (0, 2),
    "NumberOfFrames": (2, 0),
    "SamplesPerPixel": (3, 0),
    "PixelPaddingValue": (200, 1064),
    "InstanceNumber": (1, 7, 1000),
    "SeriesInstanceUID": ("1.2.3.77",),
    "StudyInstanceUID": ("1.2.77",),
    "PatientID": ("other",),
    "FrameOfReferenceUID": ("1.2.5",),
    "ConvolutionKernel": ("B70f",),
    "AcquisitionNumber": (9,),
    "ImageType": (["ORIGINAL", "PRIMARY", "LOCALIZER"], ["DERIVED", "SECONDARY", "MIP"]),
    "Modality": ("MR", ""),
    "SOPClassUID": ("1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.7"),
}


def _compressed(folder: Path, syntax: gdcm.TransferSyntax) -> Path:
    for file in write_series(folder / "scan", CHEST).iterdir():
        compress(file, syntax)
    return folder / "scan"


def _bare(folder: Path) -> Path:
    for file in write_series(folder / "scan", CHEST).iterdir():
        content = file.read_bytes()
        file.write_bytes(content[144 + int.from_bytes(content[140:144], "little") :])
    return folder / "scan"


WAYS: dict[str, Callable[[Path], Path]] = {
    "explicit": lambda folder: write_series(folder / "scan", CHEST),
    "implicit": lambda folder: _compressed(folder, gdcm.TransferSyntax.ImplicitVRLittleEndian),
    "bare": _bare,
    "RLE": lambda folder: _compressed(folder, gdcm.TransferSyntax.RLELossless),
    "JPEG": lambda folder: _compressed(folder, gdcm.TransferSyntax.JPEGLosslessProcess14_1),
    "JPEG-LS": lambda folder: _compressed(folder, gdcm.TransferSyntax.JPEGLSLossless),
    "JPEG 2000": lambda folder: _compressed(folder, gdcm.TransferSyntax.JPEG2000Lossless),
    "enhanced": lambda folder: write_enhanced(folder / "scan.dcm", CHEST),
}


def mutations(name: str, folder: Path, seeds: Sequence[int]) -> Iterator[tuple[int, Path]]:
    """The scan written in that way, with one file damaged, for each seed."""
    path = WAYS[name](folder)
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    for seed in seeds:
        rng = random.Random(f"{name} {seed}")  # noqa: S311 - seeded damages
        file = rng.choice(files)
        content = file.read_bytes()
        if name == "enhanced" or rng.random() < 0.6:
            file.write_bytes(_damaged(content, rng))
        else:
            _change(file, rng)
        yield seed, path
        file.write_bytes(content)


def _damaged(content: bytes, rng: random.Random) -> bytes:
    end = min(place for tag in (PIXELS, SHARED) if (place := content.find(tag)) >= 0)
    place, size = rng.randrange(end), rng.randint(1, 60)
    match rng.choice(["cut", "insert", "double", "remove", "flip", "flip", "word", "word"]):
        case "cut":
            return content[: rng.randrange(len(content) - 1)]
        case "insert":
            return content[:place] + rng.randbytes(size) + content[place:]
        case "double":
            return content[: place + size] + content[place:]
        case "remove":
            return content[:place] + content[min(place + size, end) :]
        case "flip":
            word = bytes([rng.randrange(256)])
        case _:
            word = rng.choice(WORDS)[: end - place]
    return content[:place] + word + content[place + len(word) :]


def _change(file: Path, rng: random.Random) -> None:
    """Give one attribute another value, or none."""
    dataset = pydicom.dcmread(file, force=True)
    name = rng.choice(list(VALUES))
    if rng.random() < 0.2:
        dataset.pop(name, None)
    elif name == "PixelPaddingValue":  # whose VR depends on others
        dataset.add_new(name, "US", rng.choice(VALUES[name]))
    else:
        setattr(dataset, name, rng.choice(VALUES[name]))
    dataset.save_as(file, implicit_vr=dataset.original_encoding[0], little_endian=True, enforce_file_format=False)


def main() -> int:
    """Print, for each way, how many damages were refused or harmless, and those that were neither."""
    return tell(__doc__, WAYS, mutations)


if __name__ == "__main__":
    sys.exit(main())
