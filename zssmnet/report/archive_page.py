"""One page that shows a whole archive: a row a case, odd ones first; left-out cases; counts by scanner grid.

The page is one file: pictures are embedded, and nothing is fetched from elsewhere. What a row shows is kept in the
page's record, so that only cases that were prepared anew are read again.
"""

import base64
import html
import io
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import contourpy
import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import BaseModel, ConfigDict
from typing_extensions import override

from zssmnet.data.examination import array_of
from zssmnet.data.image_io import read_image
from zssmnet.preparation.prepare import PreparedCase, prepared_keys
from zssmnet.report.style import FAINT, IMAGES, INK, LINES, ZONES
from zssmnet.storage import Storage, sha256_of
from zssmnet.storage.records import Output, Record, publish_record, read_record

PAGE = "archive.html"
METHOD = 1
"""Raised whenever the same prepared case would give another row."""
BINS = 24
_SIDE = 96  # pixels of a thumbnail
_QUALITY = 55
_FAR = 4.0
"""Median absolute deviations (scaled to standard deviations) from the archive's median that count as odd."""
Array = npt.NDArray[np.float32]


class Row(BaseModel):
    """What the page shows of a case.

    Attributes:
        case_id, subset, spacing_before, size_before, warnings: as in the prepared case's record.
        source: identity of that record.
        picture: JPEG of T2W, ADC and DWI side by side, base64.
        outlines: SVG paths of the zones, in pixels of one thumbnail.
        peripheral_ml, transition_ml: volumes of the zones.
        medians: of the images in the gland.
        histograms: of each image, shares of the voxels around the gland; the range is from 0 to four medians.
    """

    model_config = ConfigDict(frozen=True)

    case_id: str
    subset: int
    source: str
    size_before: tuple[int, int, int]
    spacing_before: tuple[float, float, float]
    warnings: tuple[str, ...]
    picture: str
    outlines: tuple[str, str]
    peripheral_ml: float
    transition_ml: float
    medians: tuple[float, float, float]
    histograms: tuple[tuple[float, ...], ...]


class ArchivePage(Record):
    """The record of the page, with its rows."""

    rows: tuple[Row, ...]

    @override
    def is_valid_for(self, name: str) -> bool:
        return name == PAGE.removesuffix(".html") and all(output.key == PAGE for output in self.outputs)


def publish_archive_page(
    data: Storage,
    reports: Storage,
    case_ids: Sequence[str],
    left_out: Mapping[str, str],
    advance: Callable[[], object] = lambda: None,
) -> str:
    """Publish ``archive.html``; cases that were not prepared anew are not read again.

    Args:
        data: prepared cases.
        reports: where to.
        case_ids: the cases to show.
        left_out: other cases, with the reason.
        advance: called once for each case.

    Returns:
        A summary of one line.
    """
    name = PAGE.removesuffix(".html")
    known = read_record(reports, name, ArchivePage)
    earlier = {row.source: row for row in known.rows} if known and known.method == METHOD else {}
    rows = []
    for case_id in case_ids:
        if record := read_record(data, case_id, PreparedCase):
            source = record.identity()
            rows.append(earlier.get(source) or draw_row(record, source, data))
        advance()
    with reports.publishing(PAGE) as path:
        path.write_text(page(rows, left_out), encoding="utf-8")
        output = Output(key=PAGE, size=path.stat().st_size, sha256=sha256_of(path))
    publish_record(reports, name, ArchivePage(method=METHOD, inputs=(), outputs=(output,), rows=tuple(rows)))
    odd = sum(bool(remarks) for remarks in oddities(rows))
    return f"{len(rows)} cases, {odd} with something odd, {len(left_out)} left out"


