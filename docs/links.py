"""Links of the site: pages keep the links that also work in the repository, and the site makes them its own.

README.md is the site's first page. It, and what lies outside docs/, has a place in the site; see `PAGES`.
"""

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {  # file of the repository: its page in the site
    "README.md": "index.md",
    "checkpoints/MODEL_CARD.md": "model_card.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")  # the path in `](path#heading)`
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside docs/, and every file there that a page links to."""
    for source in [*DOCS.rglob("*.md"), *(ROOT / name for name in PAGES)]:
        for _, target in _links(source):
            place = _place(target)
            if files.get_file_from_path(place) is None and target.is_file():
                files.append(File.generated(config, place, abs_src_path=str(target)))
    for name, place in PAGES.items():
        if files.get_file_from_path(place) is None:
            files.append(File.generated(config, place, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Point each link at the place in the site of the file that it names in the repository."""
    here = Path(page.file.src_uri).parent
    source = Path(page.file.abs_src_path or "")

    def moved(match: re.Match[str]) -> str:
        return os.path.relpath(_place((source.parent / match[1]).resolve()), here)

    parts = re.split(f"({FENCE.pattern})", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else LINK.sub(moved, part) for part in parts)


def _links(source: Path) -> list[tuple[str, Path]]:
    text = FENCE.sub("", source.read_text(encoding="utf-8"))
    return [(link, (source.parent / link).resolve()) for link in LINK.findall(text)]


def _place(target: Path) -> str:
    """Where a file of the repository is in the site."""
    if target.is_relative_to(DOCS):
        return target.relative_to(DOCS).as_posix()
    name = target.relative_to(ROOT).as_posix() if target.is_relative_to(ROOT) else target.as_posix()
    return PAGES.get(name, name)
