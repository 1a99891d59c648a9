"""The command line: `pivot completion bash` prints a shell script that completes commands, options and values."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import shtab

from ..errors import command
from ..logs import Parser, add_log_options, show_log
from .options import COMMANDS, path
from .options import make_parser as detect_parser

__all__ = ["main", "make_parser"]

SHELLS = ("bash", "zsh", "fish")


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Print the script. Return the exit code."""
    options = make_parser().parse_args(arguments)
    show_log(options.log)
    sys.stdout.write(shtab.complete(_parser(), options.shell) + "\n")


def make_parser() -> argparse.ArgumentParser:
    """The parser of this command."""
    parser = Parser(
        prog="pivot completion",
        description="Print a script that completes commands, options and values.",
        epilog="bash: pivot completion bash > ~/.local/share/bash-completion/completions/pivot\n"
        "zsh:  pivot completion zsh > a folder of your fpath/_pivot\n"
        "fish: pivot completion fish > ~/.config/fish/completions/pivot.fish",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=SHELLS)
    add_log_options(parser)
    return parser


def _parser() -> argparse.ArgumentParser:
    """One parser for all commands. Without a command it takes the options of `detect`."""
    whole = detect_parser()
    commands = whole.add_subparsers()
    for name, (module, words) in COMMANDS.items():
        own = detect_parser() if module == "inference.main" else import_module(f"..{module}", __package__).make_parser()
        commands.add_parser(name, help=words, parents=[own], add_help=False)
    for parser in (whole, *commands.choices.values()):
        for action in parser._actions:  # noqa: SLF001 - as shtab reads them
            if action.type in (Path, path):
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    return whole
