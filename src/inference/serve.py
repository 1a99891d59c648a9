"""The command line: `pivot serve --port 8000`, which is `uvicorn src.api.app:app`."""

import argparse
import os
from collections.abc import Sequence

import uvicorn

from ..errors import command
from ..logs import Parser, add_log_options, show_log

__all__ = ["main", "make_parser"]


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the HTTP service until it is stopped. Return the exit code."""
    options = make_parser().parse_args(arguments)
    show_log(options.log)
    if options.log:
        os.environ["PIVOT_LOG"] = options.log
    uvicorn.run(f"{__name__.partition('.')[0]}.api.app:app", host=options.host, port=options.port)


def make_parser() -> argparse.ArgumentParser:
    """The parser of this command."""
    parser = Parser(prog="pivot serve", description="Run the HTTP service and the web page.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="default: %(default)s; 0: any that is free")
    add_log_options(parser)
    return parser
