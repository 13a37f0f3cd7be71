"""An archive of many small cases, written in seconds: some are drawn, the others are brighter copies of them."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from zssmnet.phantom import GridSpec, PhantomCase, evenly_split_cases, phantom_case, write_case

GRIDS = (
    GridSpec.centred((48, 48, 10), (0.5, 0.5, 3.0), (0.0, 0.0, 0.0)),
    GridSpec.centred((44, 44, 10), (0.6, 0.6, 3.3), (2.0, -3.0, 1.0), degrees=12),
)
"""One at the target spacing, one to be resampled."""
DRAWN = 24


def write_many_cases(folder: Path, count: int) -> tuple[Path, Path]:
    """An nnU-Net raw archive, spread evenly over the six subsets, no two images the same: (images, masks)."""
    for case in _cases(evenly_split_cases(count)):
        write_case(folder, case, with_lesions=False)
    return folder / "nnunet_raw", folder / "zonal_masks"


def _cases(ids: list[str]) -> Iterator[PhantomCase]:
    drawn = [phantom_case(case_id, grids=GRIDS) for case_id in ids[:DRAWN]]
    for number, (case_id, case) in enumerate(zip(ids, itertools.cycle(drawn), strict=False)):
        yield _brighter(case, case_id, number // DRAWN)


def _brighter(case: PhantomCase, case_id: str, by: int) -> PhantomCase:
    return replace(case, id=case_id, t2w=case.t2w + by, adc=case.adc + by, dwi=case.dwi + by)
