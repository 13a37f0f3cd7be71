"""Stage: zonal masks for the cases of an archive that have none, a part a case."""

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

from pydantic import Field
from typing_extensions import override

from zssmnet.config import NO_MASKS, ArchiveFormat, SegmentConfig
from zssmnet.data.archive import DOUBTFUL, MASK_SUFFIX, Case, masks_by_case, only_key, take_inventory
from zssmnet.data.examination import check_can_be_interpolated, file_errors, read_images
from zssmnet.data.image_io import read_image, write_image
from zssmnet.data.orientation import as_stored
from zssmnet.errors import CaseError, ConfigError
from zssmnet.report.masks_page import PAGE, ROWS, publish_masks_page
from zssmnet.runner import PlainRunner, Runner, Summary
from zssmnet.stages.prepare import map_cases
from zssmnet.storage import Address, Storage, folder_and_name, open_storage, sha256_of
from zssmnet.storage.layout import Layout, reports_beside
from zssmnet.storage.lock import locked
from zssmnet.storage.records import (
    NOT_YET,
    Input,
    Output,
    Record,
    fingerprints,
    output_of,
    publish_record,
    publish_recorded,
    read_record,
    refresh_record,
    same_content,
    up_to_date,
)
from zssmnet.zones.ensemble import Ensemble
from zssmnet.zones.masks import odd_about
from zssmnet.zones.model import channel_count, load_ensemble, locate_model

log = logging.getLogger(__name__)

STAGE = "segment-zones"
METHOD = 2
"""Raised whenever the same images and networks would give other masks."""


_LEFT_BY_PERSON = "a person changed it, or put it there: move it beside the others to use it"


class MadeMask(Record):
    """The record of a case's zonal mask.

    Attributes:
        inputs: the images and the networks; or the given mask.
        source: ``made`` by the networks; ``given``, a copy; or a ``person``'s, who moved or changed the file.
        agreed: Dice between the ensemble's members, by part.
        findings: why it lies in ``doubtful/``; where no gland was found there is no mask.
    """

    case_id: str
    source: Literal["made", "given", "person"]
    bound: float = 0.0
    agreed: dict[str, float] = Field(default_factory=dict)
    findings: tuple[str, ...] = ()

    @override
    def is_valid_for(self, name: str) -> bool:
        return name == self.case_id and {one.key for one in self.outputs} <= set(_keys_of(name))


class SegmentSummary(Summary):
    """Outcome of making masks.

    Attributes:
        made, given, persons: numbers of masks that can be used, by where they come from.
        doubtful: why masks are doubtful, by case.
        left_out: reason and file of each case that cannot be read, or has two given masks.
        new: number of cases that were not up to date.
    """

    masks_path: str
    page: str
    made: int
    given: int
    persons: int
    doubtful: dict[str, str]
    left_out: dict[str, str]
    new: int

    @property
    @override
    def outcome(self) -> tuple[str, str]:
        state = "Doubtful masks" if self.doubtful else "Cases left out" if self.left_out else "Completed"
        return state, self.sentence

    @property
    def sentence(self) -> str:
        """The numbers in words."""
        return (
            f"{self.made} masks made, {self.given} given, {self.persons} by a person, {len(self.doubtful)} doubtful, "
            f"{len(self.left_out)} cases left out"
        )


@dataclass(frozen=True)
class CaseToSegment:
    """A part of this stage: one case, where its files are and where its mask goes.

    Attributes:
        folder, keys: of the images that the networks see; or of the given mask, which must be one.
        model, networks: address and fingerprint of the networks; no fingerprint where a mask is given.
    """

    case: Case
    folder: str
    keys: tuple[str, ...]
    model: str
    networks: tuple[Input, ...]
    output_path: str
    config: SegmentConfig

    def __str__(self) -> str:
        return f"segment-{self.case.id}"


