"""How well two masks agree: Dice, and the distance of their surfaces."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_erosion, distance_transform_edt

Array = npt.NDArray[Any]


def dice(found: Array, truth: Array) -> float:
    """Dice's overlap of two masks; 0 where both are empty."""
    return float(2 * (found & truth).sum() / max(found.sum() + truth.sum(), 1))


def surface_distance_mm(found_ZYX: Array, truth_ZYX: Array, spacing_mm: Sequence[float]) -> float | None:
    """Mean distance between the surfaces of two masks, both ways; None if one is empty. Spacing is x, y, z."""
    if not found_ZYX.any() or not truth_ZYX.any():
        return None
    surfaces = [one & ~binary_erosion(one) for one in (found_ZYX, truth_ZYX)]
    sampling = tuple(spacing_mm)[::-1]
    ways = [distance_transform_edt(~other, sampling=sampling)[one] for one, other in (surfaces, surfaces[::-1])]
    return float(np.concatenate(ways).mean())
