"""Measurements that take too long for a test; each module is a command: `python -m benchmarks.NAME`."""

import os

# Python keeps compiled modules, as it does for users, even where this machine is set not to: torch alone takes twice as
# long to import without.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
