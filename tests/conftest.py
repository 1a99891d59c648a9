"""Fixtures and settings that all tests share."""

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("pivot", deadline=None)  # a slow run on a busy machine is not a failure
settings.load_profile("pivot")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The root folder of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real scans beside the checkout; skips the test if it is absent."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the real scans in ../shared/data")
    return folder
