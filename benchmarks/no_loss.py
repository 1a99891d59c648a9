"""What searching less and computing faster cost in sensitivity: `python -m benchmarks.no_loss`.

The copies of `benchmarks.detection` go through the pipeline once for each way of computing; the first one
is the plain one: every window, float32, PyTorch. Nothing is tuned here.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.detection import add_copies, add_data, figures_of, held_out, low_threshold, predict_copies
from src.inference.pipeline import InferencePipeline

__all__ = ["main"]

PLAIN: dict[str, Any] = {"region": "everything", "engine": "torch", "mixed_precision": False}
WAYS: dict[str, dict[str, Any]] = {
    "everything, float32": PLAIN,
    "lungs, float32": {**PLAIN, "region": "lungs"},
    **{engine: {"engine": engine} for engine in ("torch", "torchscript", "export", "onnx", "openvino")},
    "balanced": {"speed": "balanced"},
    "fast": {"speed": "fast"},
}
RATES = ("1", "4")  # false marks a scan


def main() -> None:
    """Print the CPM of each way, and how far it is from the plain one's."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_data(parser)
    add_copies(parser)
    parser.add_argument("--output", type=Path, default=Path("results/no_loss"))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), metavar="WAY", help=", ".join(WAYS))
    options = parser.parse_args()
    background, crops = held_out(options)
    plain = None
    for way in options.ways:
        pipeline = InferencePipeline(options.checkpoint, low_threshold(WAYS[way]))
        folder = options.output / way.replace(", ", "-")
        series, _ = predict_copies(pipeline, background, crops, folder, options.copies, options.seed)
        figures = figures_of(folder, series)
        plain = figures["cpm"] if plain is None else plain
        at = ", ".join(f"{figures['sensitivity'][rate]:.3f} at {rate}" for rate in RATES)
        print(f"{way:20} CPM {figures['cpm']:.4f} ({figures['cpm'] - plain:+.4f}), {at}", flush=True)


if __name__ == "__main__":
    main()
