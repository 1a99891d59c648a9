"""The building blocks of a report, independent of its file format."""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

__all__ = ["RESEARCH_USE", "Block", "BlockGroup", "Facts", "Heading", "Picture", "Rows", "Text"]

RESEARCH_USE = "Research use only, not a medical device. Nothing in it may guide the care of a patient."


class Heading(NamedTuple):
    """A title: level 1 of the report, 2 of a section, 3 below."""

    text: str
    level: int = 2


class Text(NamedTuple):
    """A paragraph."""

    text: str


class Facts(NamedTuple):
    """Names with their values. Those in `alone` get a row each, in order."""

    pairs: Sequence[tuple[str, str]]
    alone: Sequence[str] = ()


class Rows(NamedTuple):
    """A table under a header."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


class Picture(NamedTuple):
    """A JPEG that is `shape` times as high as wide."""

    jpeg: bytes
    shape: float


class BlockGroup(NamedTuple):
    """Blocks that stay on one page."""

    blocks: "Sequence[Block]"


Block: TypeAlias = Heading | Text | Facts | Rows | Picture | BlockGroup