def segment_zones(
    model: Address,
    images_path: Address,
    output_path: Address,
    *,
    zonal_mask_path: Address | None = None,
    archive_format: ArchiveFormat | None = None,
    config: SegmentConfig | None = None,
    runner: Runner | None = None,
) -> SegmentSummary:
    """Make zonal masks ``<case>.nii.gz`` on T2W's own grid; doubtful ones go to ``doubtful/``, where none uses them.

    Move a doubtful mask beside the others to use it; correct it before or after. A file that a person changed, or moved
    to ``doubtful/``, stays.

    Args:
        model: a working root of `train_zones`, or the file of an ensemble.
        images_path: an nnU-Net raw, PI-CAI MHA or BIDS archive.
        output_path: folder for the masks.
        zonal_mask_path: masks that are there already: their cases keep them, as copies; none: there are none.
        archive_format: ``nnunet``, ``picai`` or ``bids``; none: detected automatically.
        config: when a mask is doubtful; none: the default.
        runner: what runs the cases; none: threads of this process.

    Raises:
        ArchiveError: no archive there.
        CheckpointError: no ensemble there.
        LockedError: another run makes masks there.
    """
    runner, config = runner or PlainRunner(), SegmentConfig.of(config)
    folder, name = locate_model(model)
    file, address = folder.local(name), folder.where(name)
    networks = Input(name="model", size=file.stat().st_size, version="", sha256=sha256_of(file))
    used = channel_count(_ensemble(address, networks.sha256, config.device).config)
    images, output = open_storage(images_path), open_storage(output_path)
    masks = None if zonal_mask_path is None else open_storage(zonal_mask_path)
    given = masks_by_case(masks) if masks else {}
    inventory = take_inventory(images, None, archive_format, used)

    def part_of(case: Case) -> CaseToSegment:
        if masks and case.id in given:
            return CaseToSegment(case, masks.uri, tuple(given[case.id]), address, (), output.uri, config)
        return CaseToSegment(case, images.uri, case.images[:used], address, (networks,), output.uri, config)

    with locked(output):
        output.sweep()
        runner.progress.begin(STAGE, len(inventory.cases), "cases")
        done, faults = map_cases(runner, STAGE, segment_part, [part_of(case) for case in inventory.cases])
        records = sorted((record for record, _ in done), key=lambda one: one.case_id)
        page = _publish_page(records, output, images, archive_format)
    left_out = sorted([*inventory.faults, *faults], key=lambda one: one.case_id)
    summary = SegmentSummary(
        masks_path=output.uri,
        page=page,
        made=sum(one.source == "made" and not one.findings for one in records),
        given=sum(one.source == "given" for one in records),
        persons=sum(one.source == "person" and not one.findings for one in records),
        doubtful={one.case_id: "; ".join(one.findings) for one in records if one.findings},
        left_out={one.case_id: f"{one.reason}: {one.file}" for one in left_out},
        new=sum(is_new for _, is_new in done),
    )
    for case_id, reason in [*summary.left_out.items(), *summary.doubtful.items()]:
        log.warning("%s: no mask is used: %s", case_id, reason)
    log.info("%s", summary.sentence)
    runner.progress.show("Zonal masks", lambda: summary.sentence)
    return summary


def masks_of_run(
    model: Address | None,
    images_path: Address,
    zonal_mask_path: Address | None,
    layout: Layout,
    archive_format: ArchiveFormat | None,
    runner: Runner,
) -> Address:
    """The folder of the masks that a run takes: the given one; or, with networks, ``SSL/zones``, which is made.

    Raises:
        ConfigError: neither masks nor networks.
    """
    if model is None:
        if zonal_mask_path is None:
            raise ConfigError(NO_MASKS)
        return zonal_mask_path
    segment_zones(
        model, images_path, layout.zones, zonal_mask_path=zonal_mask_path, archive_format=archive_format, runner=runner
    )
    return layout.zones


