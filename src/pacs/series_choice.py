"""Chooses the series of a study to run: the rules exclude series, and preferences rank the rest."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pydicom

from ..data.part10 import read_dicom
from ..errors import BadScan, lacking
from .settings import SeriesRules
from .spool import instances

__all__ = ["SeriesCandidate", "candidate", "choose", "choose_series", "rank", "verdict"]

TAGS = [
    "Modality",
    "BodyPartExamined",
    "ImageType",
    "SliceThickness",
    "ConvolutionKernel",
    "NumberOfFrames",
    "SeriesNumber",
    "SharedFunctionalGroupsSequence",
]
UNSAFE = re.compile(r"[^\w .,+/-]")  # characters that a coded value cannot contain
LONGEST = 32  # characters of a value that a report quotes


class SeriesCandidate(NamedTuple):
    """The attributes of a series that the rules use. Texts are safe to log."""

    uid: str
    modality: str
    body_part: str
    image_type: tuple[str, ...]
    thickness: float | None  # mm, as stated: not the distance between slices
    kernel: str
    slices: int
    number: int


def choose_series(folders: list[Path], rules: SeriesRules) -> tuple[Path | None, list[dict[str, Any]]]:
    """The best of folders with one series each, or None; and the decision on each, best first."""
    candidates, damaged = list[SeriesCandidate](), list[dict[str, Any]]()
    for folder in folders:
        try:
            headers = [_header(file) for file in instances(folder)]
            candidates.append(candidate(folder.name, headers))
        except BadScan as error:
            damaged.append({"series": folder.name, "refused": str(error)})
    best, decisions = choose(candidates, rules)
    return next((folder for folder in folders if best and folder.name == best.uid), None), decisions + damaged


def choose(
    candidates: list[SeriesCandidate], rules: SeriesRules
) -> tuple[SeriesCandidate | None, list[dict[str, Any]]]:
    """The best series, or None if the rules exclude all; and the decision on each, best first."""
    reasons = {one.uid: verdict(one, rules) for one in candidates}
    fit = sorted((one for one in candidates if not reasons[one.uid]), key=lambda one: rank(one, rules))
    decisions = [{"series": one.uid, "chosen": one is fit[0], "is": _description(one)} for one in fit]
    refused = [{"series": uid, "refused": reason} for uid, reason in reasons.items() if reason]
    return fit[0] if fit else None, decisions + refused


def candidate(uid: str, headers: list[pydicom.Dataset], slices: int | None = None) -> SeriesCandidate:
    """The most common value of each attribute in a series' headers. Without `slices`, frames are counted."""
    if not headers:
        msg = "holds no instances"
        raise BadScan(msg)

    def most(read: Callable[[pydicom.Dataset], Any]) -> Any:  # noqa: ANN401 - numbers, lists and texts alike
        return Counter(map(read, headers)).most_common(1)[0][0]

    frames = sum(int(_number(header.get("NumberOfFrames")) or 1) for header in headers)
    return SeriesCandidate(
        uid=uid,
        modality=most(lambda header: _text(header.get("Modality"))),
        body_part=most(lambda header: _text(header.get("BodyPartExamined"))),
        image_type=most(lambda header: tuple(map(_text, _values(header.get("ImageType"))))),
        thickness=most(_thickness),
        kernel=most(lambda header: " ".join(map(_text, _values(header.get("ConvolutionKernel"))))),
        slices=frames if slices is None else slices,
        number=int(_number(headers[0].get("SeriesNumber")) or 0),
    )


def verdict(one: SeriesCandidate, rules: SeriesRules) -> str | None:
    """Why the rules exclude a series; None if they do not."""
    excluded = sorted(set(one.image_type) & _upper(rules.exclude_image_type))
    least, most = rules.slices
    thinnest, thickest = rules.slice_thickness
    faults = (
        (
            one.modality not in _upper(rules.modality),
            f"modality {one.modality or 'missing'} is not {_or(rules.modality)}",
        ),
        (bool(excluded), f"image type {_or(excluded)}: not an original axial series"),
        (
            bool(one.body_part) and one.body_part not in _upper(rules.body_part),
            f"body part {one.body_part} is not {_or(rules.body_part)}",
        ),
        (not (one.body_part or rules.body_part_missing), "body part missing"),
        (not least <= one.slices <= most, f"{one.slices} slices, not {least} to {most}"),
        (one.thickness is None and not rules.slice_thickness_missing, "slice thickness missing"),
        (
            one.thickness is not None and not thinnest <= one.thickness <= thickest,
            f"slice thickness {one.thickness or 0:g} mm, not {thinnest:g} to {thickest:g} mm",
        ),
    )
    return next((reason for wrong, reason in faults if wrong), None)


def rank(one: SeriesCandidate, rules: SeriesRules) -> tuple[float, ...]:
    """The sort key of a series: the smallest is the best."""
    kernels = [place for place, word in enumerate(rules.prefer_kernel) if re.search(word, one.kernel, re.IGNORECASE)]
    places = {
        "body_part": float(not one.body_part),
        "kernel": float(min(kernels, default=len(rules.prefer_kernel))),
        "thin": one.thickness if one.thickness is not None else float("inf"),
        "slices": -float(one.slices),
    }
    return (*(places[name] for name in rules.prefer), float(one.number))


def _description(one: SeriesCandidate) -> str:
    thickness = "unknown thickness" if one.thickness is None else f"{one.thickness:g} mm"
    return f"{one.body_part or 'no body part'}, kernel {one.kernel or 'unknown'}, {thickness}, {one.slices} slices"


def _header(file: Path) -> pydicom.Dataset:
    try:
        header = read_dicom(file, stop_before_pixels=True, specific_tags=TAGS)
        header.decode()
    except Exception as error:
        if lacking(error):
            raise
        msg = f"{file.name} is a damaged DICOM file: send it again"
        raise BadScan(msg) from error
    return header


def _thickness(header: pydicom.Dataset) -> float | None:
    shared = (header.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()])[0]
    measures = (shared.get("PixelMeasuresSequence") or [header])[0]
    return _number(measures.get("SliceThickness"))


def _number(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:
        return None


def _values(value: Any) -> list[Any]:  # noqa: ANN401 - one value or several
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def _text(value: object) -> str:
    return UNSAFE.sub("?", str(value or "")).strip().upper()[:LONGEST]


def _upper(words: Iterable[str]) -> set[str]:
    return {word.upper() for word in words}


def _or(words: Iterable[str]) -> str:
    return " or ".join(words)
