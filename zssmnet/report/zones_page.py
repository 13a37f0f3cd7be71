"""The held-out cases of a training of zones on one page: given and found masks side by side, the worst first."""

import math
from collections.abc import Sequence

import SimpleITK as sitk

from zssmnet.data.image_io import array_of
from zssmnet.report.page import LEGEND, case_row, cases_page, escaped
from zssmnet.report.thumbnails import draw_gland, drawing, strokes
from zssmnet.zones.masks import NAMES, PARTS
from zssmnet.zones.model import HeldOut, ZonesModel

_COLUMNS = ("case", "given", "found", "Dice", "surface, mm", "findings")


HeldOutRow = tuple[HeldOut, list[str]]
"""A held-out case with its pictures, HTML: the given and the found zones over three slices."""


def draw_held_out(held_out: HeldOut, t2w: sitk.Image, given: sitk.Image, found: sitk.Image) -> HeldOutRow:
    """Draw both masks over T2W, around both glands."""
    masks = array_of(given), array_of(found)
    picture, outlines = draw_gland(array_of(t2w), masks, t2w.GetSpacing())
    return held_out, [drawing(picture, [*map(strokes, slices)]) for slices in outlines]


def zones_page(model: ZonesModel, rows: Sequence[HeldOutRow]) -> str:
    """The page, HTML."""
    means = ", ".join(
        f"{NAMES[part]} {model.mean(f'dice_{part}'):.3f} ({model.mean(f'surface_mm_{part}'):.2f} mm)" for part in PARTS
    )
    head = (
        f"<h1>Zones: {len(rows)} held-out cases</h1><p>Version {escaped(model.run_id)}. Mean Dice (and distance of the "
        f"surfaces): {means}. Each case was predicted by the member that was trained without its patient, and that "
        "stopped where it was best on these patients. Where both masks differ, look at the given one too: it may be "
        f"wrong. Slices at 4/5, 1/2 and 1/5 of the gland's height; {LEGEND}.</p>"
    )
    ordered = sorted(rows, key=lambda row: (_worst(row[0]), row[0].case_id))
    return cases_page("Zones, held-out cases", head, _COLUMNS, map(_row, ordered))


def _worst(one: HeldOut) -> float:
    return min((value for part in PARTS if (value := one.figures.get(f"dice_{part}")) is not None), default=math.nan)


def _row(row: HeldOutRow) -> str:
    one, pictures = row
    columns = [
        "<br>".join(f"{NAMES[part]} {_shown(one.figures.get(f'{figure}_{part}'))}" for part in PARTS)
        for figure in ("dice", "surface_mm")
    ]
    return case_row(one.case_id, [f"member {one.member + 1}"], [*pictures, *columns], one.findings)


def _shown(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.2f}"