def draw_row(record: PreparedCase, source: str, data: Storage) -> Row:
    """The row of one prepared case.

    Raises:
        UnreadableFileError: a file of the case cannot be read.
    """
    images = [read_image(data.local(key)) for key in prepared_keys(record.case_id, record.subset)]
    arrays = [array_of(image) for image in images]
    zones_ZYX = arrays.pop()
    gland_ZYX = zones_ZYX > 0
    voxel_ml = math.prod(images[-1].GetSpacing()) / 1000
    medians = [float(np.median(array[gland_ZYX])) for array in arrays]
    middle = int(np.median(np.flatnonzero(gland_ZYX.any(axis=(1, 2)))))
    return Row(
        case_id=record.case_id,
        subset=record.subset,
        source=source,
        size_before=record.size_before,
        spacing_before=record.spacing_before,
        warnings=record.warnings,
        picture=_jpeg([array[middle] for array in arrays]),
        outlines=(_outline(zones_ZYX[middle] == 1), _outline(zones_ZYX[middle] == 2)),
        peripheral_ml=round(float((zones_ZYX == 1).sum()) * voxel_ml, 2),
        transition_ml=round(float((zones_ZYX == 2).sum()) * voxel_ml, 2),
        medians=(medians[0], medians[1], medians[2]),
        histograms=tuple(_histogram(array, median) for array, median in zip(arrays, medians, strict=True)),
    )


def oddities(rows: Sequence[Row]) -> list[list[str]]:
    """What is odd about each row: its warnings, and what lies far from the archive's median."""
    found = [list(row.warnings) for row in rows]
    if not rows:
        return found
    shapes = np.array([row.histograms for row in rows])
    distances = np.abs(shapes - np.median(shapes, axis=0)).sum(axis=2) / 2
    measures: dict[str, list[float]] = {
        "gland of {:.0f} ml": [row.peripheral_ml + row.transition_ml for row in rows],
        "ADC's median in the gland is {:.0f}": [row.medians[1] for row in rows],
        "slices {:.2g} mm apart": [row.spacing_before[2] for row in rows],
        "pixels of {:.2g} mm": [row.spacing_before[0] for row in rows],
    }
    for channel, name in enumerate(IMAGES):
        measures[name + "'s histogram differs in {:.2f} of the voxels"] = distances[:, channel].tolist()
    for words, values in measures.items():
        for remarks, value, is_far in zip(found, values, _far(values), strict=True):
            if is_far:
                remarks.append(words.format(value))
    return found


def _far(values: Sequence[float]) -> list[bool]:
    array = np.asarray(values)
    deviations = np.abs(array - np.median(array))
    scale = max(1.4826 * float(np.median(deviations)), 0.05 * abs(float(np.median(array))), 1e-9)
    return [bool(deviation > _FAR * scale) for deviation in deviations]


def _jpeg(slices: Sequence[Array]) -> str:
    """Slices side by side, each in the grey levels of its 1st to 99th percentile."""
    tiles = []
    for image_YX in slices:
        low, high = np.percentile(image_YX, (1, 99))
        levels = np.clip((image_YX - low) / max(float(high - low), 1e-6), 0, 1) * 255
        tiles.append(np.asarray(Image.fromarray(levels.astype(np.uint8)).resize((_SIDE, _SIDE))))
    stream = io.BytesIO()
    Image.fromarray(np.hstack(tiles)).save(stream, "JPEG", quality=_QUALITY)
    return base64.b64encode(stream.getvalue()).decode()


def _outline(inside_YX: npt.NDArray[np.bool_]) -> str:
    """SVG path around a zone, in pixels of a thumbnail."""
    height, width = inside_YX.shape
    x, y = ((np.arange(size) + 0.5) * _SIDE / size for size in (width, height))
    lines = contourpy.contour_generator(x, y, inside_YX.astype(np.float64)).lines(0.5)
    return "".join("M" + "L".join(f"{a:.0f} {b:.0f}" for a, b in np.asarray(line)[::2]) + "Z" for line in lines)


def _histogram(image: Array, median: float) -> tuple[float, ...]:
    scale = median if median > 0 else 1.0
    counts = np.bincount(np.clip(image.ravel() * (BINS / 4 / scale), 0, BINS - 1).astype(np.int64), minlength=BINS)
    return tuple(round(float(count) / image.size, 4) for count in counts)


