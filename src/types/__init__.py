"""The data types that modules share."""

from . import core, guidelines
from .core import *
from .guidelines import *

__all__ = core.__all__ + guidelines.__all__
