"""Hostile and malformed CT images for `benchmarks.pacs`, made from a seed, as the bytes of a C-STORE."""

import random
import struct
from collections.abc import Callable
from typing import NamedTuple

from pydicom.dataset import Dataset
from pynetdicom.dsutils import encode

from tests.pacs import series_of

__all__ = ["POISONS", "Study", "good", "poisoned"]

LONG = (b"OB", b"OW", b"SQ", b"UN", b"UT", b"OF", b"UC", b"UR")  # value representations with a length of 32 bits
PIXELS = 0x7FE00010
ENDLESS = 0xFFFFFFFF
Elements = dict[int, tuple[bytes, bytes]]  # by tag: the value representation, the value
Change = Callable[[Elements, random.Random], bytes | None]  # the dataset's bytes, or a dataset to change


class Study(NamedTuple):
    """What a sender has to send."""

    uid: str  # as the sender means it
    kind: str
    instances: dict[str, bytes]  # by the UID that is announced


def good(seed: int) -> Study:
    """A study of one series that can be run."""
    return _study(f"1.2.826.0.1.{seed}", "good", lambda *_: None, seed)


def poisoned(kind: str, seed: int) -> Study:
    """A study of which one instance is poisonous; all of its instances, where none of it may be taken."""
    return _study(f"1.2.826.0.2.{seed}", kind, POISONS[kind], seed)


def _study(uid: str, kind: str, change: Change, seed: int) -> Study:
    chance = random.Random(seed)  # noqa: S311 - keeps no secret
    slices = series_of(study=uid)
    for number, one in enumerate(slices):
        one.SeriesInstanceUID, one.SOPInstanceUID = f"{uid}.1", f"{uid}.1.{number}"
        one.FrameOfReferenceUID = f"{uid}.2"
    middle = chance.randrange(2, len(slices) - 2)
    chosen = [slices[middle]] if kind in REFUSED_AT_ONCE else slices
    instances = {
        str(one.SOPInstanceUID): _changed(one, change, chance) if one is slices[middle] else _encoded(one)
        for one in chosen
    }
    return Study(uid, kind, instances)


def _changed(one: Dataset, change: Change, chance: random.Random) -> bytes:
    elements = _elements(_encoded(one))
    return change(elements, chance) or _joined(elements)


def _encoded(one: Dataset) -> bytes:
    return encode(one, is_implicit_vr=False, is_little_endian=True) or b""


def _elements(content: bytes) -> Elements:
    """The elements of a dataset in explicit little endian, without undefined lengths."""
    elements, place = Elements(), 0
    while place < len(content):
        group, number, kind = struct.unpack_from("<HH2s", content, place)
        long = kind in LONG
        (length,) = struct.unpack_from("<I" if long else "<H", content, place + (8 if long else 6))
        start = place + (12 if long else 8)
        elements[group << 16 | number] = kind, content[start : start + length]
        place = start + length
    return elements


def _joined(elements: Elements) -> bytes:
    return b"".join(_element(tag, *elements[tag]) for tag in sorted(elements))


def _element(tag: int, kind: bytes, value: bytes, length: int | None = None) -> bytes:
    value += b"\0" * (len(value) % 2)
    length = len(value) if length is None else length
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, kind)
    return head + (struct.pack("<HI", 0, length) if kind in LONG else struct.pack("<H", length)) + value


def _set(tag: int, kind: bytes, *values: bytes) -> Change:
    """One of the values, by chance, in this element."""

    def change(elements: Elements, chance: random.Random) -> None:
        elements[tag] = kind, chance.choice(values)

    return change


def _without(tag: int) -> Change:
    def change(elements: Elements, _: random.Random) -> None:
        del elements[tag]

    return change


def _after(tag: int, kind: bytes, value: bytes, length: int) -> Change:
    """This element, whose length is a lie, before the pixels."""

    def change(elements: Elements, _: random.Random) -> bytes:
        pixels = elements.pop(PIXELS)
        return _joined(elements) + _element(tag, kind, value, length) + _element(PIXELS, *pixels)

    return change


