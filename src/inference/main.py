"""The command line: `python -m src.inference.main --input scan.nii.gz --output results/`.

The exit code is 0, or that of the error (see `errors`). It is 7 if a batch finished with failed scans, and 6 if nothing
is found in a single scan without recognised lungs. Warnings and errors go to stderr (see `logs`).
"""

import argparse
import gc
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ..errors import BadConfig, NoLungs, PivotError, SomeScansFailed, command
from ..logs import show_log
from ..processes import openmp_settings
from ..runs.end_table import recording, results_table
from ..runs.progress import BatchResults, Event, Listener, listening, summary_lines
from .options import COMMANDS, parse

# Other modules are imported on demand: torch takes seconds, and `--help` must not wait for it.
if TYPE_CHECKING:
    from ..config import Config
    from ..detection.pipeline import InferencePipeline
    from ..runs.batch import batch_inference

__all__ = ["InferencePipeline", "batch_inference", "cli", "main"]

# Imports make more objects, which stay alive. Without repeated collections the imports take 7.8 s of CPU time, not 9.0
# s.
MANY_OBJECTS = 100_000
INTERRUPTED = 130  # as in shells: 128 + SIGINT


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """The documented names of this module, imported on first use: they load torch, which takes seconds."""
    match name:
        case "InferencePipeline":
            from ..detection.pipeline import InferencePipeline

            return InferencePipeline
        case "batch_inference":
            from ..runs.batch import batch_inference

            return batch_inference
    raise AttributeError(name)


def cli() -> None:
    """The `pivot` command."""
    gc.set_threshold(MANY_OBJECTS)
    os.environ.update(openmp_settings())
    code = main(own_process=True)
    if "ray" in sys.modules:  # it has processes to end
        sys.exit(code)
    with suppress(BrokenPipeError):
        sys.stdout.flush()
    os._exit(code)  # without tearing down the modules, which takes 1.1 s of CPU time with torch loaded


@command
def main(arguments: Sequence[str] | None = None, *, own_process: bool = False) -> int:
    """Run the command line: a subcommand, or else `detect`. Return the exit code.

    With `own_process`, the scan is read in a second process while torch is imported. A script that calls this function
    then needs the guard `if __name__ == "__main__":`, like any script that spawns processes. So it is off by default.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in COMMANDS:
        module, _ = COMMANDS[words[0]]
        if module != "inference.main":
            code: int = import_module(f"..{module}", __package__).main(words[1:])
            return code
        words = ["--demo", *words[1:]] if words[0] == "demo" else words[1:]
    try:
        options = parse(words)
        scans: list[Event] = []
        with listening(options.progress) as tell:
            show_log(options.log)  # now, so that warnings appear above the bars
            lines, failed = _run(options, recording(tell, scans), own_process=own_process)
        shown = [] if options.demo or options.progress == "json" else results_table(scans, alone=not options.input_dir)
        lines = [*shown, *lines]
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; with --resume the same command goes on where it stopped\n")
        return INTERRUPTED
    except BrokenPipeError:  # the program that reads the JSON lines has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PivotError.exit_code
    if options.progress != "json":
        sys.stdout.writelines(f"{line}\n" for line in lines)
    sys.stderr.writelines(f"failed: {message}\n" for message in failed.values())
    if failed:
        return SomeScansFailed.exit_code
    searched = all(scan["lungs"] or scan["detections"] or scan["masses"] for scan in scans)
    return 0 if searched or options.input_dir else NoLungs.exit_code


def _run(options: argparse.Namespace, tell: Listener, *, own_process: bool) -> tuple[list[str], dict[str, str]]:
    """The final messages, and the failures."""
    from ..guidelines.patient import load_patient
    from ..runs.batch import batch_inference, infer_file, open_pipeline
    from ..runs.read_ahead import read_timed
    from ..runs.read_beside import read_beside

    config, patient = _config(options), load_patient(options.patient)
    shared: dict[str, Any] = {"resume": options.resume, "progress": tell}
    if options.input_dir:
        shard = (options.shard_index or 0, options.num_shards or 1)
        if options.distributed:
            done = _on_cluster(options, config, shard, shared)
        else:
            done = batch_inference(
                options.checkpoint,
                options.input_dir,
                options.output,
                config,
                device=options.device,
                shard=shard,
                recursive=options.recursive,
                **shared,
            )
        return summary_lines(done, options.output), done["failed"]
    opened = cache(partial(open_pipeline, options.checkpoint, config, options.device, options.output))
    if options.demo:
        from ..runs.demo import demo_table, run_demo

        lines = demo_table(run_demo(opened(), options.output, tell))
        return [*lines, f"results in {options.output}"], {}
    if options.dicomweb or options.deidentify:
        opened()  # report an invalid one before anything is fetched
    with _scan(options) as path, read_beside(path) if own_process else nullcontext(read_timed) as read:
        done = infer_file(opened(), path, options.output, patient=patient, read=read, **shared)
    return summary_lines(done, options.output), {}


def _on_cluster(
    options: argparse.Namespace, config: "Config", shard: tuple[int, int], shared: dict[str, Any]
) -> "BatchResults":
    from ..runs.distributed import connect, distributed_inference
    from ..runs.sharding import scans_of

    found = scans_of(options.input_dir, options.output, shard, recursive=options.recursive)
    connect(options.distributed)
    done = distributed_inference(
        options.checkpoint,
        found.scans,
        output_dir=options.output,
        config=config,
        base=options.input_dir if options.recursive else None,
        shard=shard,
        **shared,
    )
    return {**done, "passed_over": found.passed_over}


@contextmanager
def _scan(options: argparse.Namespace) -> Iterator[Path]:
    """The scan to run, fetched and de-identified if the options ask for it."""
    if not (options.dicomweb or options.deidentify):
        yield options.input
        return
    from ..dicom_io.deidentify import deidentified, load_key

    name = os.environ.get("PIVOT_DEIDENTIFY_KEY")
    key = load_key(Path(name) if name else None) if options.deidentify else None
    if options.dicomweb:
        from ..pacs.web import pull_study

        login = os.environ.get("PIVOT_DICOMWEB_LOGIN")
        with TemporaryDirectory(prefix="pivot-") as folder:
            yield pull_study(options.dicomweb, options.study, folder, key=key, login=login)
    elif key is not None:
        with deidentified(options.input, key) as copy:
            yield copy


def _config(options: argparse.Namespace) -> "Config":
    from ..config import load_config
    from ..runs.settings import with_options

    config = load_config(options.config)
    if options.format and not config.output.save_detections:
        msg = f"--format {options.format}, but output.save_detections is false in {options.config}"
        raise BadConfig(msg)
    save_dicom = options.dicom or None
    return with_options(
        config,
        options.batch_size,
        options.num_workers,
        options.format,
        save_dicom=save_dicom,
        threshold=options.threshold,
        exports=options.export,
    )


if __name__ == "__main__":
    cli()
