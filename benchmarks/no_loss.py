"""What searching less and computing faster cost in sensitivity: `python -m benchmarks.no_loss`.

The copies of `benchmarks.planted` go through the pipeline once for each way of computing; the first one
is what the others are compared with, by default the plain one: every window, float32, PyTorch. Nothing is
tuned here.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.planted import add_copies, add_data, evaluate_copies, held_out, low_threshold, predict_copies
from src.detection.pipeline import InferencePipeline
from src.eval.evaluation import Evaluation

__all__ = ["main"]

CPU = "cpu"  # the defaults, but not on the GPU that is there
PLAIN: dict[str, Any] = {"speed": "accurate", "region": "everything", "engine": "torch", "mixed_precision": False}
WAYS: dict[str, dict[str, Any]] = {
    "everything, float32": PLAIN,
    "lungs, float32": {**PLAIN, "region": "lungs"},
    **{one: {"speed": "accurate", "engine": one} for one in ("torch", "torchscript", "export", "onnx", "openvino")},
    "balanced": {"speed": "balanced"},
    "fast": {"speed": "fast"},
    CPU: {},
}
RATES = ("1", "4")  # false marks a scan


def main() -> None:
    """Print the CPM of each way, how far it is from the first one's, and how far the confidences of nodules are."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_data(parser)
    add_copies(parser)
    parser.add_argument("--output", type=Path, default=Path("results/no_loss"))
    ways = [way for way in WAYS if way != CPU]  # without a GPU it is `fast`
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=ways, metavar="WAY", help=", ".join(WAYS))
    options = parser.parse_args()
    background, crops = held_out(options)
    first = None
    for way in options.ways:
        device = CPU if way == CPU else None
        pipeline = InferencePipeline(options.checkpoint, low_threshold(WAYS[way]), device)
        folder = options.output / way.replace(", ", "-")
        series, _ = predict_copies(pipeline, background, crops, folder, options.copies, options.seed)
        result = evaluate_copies(folder, series)
        first = first or result
        print(f"{way:20} {_compared(result, first)}", flush=True)


def _compared(result: Evaluation, first: Evaluation) -> str:
    figures, cpm = result.figures, first.figures["cpm"]
    at = ", ".join(f"{figures['sensitivity'][rate]:.3f} at {rate}" for rate in RATES)
    best = result.matched.best, first.matched.best
    both = np.isfinite(best).all(axis=0)
    apart = best[0][both] - best[1][both]
    return (
        f"CPM {figures['cpm']:.4f} ({figures['cpm'] - cpm:+.4f}), {at}; confidences of {both.sum()} nodules "
        f"{apart.mean():+.4f}, standard deviation {apart.std():.4f}, at most {abs(apart).max():.3f} apart"
    )


if __name__ == "__main__":
    main()
