"""Train a detector: `python -m src.train.main --config configs/train.yaml`.

To resume an interrupted run, give the same command again. On several GPUs:
`torchrun --nproc-per-node 4 -m src.train.main --config configs/train.yaml`.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import command
from ..logs import Parser, add_log_options, show_log
from .config import load_train_config

__all__ = ["main", "make_parser"]


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """The command line. Returns the exit code."""
    options = make_parser().parse_args(arguments)
    show_log(options.log, "info" if os.environ.get("RANK", "0") == "0" else "warning")
    config = load_train_config(options.config)
    from .parallel import workers
    from .trainer import train

    with workers(config.device) as processes:
        train(config, processes)


def make_parser() -> argparse.ArgumentParser:
    """The parser of this command."""
    parser = Parser(prog="pivot train", description="Train a lung nodule detector.")
    parser.add_argument("--config", type=Path, default=Path("configs/train.yaml"), help="default: %(default)s")
    add_log_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
