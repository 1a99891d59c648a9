"""An algorithm of grand-challenge.org: `python -m src.inference.grand_challenge`, in deploy/grand_challenge/Dockerfile.

The platform puts one CT (.mha) into /input/images/ct, and fetches the points from /output/nodule-locations.json.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import BadScan, command
from ..logs import Parser, add_log_options, show_log
from .options import path

__all__ = ["main"]

CT, POINTS = Path("images/ct"), "nodule-locations.json"


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Search the CT in the input folder, and write the points. Return the exit code."""
    options = _parser().parse_args(arguments)
    show_log(options.log)
    file = _only_scan(options.input / CT)
    from ..config import load_config
    from ..data.loader import read_scan
    from ..results.grand_challenge import export
    from ..runs.batch import open_pipeline

    pipeline = open_pipeline(None, load_config(options.config), options.device, options.output)
    scan = read_scan(file)
    results = pipeline.predict(scan)
    export(scan, results, options.output / POINTS)
    sys.stderr.writelines(f"{warning}\n" for warning in results["summary"]["warnings"])


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="pivot-grand-challenge", description="Nodules of a CT as points, for grand-challenge.org.")
    parser.add_argument("--input", type=path, default=Path("/input"), help="default: %(default)s")
    parser.add_argument("--output", type=path, default=Path("/output"), help="default: %(default)s")
    parser.add_argument("--config", type=path, help="YAML file, such as configs/inference.yaml")
    parser.add_argument("--device", help="auto, cpu, cuda, cuda:1 or mps (default: model.device of the config)")
    add_log_options(parser)
    return parser


def _only_scan(folder: Path) -> Path:
    """The one file in the folder.

    Raises:
        BadScan: there is no file, or more than one: the platform runs an algorithm once for each scan.
    """
    found = sorted(one for one in folder.glob("*") if not one.name.startswith(".")) if folder.is_dir() else []
    if len(found) != 1:
        what = "does not exist" if not folder.is_dir() else f"holds {len(found)} files"
        msg = f"{folder} {what}: put one CT (.mha) there"
        raise BadScan(msg)
    return found[0]


if __name__ == "__main__":
    sys.exit(main())
