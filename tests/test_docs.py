"""The documentation site: it builds without warnings, has every page, and requests nothing from other servers."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from src.inference import compare
from tests.guide_blocks import commands

ASKED = re.compile(
    r"<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=[\"']?((?:https?:)?//[^\"'\s>]+)", re.DOTALL
)
STYLED = re.compile(r"(?:url\(|@import\s)\s*[\"']?((?:https?:)?//[^\"')\s]+)")


@pytest.fixture(scope="module")
def site(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=root,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "not included in the" not in done.stderr  # pages that the navigation leaves out
    return folder


def test_the_site_contains_every_page_of_the_documentation(site: Path, root: Path) -> None:
    pages = [path.relative_to(root / "docs").with_suffix("") for path in (root / "docs").rglob("*.md")]
    assert not [page for page in pages if not (site / page / "index.html").is_file()]
    assert (site / "model_card" / "index.html").is_file()


def test_the_site_requests_nothing_from_other_servers(site: Path) -> None:
    asked = {
        f"{path.relative_to(site)}: {url}"
        for path in site.rglob("*.html")
        for url in ASKED.findall(path.read_text(encoding="utf-8"))
    }
    asked |= {url for path in site.rglob("*.css") for url in STYLED.findall(path.read_text(encoding="utf-8"))}
    assert not asked


def test_lists_and_tables_are_rendered_as_such(site: Path) -> None:
    """The site needs a blank line before a list or table."""
    paragraph = re.compile(r"<p>(?:(?!</p>).)*?\n(?:- |1\. |\|)(?:(?!</p>).)*?</p>", re.DOTALL)
    found = [
        f"{path.parent.name}: {text[:80]}"
        for path in site.rglob("index.html")
        for text in paragraph.findall(re.sub(r"(?s)<pre.*?</pre>", "", path.read_text(encoding="utf-8")))
    ]
    assert not found


def test_the_search_index_contains_the_pages_and_the_docstrings(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    texts = {entry["location"]: entry["text"] for entry in index["docs"]}
    assert any("quiet_seconds" in text for place, text in texts.items() if place.startswith("pacs/"))
    for name in ("inference.peak_detection.detect_peaks", "detection.pipeline.InferencePipeline.predict"):
        assert f"reference/python/#src.{name}" in texts


def test_relative_links_lead_to_existing_files(root: Path) -> None:
    """All documents, because they are also read in the repository."""
    documents = [*(root / "docs").rglob("*.md"), *root.glob("*.md"), root / "checkpoints" / "MODEL_CARD.md"]
    links = [
        (document, target)
        for document in documents
        for target in re.findall(r"\]\((?![a-z]+:|#)([^)#\s]+)", re.sub(r"(?ms)^```.*?^```$", "", document.read_text()))
    ]
    assert len(links) > 100
    assert not [f"{document.name}: {target}" for document, target in links if not (document.parent / target).exists()]


def test_the_compare_commands_of_the_tutorial_have_valid_options(root: Path) -> None:
    """The commands need two whole chests, so the tests parse them and do not run them."""
    page = (root / "docs" / "tutorials" / "followup.md").read_text(encoding="utf-8")
    blocks = re.findall(r"(?ms)^```sh\n(.*?)^```$", page)
    for words in commands("".join(blocks)):
        assert words[:6] == ["uv", "run", "python", "-m", "src.inference.main", "compare"]
        assert compare.make_parser().parse_args(words[6:]).interval_days == 180
    assert len(blocks) == 2
