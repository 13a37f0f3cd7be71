"""A prostate and its zones."""

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from zssmnet.phantom.grid import Floats, GridSpec, Mask, SmoothField

PERIPHERAL_ZONE = 1
TRANSITION_ZONE = 2


def zonal_mask(grid: GridSpec, rng: np.random.Generator) -> sitk.Image:
    """Draw the zonal mask of a prostate, 45 to 60 mm wide, near the grid's centre.

    The peripheral zone is a horseshoe, open to the front, around the back and the sides of the transition zone;
    towards the base it thins out, towards the apex it closes around the urethra.

    Args:
        grid: an axial grid, oblique or not, that holds a field of view of at least 100 x 100 x 45 mm.
        rng: source of the gland's shape.

    Returns:
        uint8 image: 0 background, 1 peripheral zone, 2 transition and central zone and stroma.
    """
    middle = grid.position((np.array(grid.size_xyz) - 1) / 2)
    x, y, z = grid.axes_mm(middle)
    half_width = rng.uniform(22.5, 30.0)
    half_depth = half_width * rng.uniform(0.68, 0.8)
    half_height = min(half_width * rng.uniform(0.7, 0.85), 0.38 * grid.size_xyz[2] * grid.spacing_mm[2])
    x, y, z = x - rng.uniform(-3, 3), y - rng.uniform(-3, 3), z + rng.uniform(0, 3)

    reach = (1.3 * half_width, 1.3 * half_depth, 1.3 * half_height)  # nothing of the gland lies beyond
    ends = [np.searchsorted(axis, (-r, r)).tolist() for axis, r in zip((x, y, z), reach, strict=True)]
    x, y, z = (axis[slice(*end)] for axis, end in zip((x, y, z), ends, strict=True))
    axes = x, y, z
    wobble = [SmoothField.sample(rng, axes, (11.0, 11.0, 13.0)) for _ in range(2)]
    u = _float32((x[None, None, :] + 1.2 * wobble[0].at(axes)) / half_width)
    v = _float32((y[None, :, None] + 1.2 * wobble[1].at(axes)) / half_depth)
    w = _float32(z / half_height)[:, None, None]

    # the rectum dents the back in the midline; the transition zone's share varies widely between men
    share = rng.uniform(0.85, 1.15)
    dent = 0.13 * np.exp(-((u / 0.3) ** 2)) * (v > 0)
    gland = _egg(u, v + dent, w) < 1
    inside = gland.astype(np.uint8) * PERIPHERAL_ZONE
    inside[gland & _transition_zone(u, v, w, share)] = TRANSITION_ZONE
    zones = np.zeros(grid.size_xyz[::-1], np.uint8)
    zones[tuple(slice(*end) for end in reversed(ends))] = inside
    return grid.image(zones)


def _egg(u: Floats, v: Floats, w: Floats) -> Floats:
    """Squared distance from the centre; 1 at the surface of the gland, which is narrower towards the apex."""
    taper = 1 + 0.16 * w
    squared: Floats = ((np.abs(u) / taper) ** 2.3 + (np.abs(v) / taper) ** 2.3) + np.abs(w) ** 2.3
    return squared


def _transition_zone(u: Floats, v: Floats, w: Floats, share: float) -> Mask:
    """The gland's inner part: three ellipsoids, melted into each other."""
    core = (u / 0.66) ** 2 + ((v + 0.22) / 0.66) ** 2 + ((w - 0.25) / 0.85) ** 2
    stroma = (u / 0.58) ** 2 + ((v + 0.8) / 0.55) ** 2 + ((w - 0.15) / 0.75) ** 2
    urethra = (u / 0.2) ** 2 + ((v + 0.1) / 0.2) ** 2 + ((w + 0.6) / 0.9) ** 2
    inner: Mask = np.exp(-core) + 0.8 * np.exp(-stroma) + np.exp(-urethra) > np.exp(-share)
    return inner


def _float32(values: npt.NDArray[np.floating]) -> Floats:
    return np.asarray(values, dtype=np.float32)
