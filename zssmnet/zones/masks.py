"""From class probabilities to a zonal mask, what makes it doubtful, and how well it agrees with another one."""

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy.ndimage import binary_fill_holes

from zssmnet.data.archive import CHANNELS
from zssmnet.data.image_io import array_of, image_like
from zssmnet.data.mask_checks import check_mask
from zssmnet.finetuning.overlap import dice, surface_distance_mm
from zssmnet.preparation.channels import ELSEWHERE
from zssmnet.preparation.cropping import Box, bounding_box
from zssmnet.preparation.gland_place import odd_places

PARTS: dict[str, tuple[int, ...]] = {"gland": (1, 2), "peripheral": (1,), "rest": (2,)}
"""What masks are compared in, and the labels of each."""
_IN_SLICE = np.array([[[0, 1, 0], [1, 1, 1], [0, 1, 0]]])
"""Neighbours of a voxel, for holes."""
NAMES = {"gland": "gland", "peripheral": "peripheral zone", "rest": "rest of the gland"}

Labels = npt.NDArray[np.uint8]
Figures = dict[str, float | None]


def mask_of(probabilities_KZYX: npt.NDArray[np.float32], region: Box, t2w: sitk.Image) -> sitk.Image:
    """The zonal mask on T2W's grid: the largest piece of the gland, holes in its slices filled, nothing else repaired.

    Args:
        probabilities_KZYX: of background, peripheral zone and rest on a part of T2W's grid.
        region: that part.
    """
    gland = largest_piece(probabilities_KZYX.argmax(axis=0) > 0)
    zones = 1 + probabilities_KZYX[1:].argmax(axis=0).astype(np.uint8)
    whole = np.zeros(t2w.GetSize()[::-1], np.uint8)
    whole[region.window_ZYX] = zones * binary_fill_holes(gland, _IN_SLICE)
    return image_like(whole, t2w)


def largest_piece(inside_ZYX: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The largest of the pieces that hang together; all of it where it is empty."""
    pieces = sitk.ConnectedComponent(sitk.GetImageFromArray(inside_ZYX.astype(np.uint8)))
    largest: npt.NDArray[np.bool_] = sitk.GetArrayFromImage(sitk.RelabelComponent(pieces)) == 1  # sorted by size
    return largest


def agreement(labels_ZYX: Sequence[Labels]) -> dict[str, float]:
    """Mean Dice of each two masks by part; 0 where one of two is empty."""
    pairs = list(combinations(labels_ZYX, 2))
    return {
        part: float(np.mean([dice(np.isin(a, labels), np.isin(b, labels)) for a, b in pairs]))
        for part, labels in PARTS.items()
        if pairs
    }


def figures_against(found: sitk.Image, truth: sitk.Image) -> Figures:
    """Dice, and mean distance of surfaces in mm, by part: of the gland, the peripheral zone and the rest.

    Both masks lie on one grid; a distance is None where one of both is empty.
    """
    a, b = array_of(found), array_of(truth)
    box = bounding_box(a | b)
    if box is None:
        return {}
    window = box.widened((1, 1, 1), truth.GetSize()).window_ZYX
    figures: Figures = {}
    for part, labels in PARTS.items():
        one, other = (np.pad(np.isin(array[window], labels), 1) for array in (a, b))
        figures[f"dice_{part}"] = dice(one, other)
        figures[f"surface_mm_{part}"] = surface_distance_mm(one, other, truth.GetSpacing())
    return figures


def odd_about(mask: sitk.Image, t2w: sitk.Image, agreed: dict[str, float], bound: float) -> Iterator[str]:
    """Why a mask should be looked at before it is used.

    Args:
        agreed: of the ensemble's members, see `agreement`.
        bound: Dice below which they do not agree.
    """
    if not array_of(mask).any():
        yield "no gland was found"
        return
    for part, value in agreed.items():
        if value < bound:
            yield f"the networks agree on the {NAMES[part]} by a Dice of {value:.2f} only (bound {bound:g})"
    yield from check_mask(mask, t2w).findings
    yield from odd_places(mask, [(CHANNELS[0], t2w, ELSEWHERE[0])])
