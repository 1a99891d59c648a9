"""A report as Markdown that also reads well as plain text. It has no pictures."""

from collections.abc import Iterable, Sequence

from .report_blocks import RESEARCH_USE, Block, BlockGroup, Facts, Heading, Picture, Rows, Text

__all__ = ["as_markdown"]


def as_markdown(blocks: Iterable[Block]) -> str:
    """The report's text and tables. The research-use line comes first and last."""
    parts = [RESEARCH_USE, *(_block(block) for block in blocks), RESEARCH_USE]
    return "\n\n".join(part for part in parts if part) + "\n"


def _block(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {text}"
        case Text(text):
            return text
        case Facts(pairs):
            return "\n".join(f"- {name}: {value}" for name, value in pairs)
        case Rows(header, rows):
            return "\n".join(_row(row) for row in (header, ["---"] * len(header), *rows))
        case Picture():
            return ""
        case BlockGroup(blocks):
            return "\n\n".join(text for inner in blocks if (text := _block(inner)))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