def segment_part(part: CaseToSegment) -> tuple[MadeMask, bool] | CaseError:
    """Make, copy or keep the mask of one case; its record, and whether anything was done."""
    case_id, output = part.case.id, open_storage(part.output_path)
    plain, doubtful = _keys_of(case_id)
    known = read_record(output, case_id, MadeMask)
    recorded, present = {one.key: one.size for one in known.outputs} if known else {}, up_to_date(output, known)
    # masks that are not the recorded one, nor what a run published that was killed before its record
    unknown = [
        key for key in _keys_of(case_id) if recorded.get(key, 0) != NOT_YET and not (present and key in recorded)
    ]
    persons = [key for key in unknown if output.stat(key) is not None]
    if plain in persons or (persons and part.networks and output.stat(plain) is None):
        file, odd = output_of(output, persons[0]), () if plain in persons else (_LEFT_BY_PERSON,)
        record = MadeMask(method=METHOD, inputs=(), outputs=(file,), case_id=case_id, source="person", findings=odd)
        publish_record(output, case_id, record)
        if doubtful not in persons:
            output.remove(doubtful)
        return record, True
    try:
        if present is None or present.source != "person":
            wanted = _wanted(part, known)
            how = [one and (one.method, one.source, one.bound) for one in (present, wanted)]
            if present is None or how[0] != how[1] or not same_content(present.inputs, wanted.inputs):
                return publish_recorded(output, case_id, *_made(part, wanted), replaced=recorded.keys() - persons), True
            present = present.model_copy(update={"inputs": wanted.inputs})
    except CaseError as fault:
        return fault
    refresh_record(output, case_id, present)
    return present, False


def _wanted(part: CaseToSegment, known: MadeMask | None) -> MadeMask:
    """The record of a mask that is not a person's, as far as it is known before the work."""
    folder, files = open_storage(part.folder), list[Input]()
    if not part.networks:
        only_key(part.case.id, part.keys)
    for key in part.keys:
        with file_errors(part.case.id, folder, key):
            files += fingerprints([(folder, key)], known.inputs if known else ())
    made: Literal["made", "given"] = "made" if part.networks else "given"
    bound, inputs = part.config.bound if part.networks else 0.0, (*files, *part.networks)
    return MadeMask(method=METHOD, inputs=inputs, outputs=(), case_id=part.case.id, source=made, bound=bound)


def _made(part: CaseToSegment, wanted: MadeMask) -> tuple[MadeMask, dict[str, Callable[[Path], object]]]:
    """The record, and what writes the mask: the given one, or one by the networks, if they find a gland."""
    case, folder, keys = part.case, open_storage(part.folder), _keys_of(part.case.id)
    if not part.networks:
        return wanted, {keys[0]: partial(shutil.copyfile, folder.local(*part.keys))}
    volumes, _, warnings = read_images(case, folder, len(part.keys))
    for key, volume in zip(part.keys, volumes, strict=True):
        check_can_be_interpolated(case.id, folder.where(key), volume)
    found = _ensemble(part.model, part.networks[0].sha256, part.config.device).segment(volumes)
    mask = as_stored(found.mask, read_image(folder.local(part.keys[0])))
    odd = (*odd_about(found.mask, volumes[0], found.agreed, wanted.bound), *warnings)
    made = wanted.model_copy(update={"agreed": found.agreed, "findings": odd})
    return made, {keys[bool(odd)]: partial(write_image, mask)} if found.agreed else {}


def _keys_of(case_id: str) -> tuple[str, str]:
    """Where a case's mask lies, and where if it is doubtful."""
    return f"{case_id}{MASK_SUFFIX}", f"{DOUBTFUL}/{case_id}{MASK_SUFFIX}"


@lru_cache(maxsize=1)
def _ensemble(address: str, sha256: str, device: str) -> Ensemble:
    """The networks, loaded once by a process; the digest tells a new version under the same name apart."""
    return load_ensemble(*folder_and_name(address), device)


def _publish_page(
    records: Sequence[MadeMask], output: Storage, images: Storage, archive_format: ArchiveFormat | None
) -> str:
    """The page of all masks, if there are any, with its record; its address."""
    reports = open_storage(reports_beside(output.uri))
    if known := {one.case_id: (one.outputs[0].key, one.findings) for one in records if one.outputs}:
        # published again and again while it is drawn: if this run is killed meanwhile, it is ours, and not finished
        to_come = tuple(Output(key=key, size=NOT_YET, sha256="") for key in (PAGE, ROWS))
        publish_record(reports, "masks", Record(method=METHOD, inputs=(), outputs=to_come))
        publish_masks_page(output, reports, images, archive_format, known=known)
        files = tuple(output_of(reports, key) for key in (PAGE, ROWS))
        publish_record(reports, "masks", Record(method=METHOD, inputs=(), outputs=files))
    return reports.where(PAGE)
