"""What a command imports before it works, and what an installation needs. The lists are laws: seconds would flake."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

SERVICE = {"alembic", "fastapi", "pynetdicom", "sqlalchemy", "starlette", "uvicorn"}
WRITERS = {"PIL", "dicomanonymizer", "highdicom", "matplotlib", "plotly", "reportlab"}
READERS = {"SimpleITK", "nibabel", "pydicom"}
OTHERS = {"monai", "onnx", "onnxruntime", "openvino", "pandas", "ray", "sympy", "torchvision", "triton"}
COMPILERS = {"torch._dynamo", "torch._inductor", "torch.onnx"}
PIPELINE = "from src.config import load_config; from src.runs.batch import open_pipeline; "
PIPELINE += "open_pipeline(None, load_config({'inference': {'engine': 'torch'}}), 'cpu', 'results')"


@pytest.mark.parametrize(
    ("code", "never"),
    [
        (PIPELINE, SERVICE | WRITERS | READERS | OTHERS | COMPILERS | {"requests", "skimage"}),
        ("import src.data.loader", SERVICE | WRITERS | READERS | OTHERS | {"requests", "scipy", "skimage", "torch"}),
    ],
    ids=["a search", "reading"],
)
def test_a_start_imports_only_what_it_needs(code: str, never: set[str], root: Path, tmp_path: Path) -> None:
    code = code.replace("results", str(tmp_path))
    told = f"import sys; sys.path.insert(0, {str(root)!r}); {code}; print(*({never!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert not done.stdout.split()


def test_only_torch_brings_cuda(root: Path) -> None:
    """So torch for CPUs is all that a machine without a GPU needs (docs/platforms.md)."""
    lock = tomllib.loads((root / "uv.lock").read_text(encoding="utf-8"))
    needs: dict[str, set[str]] = {}
    for package in lock["package"]:
        extras = [*package.get("optional-dependencies", {}).values()]
        listed = [one["name"] for group in (package.get("dependencies", []), *extras) for one in group]
        needs.setdefault(package["name"], set()).update(listed)
    found: set[str] = set()
    left = {"pivot-ct"}
    while left:
        found |= left
        left = set().union(*(needs[name] for name in left if name != "torch")) - found
    assert {"torch", "numpy", "ray", "monai", "openvino"} <= found
    assert not [name for name in found if name.startswith(("nvidia", "cuda", "triton"))]
    assert [name for name in needs["torch"] if name.startswith("nvidia")]
