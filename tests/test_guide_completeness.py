"""docs/guide.md keeps every command, call, key, file name and field of the required guide."""

from pathlib import Path

import pytest
import yaml

from tests.guide_blocks import FENCE, facts


@pytest.fixture(scope="module")
def guide(root: Path) -> str:
    return (root / "docs" / "guide.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def contract(root: Path) -> str:
    path = root.parent / "shared" / "inference_guide.md"
    if not path.is_file():
        pytest.skip("needs ../shared/inference_guide.md")
    return path.read_text(encoding="utf-8")


def test_the_guide_contains_every_required_fact(contract: str, guide: str) -> None:
    assert sorted(facts(contract) - facts(guide) - _within_spans(contract, guide)) == []


def _within_spans(contract: str, guide: str) -> set[tuple[str, str]]:
    """The facts of the contract's prose that are anywhere in the guide, including blocks."""
    return {(kind, fact) for kind, fact in facts(contract) if kind == "text" and fact in guide}


def test_the_configuration_file_is_as_documented(root: Path, contract: str) -> None:
    settings = yaml.safe_load((root / "configs" / "inference.yaml").read_text(encoding="utf-8"))
    assert settings in [yaml.safe_load(block) for language, block in FENCE.findall(contract) if language == "yaml"]


@pytest.mark.parametrize(
    "part",
    [
        "  --batch-size 4 \\\n",
        "    sigma: 0.125\n",
        "      - rotate_90_xz\n",
        "    iou_threshold=0.3\n",
        "from src.viz.confidence import plot_confidence_distribution\n",
        '      "diameter_mm": 8.5,\n',
        ",malignancy_score",
        "`min_diameter: 4.0`",
        "`results/scan_heatmap.nii.gz`",
    ],
)
def test_a_missing_part_is_detected(part: str, guide: str) -> None:
    assert part in guide
    assert facts(guide) - facts(guide.replace(part, ""))
