"""Whether T2W, ADC and DWI are what their names say, by their values in the gland and by each other."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from zssmnet.data.archive import CHANNELS
from zssmnet.data.examination import Examination
from zssmnet.data.image_io import array_of
from zssmnet.errors import CaseError
from zssmnet.preparation.gland_place import odd_places

FEWEST_VALUES = 8
"""In the gland; a DWI of low signal has 40."""
SAME_IMAGE, SAME_SLICE = 0.99, 0.999
"""Correlation from which on two channels are one image, or two slices one; real ones reach 0.71 and 0.89."""
OUTERMOST_PATCH, OTHER_PATCH = (0.01, 0.2), (0.05, 0.5)
"""Share of the gland in areas of 3 x 3 voxels of one value, the lowest or highest one or another: warn above, leave out
above. Real images reach 0.005, and a DWI of few values, finely resampled, 0.01.
"""
ELSEWHERE = (1.25, 1.5, 1.5)
"""Information of T2W, ADC, DWI about the zones beside the gland, by that in it; real ones reach 1.1, 1.3, 1.0."""
_LARGEST_RISE, _FALL = 0.3, 0.1
"""Correlation of DWI with ADC (real: -0.57 to -0.01), and by how much it may exceed T2W's with ADC (0.24 to 0.71)."""
_SAMPLE = 4000

Array = npt.NDArray[Any]


def check_channels(case_id: str, examination: Examination) -> list[str]:
    """What no real examination shows: a channel beside the gland, without values there, or in another's place.

    Raises:
        CaseError: a channel is no image (two values, one slice repeated, one value in much of the gland), or a copy of
            another one.
    """
    zones = array_of(examination.mask)
    window = tuple(slice(int(place.min()), int(place.max()) + 1) for place in np.nonzero(zones))
    gland = zones[window] > 0
    arrays = [array_of(image)[window] for image in examination.images]
    warnings = []
    for number, (name, array) in enumerate(zip(CHANNELS, arrays, strict=True)):
        for found, is_nonsense in _odd_values(array, gland):
            if is_nonsense:
                raise CaseError(case_id, examination.files[number], f"{name} {found}")
            warnings.append(f"{name} {found}")
    samples = [array[gland][:: max(1, int(gland.sum()) // _SAMPLE)].astype(np.float64) for array in arrays]
    ranks = [np.argsort(np.argsort(sample, kind="stable")).astype(np.float64) for sample in samples]
    for one, other in itertools.combinations(range(3), 2):
        same = max(abs(_correlation(values[one], values[other])) for values in (samples, ranks))
        if same >= SAME_IMAGE:
            reason = f"{CHANNELS[one]} and {CHANNELS[other]} are one image (correlation {same:.3f} in the gland)"
            raise CaseError(case_id, examination.files[other], f"{reason}: is one a copy of the other?")
    named = list(zip(CHANNELS, examination.images, ELSEWHERE, strict=True))
    return [*warnings, *_odd_roles(samples), *odd_places(examination.mask, named)]


def _odd_values(array: Array, gland: Array) -> Iterator[tuple[str, bool]]:
    """What is odd about a channel in the box around the gland, and whether it is then no image."""
    values = np.sort(array[gland])
    count = 1 + int((values[1:] != values[:-1]).sum())
    if count <= FEWEST_VALUES:
        yield f"has only {count} different values in the gland: is it a mask, no image?", count <= 2
    planes = array[:, ::2, ::2].reshape(len(array), -1).astype(np.float64)
    same = [_correlation(below, above) > SAME_SLICE for below, above in itertools.pairwise(planes)]
    if any(same):
        yield f"has {sum(same) + 1} slices that repeat one: was it written with the right slices?", all(same)
    share, value = _patches(array, gland)
    limits = OUTERMOST_PATCH if value in (values[0], values[-1]) else OTHER_PATCH
    if share > limits[0]:
        yield f"has no image in {share:.1%} of the gland: all values there are {value:g}", share > limits[1]


def _patches(array: Array, gland: Array) -> tuple[float, float]:
    """The share of the gland in areas of 3 x 3 voxels of one value, and that value."""
    across = (array[:, :, 1:-1] == array[:, :, :-2]) & (array[:, :, 1:-1] == array[:, :, 2:])
    middle = array[:, 1:-1, 1:-1]
    is_flat = across[:, 1:-1] & across[:, :-2] & across[:, 2:]
    is_flat &= (middle == array[:, :-2, 1:-1]) & (middle == array[:, 2:, 1:-1]) & gland[:, 1:-1, 1:-1]
    values = np.sort(middle[is_flat])
    starts = np.flatnonzero(np.diff(values, prepend=np.nan))
    counts = np.diff(starts, append=len(values))
    return (float(counts.max() / gland.sum()), float(values[starts[counts.argmax()]])) if len(values) else (0.0, 0.0)


def _odd_roles(samples: Sequence[Array]) -> Iterator[str]:
    t2w, adc, dwi = samples
    ours, theirs = _correlation(t2w, adc), _correlation(dwi, adc)
    if theirs > ours + _FALL:
        yield (
            f"DWI follows ADC more closely in the gland (correlation {theirs:.2f}) than T2W does ({ours:.2f}): are T2W "
            "and DWI swapped, or is one of the three inverted or another image?"
        )
    elif ours < -_FALL:
        yield f"T2W falls where ADC rises in the gland (correlation {ours:.2f}): is one of the two inverted?"
    elif theirs > _LARGEST_RISE:
        yield f"DWI rises with ADC in the gland (correlation {theirs:.2f}); a high b-value falls: is it inverted?"


def _correlation(one: Array, other: Array) -> float:
    one, other = one - one.mean(), other - other.mean()
    scale = float(np.sqrt((one @ one) * (other @ other)))
    return float(one @ other) / scale if scale > 0 else 0.0
