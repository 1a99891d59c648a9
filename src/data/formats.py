"""The formats of files: by the suffix of their name, and where that is none, by how their content begins."""

import re
import zlib
from pathlib import Path

from .voxels import GZIP

__all__ = ["DICOM", "SUFFIXES", "VOLUMES", "format_of", "suffix_of", "supported"]

VOLUMES = (".nii.gz", ".nii", ".mhd", ".mha", ".nrrd", ".nhdr")
SUFFIXES = (*VOLUMES, ".zip")
DICOM = (".dcm", ".dicom", ".ima")
BEGINNING = 1024  # bytes that tell the format
NIFTI = {348: slice(344, 347), 540: slice(4, 7)}  # size of the header, and where its magic is
STARTS = {
    ".nrrd": re.compile(rb"NRRD000\d"),
    ".mha": re.compile(rb"(ObjectType|ObjectSubType|NDims|Comment)[ \t]*="),
    ".zip": re.compile(rb"PK[\3\5]"),
}


def suffix_of(path: Path) -> str:
    """The known suffix of a file, in lower case; empty where it has none."""
    return next((suffix for suffix in (*SUFFIXES, *DICOM) if path.name.lower().endswith(suffix)), "")


def format_of(path: Path) -> str:
    """The suffix of a file, or the one that its content should have; empty where neither is known.

    DICOM is not told by its content here: see `headers.is_dicom`.
    """
    suffix = suffix_of(path)
    if suffix or not path.is_file():
        return suffix
    with path.open("rb") as file:
        return _format_within(file.read(BEGINNING))


def _format_within(head: bytes) -> str:
    """The suffix of the volume format or archive that a file begins like; empty where it is none."""
    if head.startswith(GZIP):
        try:
            inside = zlib.decompressobj(wbits=31).decompress(head, BEGINNING)
        except zlib.error:
            return ""
        return ".nii.gz" if _is_nifti(inside) else ""
    if _is_nifti(head):
        return ".nii"
    return next((suffix for suffix, start in STARTS.items() if start.match(head)), "")


def supported() -> str:
    """What can be read, in words for the user."""
    return f"supported are {', '.join(SUFFIXES)} and folders of DICOM files"


def _is_nifti(head: bytes) -> bool:
    sizes = (int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big"))
    return any(head[NIFTI[size]] in (b"n+1", b"n+2", b"ni1", b"ni2") for size in sizes if size in NIFTI)
