"""The documented modules and names that users import."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from tests.guide_blocks import facts

PUBLIC = {
    "src.api.app": {"app"},
    "src.api.client": {"InferenceClient"},
    "src.data.loader": {"load_scan", "read_scan"},
    "src.data.preprocessing": {"preprocess"},
    "src.inference.distributed": {"distributed_inference"},
    "src.inference.main": {"InferencePipeline", "batch_inference"},
    "src.inference.nodule_properties": {"extract_properties"},
    "src.inference.output_formatter": {"load_detections"},
    "src.inference.peak_detection": {"detect_peaks"},
    "src.inference.post_processing": {"non_maximum_suppression"},
    "src.inference.sliding_window": {"sliding_window_inference"},
    "src.inference.torchscript_optimizer": {"optimize_model"},
    "src.inference.triage_calibration": {"calibrate_scores"},
    "src.model.checkpoint": {"load_model"},
    "src.viz.confidence": {"plot_confidence_distribution"},
    "src.viz.overlay": {"visualize_detections"},
    "src.viz.rendering_3d": {"render_3d_volume"},
    "src.viz.report": {"generate_report"},
}


@pytest.mark.parametrize("module", PUBLIC)
def test_a_documented_module_lists_and_defines_its_public_names(module: str, root: Path) -> None:
    tree = ast.parse((root / module.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8"))
    assigned = [node.value for node in tree.body if isinstance(node, ast.Assign) and _targets(node) == ["__all__"]]
    names = ast.literal_eval(assigned[0])
    assert set(names) >= PUBLIC[module]
    assert len(set(names)) == len(names)
    loaded = import_module(module)
    for name in names:
        assert hasattr(loaded, name), name


def _targets(node: ast.Assign) -> list[str]:
    return [ast.unparse(target) for target in node.targets]


def test_the_guide_imports_public_names_only(root: Path) -> None:
    found = facts((root / "docs" / "guide.md").read_text(encoding="utf-8"))
    imported = {fact.removeprefix("import ") for kind, fact in found if kind == "python" and "import src." in fact}
    public = {f"{module}.{name}" for module, names in PUBLIC.items() for name in names}
    assert imported == public - {"src.api.app.app"}  # uvicorn imports it


def test_the_client_loads_no_torch() -> None:
    code = "import sys, src.api.client; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
