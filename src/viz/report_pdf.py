"""A report as PDF, A4, with the research-use line on every page."""

import functools
import io
import textwrap
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any
from xml.sax.saxutils import escape

import matplotlib as mpl
from reportlab.lib.colors import HexColor
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfbase.pdfmetrics import registerFont, registerFontFamily
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import (
    BaseDocTemplate,
    Flowable,
    Frame,
    Image,
    KeepTogether,
    PageTemplate,
    Paragraph,
    Spacer,
    Table,
)

from .report_blocks import RESEARCH_USE, Block, BlockGroup, Facts, Heading, Picture, Rows, Text

__all__ = ["write_pdf"]

FONT, BOLD = "PivotSans", "PivotSans-Bold"
INK, GREY, LINE, SHADE = HexColor("#1c2630"), HexColor("#5b6670"), HexColor("#c9d0d6"), HexColor("#eef2f5")
MARGIN, BOTTOM = 18 * mm, 20 * mm
WIDTH = A4[0] - 2 * MARGIN
NAME, SHORT = 30 * mm, 34  # the width of a fact's name; letters of a value that fits in half the page
STYLES = {
    "text": ParagraphStyle("text", fontName=FONT, fontSize=8.5, leading=12, textColor=INK, spaceAfter=4),
    "cell": ParagraphStyle("cell", fontName=FONT, fontSize=8, leading=10.5, textColor=INK),
    "name": ParagraphStyle("name", fontName=FONT, fontSize=8, leading=10.5, textColor=GREY),
    "head": ParagraphStyle("head", fontName=BOLD, fontSize=8, leading=10.5, textColor=INK),
    1: ParagraphStyle("h1", keepWithNext=1, fontName=BOLD, fontSize=17, leading=22, textColor=INK, spaceAfter=6),
    2: ParagraphStyle(
        "h2", keepWithNext=1, fontName=BOLD, fontSize=12, leading=16, textColor=INK, spaceBefore=10, spaceAfter=4
    ),
    3: ParagraphStyle(
        "h3", keepWithNext=1, fontName=BOLD, fontSize=9.5, leading=13, textColor=INK, spaceBefore=6, spaceAfter=3
    ),
}
GRID: list[Any] = [  # as reportlab calls the commands of a table's style
    ("VALIGN", (0, 0), (-1, -1), "TOP"),
    ("LINEBELOW", (0, 0), (-1, -1), 0.4, LINE),
    ("TOPPADDING", (0, 0), (-1, -1), 2),
    ("BOTTOMPADDING", (0, 0), (-1, -1), 2.5),
    ("LEFTPADDING", (0, 0), (-1, -1), 3),
    ("RIGHTPADDING", (0, 0), (-1, -1), 3),
]


def write_pdf(blocks: Iterable[Block], title: str, path: Path) -> int:
    """Write the blocks to `path`. Return the number of pages. The same blocks give the same bytes."""
    _load_fonts()
    blocks = list(blocks)
    pages = _build(blocks, title, io.BytesIO(), total=0)  # a first pass to count them
    with path.open("wb") as file:
        return _build(blocks, title, file, total=pages)


@functools.cache
def _load_fonts() -> None:
    """Register DejaVu Sans, which matplotlib ships. It has accents, Greek and Cyrillic."""
    folder = Path(mpl.get_data_path()) / "fonts" / "ttf"
    for name, file in ((FONT, "DejaVuSans.ttf"), (BOLD, "DejaVuSans-Bold.ttf")):
        registerFont(TTFont(name, folder / file))
    registerFontFamily(FONT, normal=FONT, bold=BOLD, italic=FONT, boldItalic=BOLD)


def _build(blocks: Sequence[Block], title: str, file: IO[bytes], total: int) -> int:
    """Lay out the pages from new flowables, because a layout uses them up."""
    document = BaseDocTemplate(file, pagesize=A4, title=title, author="PIVOT", lang="en", invariant=1)
    frame = Frame(MARGIN, BOTTOM, WIDTH, A4[1] - BOTTOM - 14 * mm, 0, 0, 0, 0)
    footer = functools.partial(_draw_footer, title=title, total=total)
    document.addPageTemplates(PageTemplate(frames=[frame], onPageEnd=footer))
    story = [flowable for block in blocks for flowable in _flowables(block)]
    document.build(story)
    return int(document.page)


def _draw_footer(canvas: Canvas, document: BaseDocTemplate, title: str, total: int) -> None:
    canvas.setStrokeColor(LINE)
    canvas.line(MARGIN, 14 * mm, A4[0] - MARGIN, 14 * mm)
    canvas.setFillColor(INK)
    canvas.setFont(BOLD, 7.5)
    canvas.drawString(MARGIN, 10.5 * mm, RESEARCH_USE)
    canvas.setFillColor(GREY)
    canvas.setFont(FONT, 7)
    canvas.drawString(MARGIN, 7 * mm, textwrap.shorten(title, 90, placeholder="..."))
    canvas.drawRightString(A4[0] - MARGIN, 7 * mm, f"page {document.page} of {total}")


def _flowables(block: Block) -> list[Flowable]:
    match block:
        case Heading(text, level):
            return [Paragraph(escape(text), STYLES[level])]
        case Text(text):
            return [_paragraph(text, "text")]
        case Facts(pairs, alone):
            return [_facts(pairs, alone), Spacer(0, 4)]
        case Rows(header, rows):
            return [_table(header, rows), Spacer(0, 6)]
        case Picture(jpeg, shape):
            return [Image(io.BytesIO(jpeg), WIDTH, WIDTH * shape), Spacer(0, 3)]
        case BlockGroup(inner):
            return [KeepTogether([flowable for one in inner for flowable in _flowables(one)])]


def _paragraph(text: str, style: str) -> Paragraph:
    return Paragraph(escape(text), STYLES[style])


def _facts(pairs: Sequence[tuple[str, str]], alone: Sequence[str]) -> Table:
    """Names and values in two pairs of columns. Long values, and those in `alone`, get a row each, below."""
    short = [pair for pair in pairs if len(pair[1]) <= SHORT and pair[0] not in alone]
    half = -(-len(short) // 2)
    halves = zip_longest(short[:half], short[half:], fillvalue=("", ""))
    rows = [(*left, *right) for left, right in halves] + [(*pair, "", "") for pair in pairs if pair not in short]
    cells = [[_paragraph(cell, "cell" if column % 2 else "name") for column, cell in enumerate(row)] for row in rows]
    spans = [("SPAN", (1, row), (3, row)) for row in range(half, len(rows))]
    return Table(cells, [NAME, WIDTH / 2 - NAME] * 2, style=[*GRID, *spans], hAlign="LEFT")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table as wide as the page. Columns get widths in proportion to their longest cells."""
    longest = [min(40, max(len(row[column]) for row in (header, *rows)) + 2) for column in range(len(header))]
    widths = [WIDTH * length / sum(longest) for length in longest]
    cells = [[_paragraph(cell, "head") for cell in header]]
    cells += [[_paragraph(cell, "cell") for cell in row] for row in rows]
    return Table(cells, widths, repeatRows=1, style=[*GRID, ("BACKGROUND", (0, 0), (-1, 0), SHADE)], hAlign="LEFT")
