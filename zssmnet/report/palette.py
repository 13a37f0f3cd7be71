"""Colours and names that pictures and pages share."""

from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]

ZONES = (("#00d0ff", "peripheral zone"), ("#ffb000", "rest of the gland"))
"""Colour and name of the zones 1 and 2."""
CUBE_COLOUR = "#ff4f9a"
TRAINING_COLOUR, VALIDATION_COLOUR = "#2f78a8", "#d1495b"
INK, FAINT, LINES = "#20262e", "#66707c", "#e3e7ec"
