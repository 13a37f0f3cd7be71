"""An archive of many small cases, written in seconds: some are drawn, the others are brighter copies of them."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from zssmnet.phantom import GridSpec, PhantomCase, evenly_split_cases, phantom_case, write_masks, write_nnunet_raw

GRIDS = (
    GridSpec.centred((48, 48, 10), (0.5, 0.5, 3.0), (0.0, 0.0, 0.0)),
    GridSpec.centred((44, 44, 10), (0.6, 0.6, 3.3), (2.0, -3.0, 1.0), degrees=12),
)
"""One at the target spacing, one to be resampled."""
DRAWN = 24


def write_many_cases(folder: Path, count: int) -> tuple[Path, Path]:
    """An nnU-Net raw archive, spread evenly over the six subsets, no two images the same: (images, masks)."""
    images, masks = folder / "images", folder / "masks"
    for case in _cases(evenly_split_cases(count)):
        write_nnunet_raw(images, [case])
        write_masks(masks, [case])
    return images, masks


def _cases(ids: list[str]) -> Iterator[PhantomCase]:
    drawn = [phantom_case(case_id, grids=GRIDS) for case_id in ids[:DRAWN]]
    for number, (case_id, case) in enumerate(zip(ids, itertools.cycle(drawn), strict=False)):
        yield _brighter(case, case_id, number // DRAWN)


def _brighter(case: PhantomCase, case_id: str, by: int) -> PhantomCase:
    images = case.examination
    brighter = replace(images, t2w=images.t2w + by, adc=images.adc + by, dwi=images.dwi + by)
    return PhantomCase(case_id, case.mask, brighter)
