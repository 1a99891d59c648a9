"""File formats: by the suffix of the name or, without a known suffix, by the first bytes of the content."""

import re
import zlib
from pathlib import Path

from .voxels import GZIP

__all__ = ["DICOM", "SUFFIXES", "VOLUMES", "content_of", "format_of", "suffix_of", "supported"]

VOLUMES = (".nii.gz", ".nii", ".mhd", ".mha", ".nrrd", ".nhdr")
SUFFIXES = (*VOLUMES, ".zip")
DICOM = (".dcm", ".dicom", ".ima")
BEGINNING = 1024  # bytes that identify the format
NIFTI = {348: slice(344, 347), 540: slice(4, 7)}  # size of the header, and offset of its magic
STARTS = {
    ".nrrd": re.compile(rb"NRRD000\d"),
    ".mha": re.compile(rb"(ObjectType|ObjectSubType|NDims|Comment)[ \t]*="),
    ".zip": re.compile(rb"PK[\3\5]"),
}


def suffix_of(path: Path) -> str:
    """The known suffix of a file, in lower case; empty if it has none."""
    return next((suffix for suffix in (*SUFFIXES, *DICOM) if path.name.lower().endswith(suffix)), "")


def format_of(path: Path) -> str:
    """The suffix of a file, or else the one that fits its content; empty if neither is known."""
    return suffix_of(path) or content_of(path)


def content_of(path: Path) -> str:
    """The suffix of the format that the content has; empty if the format is unknown or there is no file."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        head = file.read(BEGINNING)
    if head[128:132] == b"DICM":  # without the preamble, see `headers.is_dicom`
        return ".dcm"
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
    """The supported formats, in words for the user."""
    return f"supported are {', '.join(SUFFIXES)} and folders of DICOM files"


def _is_nifti(head: bytes) -> bool:
    sizes = (int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big"))
    return any(head[NIFTI[size]] in (b"n+1", b"n+2", b"ni1", b"ni2") for size in sizes if size in NIFTI)
