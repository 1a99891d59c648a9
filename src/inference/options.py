"""The options of `pivot`, and their valid combinations."""

import argparse
import difflib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from .. import __version__
from ..exports import EXPORTS
from ..logs import Parser, add_log_options

__all__ = ["COMMANDS", "make_parser", "parse", "path", "share"]

COMMANDS = {  # for each: the module with its `main` and `make_parser`, and its description
    "detect": ("inference.main", "find nodules; what pivot does without a command"),
    "demo": ("inference.main", "find the nodules of a synthetic chest"),
    "compare": ("inference.compare", "compare the nodules of two examinations"),
    "models": ("inference.models", "list public detectors, and pull one"),
    "export": ("inference.export", "write the results of an earlier run for other programs"),
    "evaluate": ("eval.main", "measure detections against known nodules (FROC)"),
    "train": ("train.main", "train a detector"),
    "serve": ("inference.serve", "run the HTTP service and the web page"),
    "listen": ("pacs.listener", "run a DICOM node"),
    "completion": ("inference.completion", "print a script that completes commands in a shell"),
}


def make_parser() -> argparse.ArgumentParser:
    """The parser of `pivot detect`."""
    parser = Parser(
        prog="pivot",
        description="Find and measure lung nodules on chest CT.\nResearch software, not a medical device.",
        epilog="commands:\n" + "\n".join(f"  pivot {name:10} {words}" for name, (_, words) in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"pivot {__version__}")
    source = parser.add_argument_group("what to search, one of these").add_mutually_exclusive_group(required=True)
    source.add_argument("--input", type=path, help="a scan: NIfTI, MHD, MHA, NRRD, a DICOM folder or a zip of one")
    source.add_argument("--input-dir", type=path, help="a folder of scans")
    source.add_argument("--dicomweb", metavar="URL", help="fetch the best chest CT series of --study from this server")
    source.add_argument("--demo", action="store_true", help="make a synthetic chest and find its nodules")
    add = parser.add_argument_group("the scan and the patient").add_argument
    add("--study", metavar="UID", help="the StudyInstanceUID that --dicomweb fetches")
    add("--patient", type=path, help="YAML file about the patient of --input, for the guidelines; never written out")
    add("--deidentify", action="store_true", help="store nothing that tells who the patient is (DICOM PS3.15)")
    add = parser.add_argument_group("the model").add_argument
    add(
        "--checkpoint",
        type=path,
        action="append",
        help="model: a file, folder, zip or hf://owner/name (default: model.checkpoint of the config, or the shipped "
        "one); several, each after its own --checkpoint, search together",
    )
    add("--config", type=path, help="YAML file, such as configs/inference.yaml")
    add("--threshold", type=share, help="confidence from which a mark is reported, 0 to 1 (default: 0.5)")
    add("--device", help="auto, cpu, cuda, cuda:1 or mps (default: model.device of the config)")
    add("--batch-size", type=_count(1), help="patches for each pass of the network")
    add = parser.add_argument_group("results").add_argument
    add("--output", type=path, help="folder for results, except of --input-dir (default: results)")
    add("--output-dir", type=path, help="folder for the results of --input-dir (default: results)")
    add("--format", choices=("json", "csv", "both"), help="file format of the detections")
    add("--export", action="append", choices=EXPORTS, metavar="FORMAT", help=f"also write: {', '.join(EXPORTS)}")
    add("--dicom", action="store_true", help="write the results as DICOM objects too; the scan must be a DICOM series")
    add = parser.add_argument_group("many scans, with --input-dir").add_argument
    add("--recursive", action="store_true", help="look for scans in the folders below --input-dir, too")
    add("--resume", action="store_true", help="leave out scans that are complete, with the same model and settings")
    add("--num-workers", type=_count(0), help="threads that read scans ahead; 0: everything in turn")
    add("--num-shards", type=_count(1), help="split --input-dir into so many parts, of which this command does one")
    add("--shard-index", type=_count(0), help="which of the parts, from 0")
    add("--distributed", nargs="?", const="auto", metavar="ADDRESS", help="run --input-dir on a Ray cluster")
    parser.add_argument(
        "--progress", choices=("auto", "bar", "json", "none"), default="auto", help="bars, or JSON lines on stdout"
    )
    add_log_options(parser)
    return parser


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the options. Refuse those that contradict each other or have no effect."""
    parser = make_parser()
    if arguments and not arguments[0].startswith("-"):
        close = difflib.get_close_matches(arguments[0], COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"to search a scan, give --input {arguments[0]}"
        parser.error(f"unknown command {arguments[0]}: {hint}")
    options = parser.parse_args(arguments)
    if options.input_dir is None:
        for name in ("output_dir", "num_workers", "num_shards", "shard_index", "distributed", "recursive"):
            if getattr(options, name) not in (None, False):
                parser.error(f"--{name.replace('_', '-')} goes with --input-dir, not with --input or --demo")
    elif options.output is not None:
        parser.error("--output goes with --input or --demo: with --input-dir, use --output-dir")
    for holds, message in _contradictions(options):
        if holds:
            parser.error(message)
    options.output = options.output or options.output_dir or Path("results")
    return options


def _contradictions(options: argparse.Namespace) -> Iterator[tuple[bool, str]]:
    """Each invalid combination of options, with its message."""
    alone = options.input_dir or options.demo or options.resume
    yield (options.num_shards is None) != (options.shard_index is None), "--num-shards and --shard-index go together"
    yield (
        bool(options.distributed and options.device),
        "--device goes without --distributed, which uses the GPUs of the cluster, or its CPUs",
    )
    for name in ("resume", "dicom"):
        yield options.demo and getattr(options, name), f"--{name} goes with --input or --input-dir, not with --demo"
    yield (
        bool(options.patient and alone),
        "--patient goes with --input alone, or --dicomweb: it is about one patient, whom --resume cannot tell",
    )
    yield (
        (options.dicomweb is None) != (options.study is None),
        "--dicomweb and --study go together: where from, and which study",
    )
    yield (
        bool(options.deidentify and alone),
        "--deidentify goes with --input or --dicomweb, and not with --resume: names are new each time",
    )


def path(text: str) -> Path:
    """A path that is not empty."""
    if not text:
        msg = "must not be empty"
        raise argparse.ArgumentTypeError(msg)
    return Path(text)


def share(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        msg = f"must be a number from 0 to 1, not {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return value


def _count(least: int) -> Callable[[str], int]:
    def count(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            msg = f"must be a whole number of at least {least}, not {text!r}"
            raise argparse.ArgumentTypeError(msg)
        return int(text)

    return count
