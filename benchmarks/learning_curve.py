"""Detection over the number of training nodules: `python -m benchmarks.learning_curve`.

Trains by one configuration on shares of the cubes' training patients. A larger share includes all of a smaller one; all
else, also the number of steps, is the same. Then `benchmarks.detection` evaluates each model. The command prints a
table and keeps it in `curve.json` in the output folder. After an interruption, the same command continues from there.
"""

import argparse
import json
import sys
from functools import partial
from pathlib import Path

from benchmarks.commands import Finished, Run, measure
from benchmarks.planted import DEFAULT
from src.files import writable_folder
from src.logs import show_log
from src.model.checkpoint import load_model
from src.train.config import TrainConfig, load_train_config
from src.train.parallel import workers
from src.train.trainer import train

__all__ = ["main"]


def main() -> None:
    """Train, evaluate and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("configs/train_cubes.yaml"), help="default: %(default)s")
    parser.add_argument("--shares", nargs="+", type=float, default=(0.25, 0.5, 1.0), help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=900, help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("results/learning_curve"), help="default: %(default)s")
    options = parser.parse_args()
    show_log("info")
    finished = Finished(writable_folder(options.output) / "curve.json")
    rows = [
        finished.run(f"{share:g}, {options.steps} steps", partial(_model, share, options)) for share in options.shares
    ]
    print(f"\n{'share':>8}{'nodules':>10}{'CPM':>8}{'95 %':>16}{'at 1':>8}{'at 4':>8}{'at 0.5':>8}{'false':>8}")
    for share, row in zip(options.shares, rows, strict=True):
        low, high = row["cpm_ci95"]
        print(
            f"{share:8g}{row['nodules']:10}{row['cpm']:8.3f}{f'{low:.3f} to {high:.3f}':>16}"
            f"{row['at_1']:8.3f}{row['at_4']:8.3f}{row['at_default']:8.3f}{row['false_at_default']:8.1f}"
        )


def _model(share: float, options: argparse.Namespace) -> Run:
    """Train on this share, and evaluate."""
    folder = options.output / f"{share:g}-{options.steps}"
    config = TrainConfig.model_validate(
        {
            **load_train_config(options.config).model_dump(),
            "cubes_share": share,
            "steps": options.steps,
            "validate_every": options.steps,
            "run": folder,
            "checkpoint": folder / "model.pth",
            "name": f"learning_curve_{share:g}",
        }
    )
    with workers(config.device) as processes:
        train(config, processes)
    measure([[sys.executable, "-m", "benchmarks.detection", "--checkpoint", config.checkpoint, "--output", folder]])
    report = json.loads((folder / "detection.json").read_text())
    (at_default,) = (point for point in report["operating_points"] if point["threshold"] == DEFAULT)
    return {
        "nodules": load_model(config.checkpoint).about.training["nodules"],
        **{key: report[key] for key in ("cpm", "cpm_ci95")},
        **{f"at_{rate}": report["sensitivity"][rate] for rate in ("1", "4")},
        "at_default": at_default["sensitivity"],
        "false_at_default": at_default["false_marks_per_scan"],
    }


if __name__ == "__main__":
    main()
