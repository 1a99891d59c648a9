"""The guide's names, such as `python -m src.inference.main`, where PIVOT is installed as `pivot`."""

import pivot
from pivot import __version__

__all__ = ["__version__"]
__path__ = pivot.__path__
