"""The name `pivot` in a checkout that is installed by `pip install -e .`: it leads to `src`."""

import src
from src import __version__

__all__ = ["__version__"]
__path__ = src.__path__
