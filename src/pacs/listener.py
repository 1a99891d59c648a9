"""The PACS service: `python -m src.pacs.listener --config configs/pacs.yaml`.

It receives studies, runs the best chest CT series of each, and sends the results back. SIGINT or SIGTERM ends it after
the current run. The next start continues with what is left in the spool.
"""

import argparse
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..dicom_io.deidentify import load_key
from ..errors import command
from ..logs import Parser, add_log_options, show_log
from ..processes import stop_on_signal
from ..quiet import quiet_libraries
from ..sandbox import UNCONFINED, can_confine
from .audit import Audit, unforeseen
from .outbox import Outbox
from .processing import Processor
from .receiver import Receiver
from .settings import PacsConfig, load_pacs
from .spool import Spool

__all__ = ["listening", "main", "make_parser"]

log = logging.getLogger("pivot")
TICK = 0.25  # seconds between checks of the spool and the outbox
LONGEST = 30.0  # seconds between checks after a failure


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Run until a signal. Return the exit code."""
    options = make_parser().parse_args(arguments)
    show_log(options.log)
    if not can_confine():
        log.warning(UNCONFINED)
    stop = threading.Event()
    stop_on_signal(stop)
    config = load_pacs(options.config)
    with listening(config) as port:
        sys.stdout.write(f"{config.listen.ae_title} listens on {config.listen.bind}:{port}\n")
        sys.stdout.flush()
        stop.wait()


def make_parser() -> argparse.ArgumentParser:
    """The parser of this command."""
    parser = Parser(prog="pivot listen", description="Run a DICOM node, which searches what it receives.")
    parser.add_argument("--config", type=Path, required=True, help="YAML file, such as configs/pacs.yaml")
    add_log_options(parser)
    return parser


@contextmanager
def listening(config: PacsConfig) -> Iterator[int]:
    """A running service, and the port on which it listens.

    Raises:
        PivotError: the settings, the model, the spool or the port are unusable.
    """
    spool, audit = Spool(config.spool, config.most_spooled), Audit(config.audit or config.spool / "audit.jsonl")
    key = load_key(config.deidentify_key or config.spool / "deidentify.key") if config.deidentify else None
    outbox = Outbox(spool.outbox, config, audit)
    receiver, processor = Receiver(config.listen, spool, audit, key), Processor(config, spool, outbox, audit)
    processor.stopping = outbox.stopping = stop = threading.Event()
    actions: tuple[Callable[[], None], ...] = (processor.work, outbox.send_due)
    threads = [threading.Thread(target=_repeat, args=(action, stop, audit)) for action in actions]
    try:
        with quiet_libraries():
            port = receiver.start()
            audit.write("started", ae_title=config.listen.ae_title, port=port)
            for thread in threads:
                thread.start()
            yield port
    finally:
        receiver.stop()
        stop.set()
        for thread in threads:
            if thread.ident is not None:
                thread.join()
        processor.close()
        audit.write("stopped")


def _repeat(action: Callable[[], None], stop: threading.Event, audit: Audit) -> None:
    """Repeat a task. An unexpected error is reported once, and does not end the service."""
    wait, reported = TICK, ""
    while not stop.wait(wait):
        try:
            action()
        except Exception as error:  # noqa: BLE001 - the service goes on
            reason = unforeseen(error)
            if reason != reported:
                audit.write("error", reason=reason)
            wait, reported = min(2 * wait, LONGEST), reason
        else:
            wait, reported = TICK, ""


if __name__ == "__main__":
    sys.exit(main())