def _cut_pixels(elements: Elements, chance: random.Random) -> None:
    kind, value = elements[PIXELS]
    elements[PIXELS] = kind, value[: chance.randrange(2, len(value) // 2, 2)]


def _cut(elements: Elements, chance: random.Random) -> bytes:
    content = _joined(elements)
    return content[: chance.randrange(len(content) // 8, len(content) - 8)]


def _noise(elements: Elements, chance: random.Random) -> bytes:
    return chance.randbytes(len(_joined(elements)))


def _flipped(elements: Elements, chance: random.Random) -> bytes:
    """Some bits of the header are others."""
    content = bytearray(_joined(elements))
    for _ in range(chance.randint(1, 8)):
        content[chance.randrange(len(content) - len(elements[PIXELS][1]))] ^= 1 << chance.randrange(8)
    return bytes(content)


def _nested(elements: Elements, chance: random.Random) -> None:
    """Sequences in sequences."""
    value = b""
    for _ in range(chance.choice((300, 2000))):
        value = _element(0x00081140, b"SQ", struct.pack("<HHI", 0xFFFE, 0xE000, len(value)) + value)
    elements[0x00081140] = b"SQ", value[12:]


def _huge(elements: Elements, chance: random.Random) -> None:
    elements[0x00104000] = b"UT", chance.choice((b"x", b"\xff", b"\\")) * 5_000_000


NUMBERS = (b"1e999", b"abc", b"--1", b"1,5", b"\xff\xfe", b"9" * 16, b"0x10", b"")
POISONS: dict[str, Change] = {
    "a count that does not convert": _set(0x00201208, b"IS", *NUMBERS[:6]),
    "a slope that does not convert": _set(0x00281053, b"DS", *NUMBERS),
    "a spacing that is none": _set(0x00280030, b"DS", b"nan\\nan", b"0\\0", b"-1\\1", b"1e400\\1", b"1", b"a\\b"),
    "a position that is none": _set(0x00200032, b"DS", b"1e400\\0\\0", b"nan\\0\\0", b"1\\2", b"a\\b\\c", b""),
    "rows of another kind": _set(0x00280010, b"LO", b"24", b"\xff\xff\xff", b""),
    "a huge size": _set(0x00280010, b"US", b"\xff\xff", b"\0\0"),
    "a huge number of frames": _set(0x00280008, b"IS", b"2147483647", b"999999999999", b"-1", b"1e9"),
    "bits that are none": _set(0x00280100, b"US", b"\0\0", b"\1\0", b"\xff\xff"),
    "an unknown character set": _set(0x00080005, b"CS", b"ISO_IR 999", b"\xff\xfe", b"ISO 2022 IR 87\\X"),
    "a name that is no text": _set(0x00100010, b"PN", b"\xff\xfe\x1b$B", b"^" * 60000),
    "another patient": _set(0x00100020, b"LO", b"SOMEBODY ELSE"),
    "cut pixels": _cut_pixels,
    "no pixels": _without(PIXELS),
    "a cut dataset": _cut,
    "noise": _noise,
    "flipped bits": _flipped,
    "deep sequences": _nested,
    "a text of 5 MB": _huge,
    "a length beyond the end": _after(0x00290010, b"OB", b"x" * 8, 0x7FFFFFFE),
    "a sequence without end": _after(0x00290010, b"SQ", b"\xfe\xff\x00\xe0\xff\xff\xff\xff", ENDLESS),
    "no study": _without(0x0020000D),
    "no series": _without(0x0020000E),
    "another instance": _set(0x00080018, b"UI", b"1.2.3.4", b"", b"../../x"),
    "a study that is a path": _set(0x0020000D, b"UI", b"../../../tmp/x", b"..", b"1..2", b"/etc"),
    "the header of a file": _set(0x00020010, b"UI", b"1.2.840.10008.1.2.1.99"),
}
REFUSED_AT_ONCE = {
    "noise",
    "no study",
    "no series",
    "another instance",
    "a study that is a path",
    "the header of a file",
}
