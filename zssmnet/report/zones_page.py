"""The held-out cases of a training of zones on one page: given and found masks side by side, the worst first."""

import math
from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
from pydantic import BaseModel

from zssmnet.data.image_io import array_of
from zssmnet.preparation.cropping import bounding_box, margin_in_voxels
from zssmnet.report.archive_rows import Base64, Path
from zssmnet.report.page import LEGEND, document, escaped
from zssmnet.report.thumbnails import drawing, jpeg, outlines, shown_slices
from zssmnet.zones.masks import NAMES, PARTS
from zssmnet.zones.model import HeldOut, ZonesModel

MARGIN_MM = 15.0


class HeldOutRow(BaseModel, frozen=True):
    """A held-out case with its picture: JPEG of three slices, and outlines of the given and the found zones in each."""

    held_out: HeldOut
    picture: Base64
    given: tuple[tuple[Path, Path], ...]
    found: tuple[tuple[Path, Path], ...]


def draw_held_out(held_out: HeldOut, t2w: sitk.Image, given: sitk.Image, found: sitk.Image) -> HeldOutRow:
    """Draw both masks over T2W, around both glands."""
    truth, made = array_of(given), array_of(found)
    box = bounding_box(truth | made)
    assert box
    x, y, _ = margin_in_voxels(MARGIN_MM, t2w.GetSpacing())
    _, rows, columns = box.widened((x, y, 0), t2w.GetSize()).window_ZYX
    slices = shown_slices(truth)
    return HeldOutRow(
        held_out=held_out,
        picture=jpeg([array_of(t2w)[z, rows, columns] for z in slices]),
        given=tuple(outlines(truth[z, rows, columns]) for z in slices),
        found=tuple(outlines(made[z, rows, columns]) for z in slices),
    )


def zones_page(model: ZonesModel, rows: Sequence[HeldOutRow]) -> str:
    """The page, HTML."""
    means = ", ".join(
        f"{NAMES[part]} {model.mean(f'dice_{part}'):.3f} ({model.mean(f'surface_mm_{part}'):.2f} mm)" for part in PARTS
    )
    head = (
        f"<h1>Zones: {len(rows)} held-out cases</h1><p>Version {escaped(model.run_id)}. Mean Dice (and distance of the "
        f"surfaces): {means}. Each case was predicted by the member that was trained without its patient, and that "
        "stopped where it was best on these patients. Where both masks differ, look at the given one too: it may be "
        f"wrong. Slices at 4/5, 1/2 and 1/5 of the gland's height; {LEGEND}.</p><table class=cases>"
        "<tr><th>case<th>given<th>found<th>Dice<th>surface, mm<th>findings"
    )
    ordered = sorted(rows, key=lambda row: (_worst(row.held_out), row.held_out.case_id))
    return "".join(document("Zones, held-out cases", [head, *map(_row, range(len(ordered)), ordered), "</table>"]))


def _worst(one: HeldOut) -> float:
    return min((value for part in PARTS if (value := one.figures.get(f"dice_{part}")) is not None), default=math.nan)


def _row(number: int, row: HeldOutRow) -> str:
    one = row.held_out
    pictures = (drawing(row.picture, row.given, f"g{number}"), drawing(row.picture, row.found, f"f{number}"))
    columns = [
        "<br>".join(f"{NAMES[part]} {_shown(one.figures.get(f'{figure}_{part}'))}" for part in PARTS)
        for figure in ("dice", "surface_mm")
    ]
    cells = "".join(f"<td>{cell}" for cell in (*pictures, *columns))
    findings = "<br>".join(map(escaped, one.findings))
    return f"<tr><td><b>{escaped(one.case_id)}</b><br>member {one.member + 1}{cells}<td class=odd>{findings}"


def _shown(value: float | None) -> str:
    return "-" if value is None or np.isnan(value) else f"{value:.2f}"
