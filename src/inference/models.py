"""The command line: `pivot models`, and `pivot models pull NAME`."""

import argparse
import sys
import textwrap
from collections.abc import Iterator, Sequence

from ..detectors.known import KNOWN, Known
from ..errors import command
from ..logs import Parser, add_log_options, show_log

__all__ = ["main", "make_parser"]


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """List the public detectors, or download one into this machine's cache. Return the exit code."""
    options = make_parser().parse_args(arguments)
    show_log(options.log)
    if options.action == "pull":
        from ..detectors.pulling import pull

        folder = pull(options.name)
        print(f"run it: pivot --checkpoint {folder} --input scan.nii.gz")
        return
    for known in KNOWN.values():
        print("\n".join(_described(known)))


def _described(known: Known) -> Iterator[str]:
    """What is known of a detector, in lines of at most 80 characters unless a word is longer."""
    yield known.name
    for name, words in {
        "from": known.source,
        "trained on": known.trained_on,
        "licence": known.licence or "see where it comes from",
        "measured by others": known.measured,
        "size": f"about {known.megabytes} MB" if known.megabytes else "not known",
        "SHA-256": "; ".join(f"{file} {digest}" for file, digest in known.sha256.items()) or "given by the hub",
        "needs": f"pip install 'pivot-ct[{known.needs}]'",
        "get it": f"pivot models pull {known.name}"
        if known.source.startswith("hf:")
        else "by hand, see docs/detectors.md",
    }.items():
        yield textwrap.fill(
            f"{name}: {words}", 80, initial_indent="  ", subsequent_indent="    ", break_long_words=False
        )


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