def page(rows: Sequence[Row], left_out: Mapping[str, str]) -> str:
    """The whole page, HTML."""
    remarks = oddities(rows)
    order = sorted(range(len(rows)), key=lambda index: (-len(remarks[index]), rows[index].case_id))
    usual = np.median([row.histograms for row in rows], axis=0) if rows else np.zeros((3, BINS))
    body = "".join(_row(rows[index], remarks[index], usual) for index in order)
    out = "".join(f"<tr><td>{html.escape(one)}<td>{html.escape(why)}" for one, why in sorted(left_out.items()))
    grids = Counter((row.spacing_before, row.size_before[:2]) for row in rows)
    counts = "".join(
        f"<tr><td>{count}<td>{' × '.join(f'{step:.3g}' for step in spacing)} mm<td>{size[0]} × {size[1]}"
        for (spacing, size), count in grids.most_common()
    )
    odd = sum(map(bool, remarks))
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Archive: {len(rows)} cases</title>"
        f"<style>{_STYLE}</style><h1>{len(rows)} cases, {odd} with something odd, {len(left_out)} left out</h1>"
        f"<p>Middle slice of the gland; {_key()}. Histograms: the case's in colour, the archive's median in grey, from 0 "
        "to four times the gland's median. Odd: a warning, or far from the archive's median.</p>"
        + (f"<h2>Left out</h2><table class=list>{out}</table>" if out else "")
        + f"<details><summary>{len(grids)} scanner grids</summary><table class=list>{counts}</table></details>"
        f"<table><tr><th>case<th>T2W, ADC, DWI<th>histograms<th>gland<th>remarks{body}</table></html>\n"
    )


def _row(row: Row, remarks: Sequence[str], usual: npt.NDArray[np.float64]) -> str:
    zones = "".join(
        f'<path d="{outline}" stroke="{colour}"/>'
        for outline, (colour, _) in zip(row.outlines, ZONES, strict=True)
        if outline
    )
    name = f"z{row.source[:12]}"
    uses = "".join(f'<use href="#{name}" x="{shift}"/>' for shift in (_SIDE, 2 * _SIDE))
    picture = (
        f'<svg class=pic viewBox="0 0 {3 * _SIDE} {_SIDE}"><image width={3 * _SIDE} height={_SIDE} '
        f'href="data:image/jpeg;base64,{row.picture}"/><g id="{name}">{zones}</g>{uses}</svg>'
    )
    curves = "".join(
        f'<svg class=hist viewBox="0 0 {BINS} 20" preserveAspectRatio=none>'
        f'<polyline class=usual points="{_points(usual[channel])}"/><polyline points="{_points(shares)}"/></svg>'
        for channel, shares in enumerate(row.histograms)
    )
    spacing = " × ".join(f"{step:.3g}" for step in row.spacing_before)
    volume = f"{row.peripheral_ml + row.transition_ml:.0f} ml<br>PZ {row.peripheral_ml:.0f}, TZ {row.transition_ml:.0f}"
    notes = "<br>".join(html.escape(remark) for remark in remarks)
    size = " × ".join(map(str, row.size_before))
    return (
        f"<tr><td><b>{html.escape(row.case_id)}</b><br>subset {row.subset}<br>{spacing} mm<br>{size}"
        f"<td>{picture}<td>{curves}<td>{volume}<td class=odd>{notes}"
    )


def _points(shares: Sequence[float] | npt.NDArray[np.float64]) -> str:
    return " ".join(f"{index},{20 - 60 * min(float(share), 0.33):.1f}" for index, share in enumerate(shares))


def _key() -> str:
    return ", ".join(f'<span style="color:{colour}">▬</span> {name}' for colour, name in ZONES)


_STYLE = (
    f"body{{font:14px system-ui,sans-serif;color:{INK};margin:24px}}table{{border-collapse:collapse}}"
    f"td,th{{padding:6px 12px;border-bottom:1px solid {LINES};text-align:left;vertical-align:top}}"
    "tr{content-visibility:auto}.pic{width:432px;display:block;background:#000}.pic path{fill:none;stroke-width:1}"
    f".hist{{width:96px;height:48px;margin-right:8px}}polyline{{fill:none;stroke:#2f78a8;stroke-width:1.5;"
    f"vector-effect:non-scaling-stroke}}.usual{{stroke:{FAINT};opacity:.5}}.odd{{color:#b3261e;max-width:320px}}"
)
