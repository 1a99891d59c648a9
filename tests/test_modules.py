"""Rules for every module and every command of the package."""

import json
import logging
import subprocess
import sys
import threading
import warnings
from importlib import import_module
from pathlib import Path

import pytest

from src.quiet import LOGGERS, quiet_libraries

MOST_LINES = 300
COMMANDS = (
    "src.api.ray_workers",
    "src.api.worker",
    "src.eval.main",
    "src.eval.readers",
    "src.inference.compare",
    "src.inference.completion",
    "src.inference.export",
    "src.inference.grand_challenge",
    "src.inference.main",
    "src.inference.models",
    "src.inference.serve",
    "src.pacs.listener",
    "src.train.main",
    "src.train.triage.fit",
)


def test_no_module_has_more_than_300_lines(root: Path) -> None:
    lines = {
        str(path.relative_to(root)): len(path.read_text(encoding="utf-8").splitlines())
        for path in root.glob("src/**/*.py")
    }
    assert len(lines) > 100
    assert {path: count for path, count in lines.items() if count > MOST_LINES} == {}


def test_importing_changes_no_setting_of_the_process(root: Path) -> None:
    command = [sys.executable, "-m", "tests.host_state"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["modules"] > 150
    assert found["changed"] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_the_log_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        import_module(name).main(["--help"])
    assert {"--quiet", "--verbose"} <= set(capsys.readouterr().out.replace("]", " ").replace("[", " ").split())


def test_the_list_of_commands_is_complete(root: Path) -> None:
    found = {
        ".".join(path.relative_to(root).with_suffix("").parts)
        for path in root.glob("src/**/*.py")
        if "\n@command\n" in path.read_text(encoding="utf-8")
    }
    assert found == set(COMMANDS)


def test_library_messages_are_suppressed_during_calls_and_the_settings_restored() -> None:
    """This holds whichever thread ends last; other settings that the host changes meanwhile stay."""
    pydicom = logging.getLogger("pydicom.anything")
    opened, close = threading.Event(), threading.Event()

    def other() -> None:
        with quiet_libraries():
            opened.set()
            close.wait(10)

    def warned() -> int:
        with warnings.catch_warnings(record=True) as shown:
            warnings.warn_explicit("an odd value", UserWarning, "values.py", 1, module="pydicom.values")
        return len(shown)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        own = list(warnings.filters)
        before = [logging.getLogger(name).level for name in LOGGERS]
        thread = threading.Thread(target=other)
        with quiet_libraries():
            thread.start()
            assert opened.wait(10)
        assert not pydicom.isEnabledFor(logging.ERROR)
        assert warned() == 0
        close.set()
        thread.join()
        assert [logging.getLogger(name).level for name in LOGGERS] == before
        assert list(warnings.filters) == own
        assert warned() == 1
