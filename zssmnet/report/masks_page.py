"""Zonal masks, checked and drawn on one page: a row a mask, those with findings first.

The page is published repeatedly while masks are checked. Its rows are kept beside it, so that a second run checks
only new and changed masks.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from pydantic import BaseModel

from zssmnet.data.archive import CHANNELS, ArchiveFormat, in_one_form, masks_by_case, take_inventory
from zssmnet.data.examination import check_grid
from zssmnet.data.image_io import array_of, read_image
from zssmnet.data.mask_checks import MaskCheck, check_mask
from zssmnet.data.orientation import in_axial_order
from zssmnet.errors import CaseError, ImageError, UnreadableFileError
from zssmnet.preparation.channels import ELSEWHERE
from zssmnet.preparation.gland_place import odd_places
from zssmnet.report.page import LEGEND, as_lines, case_row, cases_page, draw_all, kept_rows, volumes
from zssmnet.report.palette import Array
from zssmnet.report.thumbnails import Base64, Outlines, draw_gland, drawing, strokes
from zssmnet.storage import Storage
from zssmnet.storage.ownership import check_ours

PAGE, ROWS = "masks.html", "masks-rows.jsonl"
_TITLE = "Zonal masks: "
_MARK = f"<title>{_TITLE}".encode()
METHOD = 3
"""Raised whenever the same mask would give another row."""
_MASKS_AT_ONCE = 16
"""Masks after which the page is published again; in the end after every quarter more."""
_COLUMNS = ("case", "upper, middle, lower", "gland", "findings")


class DrawnMask(BaseModel, frozen=True):
    """Findings and picture of a case's mask.

    Attributes:
        source: the method and versions of the files it was made from.
        picture: JPEG of three slices, towards the head first, base64; empty if nothing can be drawn.
        outlines: of the zones in each of them.
    """

    case_id: str
    check: MaskCheck
    picture: Base64 = ""
    outlines: tuple[Outlines, ...] = ()
    source: str = ""


def publish_masks_page(
    masks: Storage,
    output: Storage,
    images: Storage | None = None,
    archive_format: ArchiveFormat | None = None,
    advance: Callable[[], object] = lambda: None,
    force: bool = False,
    known: Mapping[str, tuple[str, tuple[str, ...]]] | None = None,
) -> list[DrawnMask]:
    """Check all masks and publish ``masks.html``, repeatedly until it is complete.

    Args:
        masks: folder of ``<case>.nii.gz``.
        images: the archive, to check that glands lie in their images, and to draw them there.
        known: key and known findings of each mask, by case; none: all masks in the folder.

    Returns:
        All masks, those with most findings first.

    Raises:
        ArchiveError: there is no mask, or no archive.
        InputError: another page has that name, and ``force`` is not given.
        StorageError: a folder cannot be read or written.
    """
    check_ours(output, PAGE, lambda file: _MARK in file.read_bytes()[:1000], force)
    archived = take_inventory(images, None, archive_format, 1).cases if images is not None else ()
    t2w_keys = {in_one_form(case.id): case.images[0] for case in archived}
    output.sweep()
    earlier = {row.source: row for row in kept_rows(output, ROWS, DrawnMask)}
    twice = "the id is there twice, in {} as well; rename one"
    known = known or {
        case_id: (key, tuple(twice.format(other) for other in others))
        for case_id, (key, *others) in masks_by_case(masks).items()
    }

    def drawn(case: tuple[str, tuple[str, tuple[str, ...]]]) -> DrawnMask:
        case_id, (key, odd) = case
        t2w_key = t2w_keys.get(case_id)
        files = [masks.stat(key)] + ([images.stat(t2w_key)] if images is not None and t2w_key else [])
        versions = [(file.key, file.size, file.version) for file in files if file]
        source = f"{METHOD} {case_id} {images is not None} {versions}{odd or ''}"
        if source in earlier:
            return earlier[source]
        try:
            row = _drawn(case_id, masks, key, images, t2w_key)
        except (UnreadableFileError, ImageError) as error:
            reason = error.reason if isinstance(error, UnreadableFileError) else str(error)
            row = DrawnMask(case_id=case_id, check=MaskCheck(0.0, 0.0, (reason,)))
        findings = tuple(dict.fromkeys((*odd, *row.check.findings)))
        return row.model_copy(update={"source": source, "check": replace(row.check, findings=findings)})

    found: list[DrawnMask] = []
    cases = sorted(known.items())
    while len(found) < len(cases):
        some = max(_MASKS_AT_ONCE, len(found) // 4)
        found += draw_all(drawn, cases[len(found) : len(found) + some], advance)
        found.sort(key=lambda one: (-len(one.check.findings), one.case_id))
        output.publish_bytes(ROWS, b"".join(as_lines(found)))
        output.publish_bytes(PAGE, _page(found, len(cases)).encode())
    return found


def _drawn(case_id: str, masks: Storage, key: str, images: Storage | None, t2w_key: str | None) -> DrawnMask:
    """The mask over T2W, or over nothing where that lies elsewhere."""
    mask, t2w, faults = in_axial_order(read_image(masks.local(key))), None, []
    if images is not None and t2w_key is None:
        faults.append("the archive has no whole case of this id, so where the gland lies is not checked")
    elif images is not None and t2w_key is not None:
        t2w = in_axial_order(read_image(images.local(t2w_key)))
    check = check_mask(mask, t2w)
    if t2w is not None:
        try:
            check_grid(case_id, masks.where(key), mask, t2w)
            if check.peripheral_ml + check.rest_ml:
                faults += odd_places(mask, [(CHANNELS[0], t2w, ELSEWHERE[0])])
        except CaseError as fault:
            faults.append(fault.reason)
            t2w = None
    zones_ZYX = array_of(mask)
    ground_ZYX: Array = np.zeros(zones_ZYX.shape, np.uint8) if t2w is None else array_of(t2w)
    picture, (outlines,) = draw_gland(ground_ZYX, [zones_ZYX], mask.GetSpacing())
    check = replace(check, findings=(*check.findings, *faults))
    return DrawnMask(case_id=case_id, check=check, picture=picture, outlines=outlines)


def _page(masks: list[DrawnMask], total: int) -> str:
    odd = sum(bool(one.check.findings) for one in masks)
    counted = f"{len(masks)} masks" if len(masks) == total else f"{len(masks)} of {total} masks so far"
    head = f"<h1>{counted}, {odd} with findings</h1><p>Slices at 4/5, 1/2 and 1/5 of the gland's height; {LEGEND}.</p>"
    return cases_page(f"{_TITLE}{len(masks)}", head, _COLUMNS, map(_row, masks))


def _row(one: DrawnMask) -> str:
    picture = drawing(one.picture, [*map(strokes, one.outlines)]) if one.picture else ""
    cells = picture, volumes(one.check.peripheral_ml, one.check.rest_ml)
    return case_row(one.case_id, (), cells, one.check.findings)
