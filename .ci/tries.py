"""A plugin of pytest for `.ci/run`: a test that passed in an earlier try does not run again.

The file that the environment's `PASSED_TESTS` names keeps the ids of those that passed, whole, in any process.
"""

import os
from pathlib import Path

import pytest

PASSED = Path(os.environ["PASSED_TESTS"])
failed: set[str] = set()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what has passed."""
    passed = set(PASSED.read_text().splitlines())
    if done := [item for item in items if item.nodeid in passed]:
        items[:] = [item for item in items if item.nodeid not in passed]
        config.hook.pytest_deselected(items=done)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note a test once its last part is over, if no part failed."""
    if report.failed:
        failed.add(report.nodeid)
    if report.when == "teardown" and report.nodeid not in failed:
        with PASSED.open("a") as file:
            file.write(f"{report.nodeid}\n")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Nothing left to run is success, if something has passed before."""
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and PASSED.read_text():
        session.exitstatus = pytest.ExitCode.OK
