"""The command line: `pivot models`, and `pivot models pull NAME`."""

import argparse
import sys
from collections.abc import Sequence

from ..detectors.known import KNOWN
from ..errors import command
from ..logs import Parser, add_log_options, show_log

__all__ = ["main", "make_parser"]


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """List the public detectors, or pull one into this machine's cache; returns the exit code."""
    options = make_parser().parse_args(arguments)
    show_log(options.log)
    if options.action == "pull":
        from ..detectors.pulling import pull

        folder = pull(options.name)
        print(f"run it: pivot --checkpoint {folder} --input scan.nii.gz")
        return
    for known in KNOWN.values():
        print(f"{known.name}\n  {known.source}\n  trained on: {known.trained_on}")
        print(f"  licence: {known.licence or 'read it where the model lies'}; measured by others: {known.measured}")
        hashes = "; ".join(f"{file} {digest}" for file, digest in known.sha256.items()) or "as the hub states them"
        pulled = known.source.startswith("hf:")
        size = f"about {known.megabytes} MB" if known.megabytes else "not known"
        print(f"  size: {size}; SHA-256: {hashes}; needs: pip install 'pivot-ct[{known.needs}]'")
        print(f"  get it: {f'pivot models pull {known.name}' if pulled else 'by hand, see docs/detectors.md'}")


def make_parser() -> argparse.ArgumentParser:
    """The parser of this command."""
    parser = Parser(prog="pivot models", description="Public detectors that PIVOT can run. They are not part of PIVOT.")
    actions = parser.add_subparsers(dest="action")
    pulling = actions.add_parser("pull", help="download one, verified, into this machine's cache")
    pulling.add_argument("name", help="a name of the list, or hf://owner/name")
    add_log_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
