"""Chooses the series to read: groups slices into volumes and takes the best volume.

The first difference decides: no projection; original, primary images; a body part named as chest; most of the length
that any series covers; thinnest; most slices; lowest SeriesNumber. The notes name what is left out, and why.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import NamedTuple

from pydicom.uid import UID, SecondaryCaptureImageStorage

from ..errors import BadScan
from .attributes import words
from .checks import check_shape
from .headers import Header, is_ct_image
from .parts import DIFFERENCES, MIN_SLICES, Part, joined, split
from .slices import Slice, slices_of
from .stacks import Stack, stacked, typical_step

__all__ = ["Chosen", "choose"]

CHEST = ("CHEST", "LUNG", "THORAX")
COVER = 0.9  # of the longest series: a thinner series must cover this fraction
PARALLEL = 0.99  # cosine between normals; positions along nearly parallel normals are compared
FAR = 15.0  # mm beyond the chosen series; more is reported
NEEDED = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleIntercept")


class Chosen(NamedTuple):
    """The chosen slices, and the notes on the choice."""

    stack: Stack
    uid: str | None  # SeriesInstanceUID
    body_part: str  # BodyPartExamined, in upper case
    notes: tuple[str, ...]


def choose(headers: Iterable[Header]) -> Chosen:
    """The best CT series of DICOM files.

    Raises:
        BadScan: no series is a volume, or there are several studies or patients.
    """
    images, notes = _images(list(headers))
    whole, broken = _parts(images)
    _check_one_patient([one for part in whole for one in part.slices])
    parts = [_judged(part) for part in joined([piece for part in whole for piece in split(part)])]
    usable = [part for part in parts if part.stack]
    if not usable:
        raise BadScan(_why_none([_judged(Part(part.slices)) for part in whole], parts, broken))
    best, *others = sorted(usable, key=_preference(usable))
    about = best.slices[0].about
    if about.projection:
        kind = "/".join(about.image_type)
        msg = f"holds only projections through many slices (ImageType {kind}): give the original axial series"
        raise BadScan(msg)
    assert best.stack is not None  # noqa: S101 - usable parts have a volume
    notes += _rescaling(best.stack.slices)
    notes += [f"left out: {other.label}: {_why_not(best, other, usable)}{_beyond(best, other)}" for other in others]
    notes += [f"left out: {part.label}: {_what(part.problem)}" for part in parts if part.problem]
    notes += [f"left out: {_what(problem)}" for problem in broken]
    return Chosen(best.stack, about.series or None, about.body_part, (*best.notes, *best.stack.notes, *notes))


def _images(headers: list[Header]) -> tuple[list[Header], list[str]]:
    """The CT images among the files, and notes on the other files."""
    if not headers:
        msg = "holds no DICOM files: give a scan file, or the folder of a DICOM series"
        raise BadScan(msg)
    reasons = {header.path: _why_no_image(header) for header in headers}
    images = [header for header in headers if not reasons[header.path]]
    others = Counter(reason for reason in reasons.values() if reason)
    counted = [f"{count} file{'s are' if count > 1 else ' is'} {reason}" for reason, count in sorted(others.items())]
    if not images:
        only = len(others) == 1 and "localiser" in next(iter(others))
        what = "holds only localisers" if only else "holds no CT images"
        msg = f"{what}: {'; '.join(counted)}: give the folder of all slices of a chest CT"
        raise BadScan(msg)
    notes = [f"left out: {one}" for one in counted]
    bare = sum(header.bare for header in images)
    if bare:
        notes.append(f"{bare} files have no DICOM preamble and were read without it")
    captures = sum(header.data.SOPClassUID == SecondaryCaptureImageStorage for header in images)
    if captures:
        notes.append(
            f"{captures} files are Secondary Capture by their SOP class, but were read as CT by their other attributes"
        )
    return images, notes


def _why_no_image(header: Header) -> str | None:
    """Why a file holds no slice of a CT series; None if it may hold one."""
    data, uid = header.data, UID(str(header.data.SOPClassUID))
    modality = str(data.get("Modality") or "")
    if "LOCALIZER" in words(data, "ImageType"):
        return "a localiser (ImageType LOCALIZER)"
    if is_ct_image(data):
        return None
    lacking = [name for name in NEEDED if data.get(name) in (None, "")]
    if uid == SecondaryCaptureImageStorage and modality == "CT":
        return f"{uid.name} (SOPClassUID) without {', '.join(lacking)}" if lacking else None
    return f"{uid.name} (SOPClassUID) of Modality {modality[:16] or 'unknown'}"


def _parts(headers: list[Header]) -> tuple[list[Part], list[str]]:
    """The slices of each series with readable headers, and the problem with each other series."""
    groups: dict[str, list[Header]] = defaultdict(list)
    for header in headers:
        groups[str(header.data.get("SeriesInstanceUID") or "")].append(header)
    parts, broken = list[Part](), list[str]()
    for group in groups.values():
        try:
            parts.append(Part([one for header in group for one in slices_of(header)]))
        except BadScan as error:
            number = words(group[0].data, "SeriesNumber") or ["without number"]
            broken.append(f"series {number[0][:16]} ({len(group)} files): {error}")
    return parts, broken


def _check_one_patient(slices: list[Slice]) -> None:
    for what, tag, values in (
        ("studies", "StudyInstanceUID", {one.about.study for one in slices}),
        ("patients", "PatientID", {one.about.patient for one in slices}),
    ):
        if len(values) > 1:
            msg = f"holds CT of {len(values)} {what} (by {tag}): put each into its own folder"
            raise BadScan(msg)


def _rescaling(slices: list[Slice]) -> list[str]:
    """The note on slices with different rescaling; empty if all have the same."""
    ways = sorted({(one.slope, one.intercept) for one in slices})
    used = " to ".join(f"{slope:g} and {intercept:g}" for slope, intercept in (ways[0], ways[-1]))
    return [f"RescaleSlope and RescaleIntercept differ between slices ({used}): each has its own"] if ways[1:] else []


def _judged(part: Part) -> Part:
    """The part with its volume, or with the problem."""
    if len(part.slices) < MIN_SLICES:
        part.problem = f"fewer than {MIN_SLICES} slices in the series: give the folder of all slices"
        return part
    try:
        stack = stacked(part.slices)
        check_shape((*stack.slices[0].size, len(stack.grid)))
        part.stack = stack
    except BadScan as error:
        part.problem = str(error)
    return part


def _preference(usable: list[Part]) -> Callable[[Part], tuple[float | str, ...]]:
    """The sort key of a series: the smallest is the best."""
    ranks = {id(part): _rank(part) for part in usable}
    first = min(ranks.values())
    longest = max(_length(part) for part in usable if ranks[id(part)] == first)

    def key(part: Part) -> tuple[float | str, ...]:
        about = part.slices[0].about
        thickness = round(max(about.thickness or 0.0, typical_step(part.slices)), 2)
        return (
            *ranks[id(part)],
            _length(part) < COVER * longest,
            thickness,
            -len(part.slices),
            about.number,
            min(one.number for one in part.slices),
            about.series,
            str(part.slices[0].path),
        )

    return key


def _rank(part: Part) -> tuple[bool, bool, bool, bool]:
    about = part.slices[0].about
    return (
        about.projection,
        "ORIGINAL" not in about.image_type,
        "SECONDARY" in about.image_type,
        not any(word in about.body_part for word in CHEST),
    )


def _length(part: Part) -> float:
    low, high = part.span
    return high - low


def _why_not(best: Part, other: Part, usable: list[Part]) -> str:
    """Why one series was preferred: the first place in the sort key where the two differ."""
    about = other.slices[0].about
    key = _preference(usable)
    place = next((i for i, (a, b) in enumerate(zip(key(best), key(other), strict=True)) if a != b), -1)
    reasons = (
        f"a projection through many slices (ImageType {'/'.join(about.image_type)})",
        f"no original images (ImageType {'/'.join(about.image_type)})",
        f"no primary images (ImageType {'/'.join(about.image_type)})",
        f"not called a chest (BodyPartExamined {about.body_part[:16] or 'missing'})",
        f"covers {_length(other):.0f} mm only",
        "thicker slices",
        "fewer slices",
    )
    if 0 <= place < len(reasons):
        return reasons[place]
    differing = (name for name, differ in DIFFERENCES if differ(best.slices[0]) != differ(other.slices[0]))
    name = next(differing, None)
    return f"another {name}, and higher numbers" if name else "alike, but with higher numbers"


def _beyond(best: Part, other: Part) -> str:
    """How far another series reaches beyond the chosen one. That range is not searched."""
    if best.slices[0].normal @ other.slices[0].normal < PARALLEL:
        return ""
    (low, high), (from_, to) = best.span, other.span
    reach = max(low - from_, to - high)
    return f"; it reaches {reach:.0f} mm beyond the series that is read" if reach >= FAR else ""


def _why_none(whole: list[Part], parts: list[Part], broken: list[str]) -> str:
    """The problem to report if no series is a volume: that of the largest series, before or after splitting."""
    if not whole:
        return broken[0].partition("): ")[2]
    largest = max(whole, key=lambda part: len(part.slices))
    return largest.problem or max(parts, key=lambda part: len(part.slices)).problem


def _what(problem: str) -> str:
    """A problem without its remedy, which matters only to someone who wants that series."""
    return problem.rpartition(": ")[0] or problem
