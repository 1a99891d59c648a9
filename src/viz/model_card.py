"""The model card's extract in a report."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..files import shipped
from .report_blocks import Block, Heading, Rows, Text

__all__ = ["model_card"]

KEPT = ("Validation", "Limits")  # paragraphs with these first words are kept, besides the first one


def model_card(checkpoint: Mapping[str, Any]) -> list[Block]:
    """The known facts about a model. For the shipped weights (by hash) they include an extract of the model card.

    `checkpoint` is a report's `metadata.checkpoint`: `name`, `version`, `sha256`.
    """
    if not checkpoint:
        return [Text("Not known: the detections were given without their report, which names the model.")]
    name = f"{checkpoint.get('name')}, version {checkpoint.get('version')}, SHA-256 {checkpoint.get('sha256')}."
    weights, card = shipped("checkpoints/best_model.pth"), shipped("checkpoints/MODEL_CARD.md")
    there = weights.is_file() and card.is_file()
    ours = there and hashlib.sha256(weights.read_bytes()).hexdigest() == checkpoint.get("sha256")
    if not ours:
        return [Text(name), Text("This is not PIVOT's shipped model. Its performance is not known.")]
    extract = _extract(list(_blocks(_for_reading(card.read_text(encoding="utf-8")))))
    return [Text(name), *extract, Text("An extract; the whole model card comes with PIVOT.")]


def _extract(card: list[Block]) -> list[Block]:
    """The first paragraph, the first table, and the paragraphs in `KEPT`."""
    texts = [block for block in card if isinstance(block, Text)]
    tables = [block for block in card if isinstance(block, Rows)]
    kept = [*texts[:1], *tables[:1], *(text for text in texts[1:] if text.text.startswith(KEPT))]
    return [block for block in card if block in kept]


def _blocks(markdown: str) -> Iterator[Block]:
    """The paragraphs, tables and headings of a plain Markdown text, without its title."""
    for part in re.split(r"\n\s*\n", markdown.strip()):
        lines = [_plain(line) for line in part.splitlines()]
        if lines[0].startswith("# "):
            continue
        if lines[0].startswith("#"):
            yield Heading(lines[0].lstrip("# "), 3)
        elif lines[0].startswith("|"):
            header, _, *rows = ([cell.strip() for cell in line.strip("| ").split("|")] for line in lines)
            yield Rows(header, rows)
        else:
            items = re.split(r"^- ", "\n".join(lines), flags=re.MULTILINE)
            yield from (Text(" ".join(item.split())) for item in items if item)


def _plain(line: str) -> str:
    return line.replace("**", "").replace("`", "")


def _for_reading(text: str) -> str:
    """The text without its front matter, and without the commands for its figures, which are for developers."""
    text = re.sub(r"\A---\n.*?^---\n", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r" by `uv run [^`]*`", "", text)
