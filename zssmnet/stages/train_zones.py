"""Stage: networks that make zonal masks, trained on the cases that have one; one part."""

import logging
import math
from dataclasses import dataclass
from functools import partial

from typing_extensions import override

from zssmnet.config import PICAI_PATIENT, ArchiveFormat, NetworkConfig, ZonesConfig
from zssmnet.data.archive import Case, Inventory, masks_by_case, shortened, take_inventory
from zssmnet.data.examination import read_images, read_mask
from zssmnet.errors import CaseError, CheckpointError, InputError
from zssmnet.handoff.weights import read_weights
from zssmnet.registry.runs import library_versions, run_folder
from zssmnet.report.page import draw_all
from zssmnet.report.zones_page import HeldOutRow, draw_held_out, zones_page
from zssmnet.runner import PlainRunner, Progress, Runner, Summary, current_progress
from zssmnet.storage import Address, Storage, open_storage, sha256_of
from zssmnet.storage.layout import Layout
from zssmnet.storage.lock import locked
from zssmnet.storage.records import Input, Record, fingerprints, publish_recorded
from zssmnet.training.checkpoint import Progress as Epochs
from zssmnet.training.precision import choose_device
from zssmnet.zones.ensemble import Ensemble
from zssmnet.zones.masks import NAMES, figures_against, odd_about
from zssmnet.zones.model import (
    METHOD,
    MODEL,
    HeldOut,
    ZonesModel,
    all_versions,
    channel_count,
    find_model,
    identify,
    promote,
    publish_version,
)
from zssmnet.zones.training import LabelledCase, read_labelled, shares_of, train_member, training_recipe

log = logging.getLogger(__name__)

STAGE = "train-zones"
PAGE = "zones.html"


class ZonesSummary(Summary):
    """The published ensemble, and how well it finds zones in patients that its members were trained without.

    Attributes:
        model: address of the ensemble under its stable name.
        page: address of the page, the worst cases first.
        cases, left_out: numbers of labelled cases that were used, and that cannot be.
        figures: means over the held-out cases, by name.
    """

    model: str
    page: str
    run_id: str
    cases: int
    left_out: int
    figures: dict[str, float]
    is_new: bool

    @property
    @override
    def outcome(self) -> tuple[str, str]:
        return "Completed", self.sentence

    @property
    def sentence(self) -> str:
        """The figures in words."""
        dices = ", ".join(f"{name} {self.figures[f'dice_{part}']:.3f}" for part, name in NAMES.items())
        return f"Dice on {self.cases} held-out cases: {dices}"


@dataclass(frozen=True)
class ZonesTraining:
    """The one part of this stage: where labelled cases are, where the ensemble goes, and how to train."""

    images: Storage
    masks: Storage
    layout: Layout
    weights: Address | None
    archive_format: ArchiveFormat | None
    patient_pattern: str
    config: ZonesConfig

    def __str__(self) -> str:
        return STAGE


def train_zones(
    images_path: Address,
    zonal_mask_path: Address,
    root: Address,
    weights: Address | None = None,
    *,
    archive_format: ArchiveFormat | None = None,
    patient_pattern: str = PICAI_PATIENT,
    config: ZonesConfig | None = None,
    runner: Runner | None = None,
) -> ZonesSummary:
    """Train networks that make zonal masks, on cases that have one; an interrupted training continues.

    Args:
        images_path: an nnU-Net raw, PI-CAI MHA or BIDS archive.
        zonal_mask_path: masks ``<case>.nii.gz`` of some or all of its cases.
        root: working root; the ensemble goes to ``SSL/zones_model``, the page to ``SSL/reports``.
        weights: pre-trained weights to begin with; none: from scratch.
        archive_format: ``nnunet``, ``picai`` or ``bids``; none: detected automatically.
        patient_pattern: regular expression whose group ``patient`` names a case's patient.
        config: images, preset, members and length of the training; none: the defaults.
        runner: what runs the training; none: this process.

    Raises:
        InputError: labelled cases of fewer than two patients.
        CheckpointError: weights that cannot be used.
        LockedError: another run trains there.
    """
    images, masks, layout = open_storage(images_path), open_storage(zonal_mask_path), Layout(open_storage(root).uri)
    work = ZonesTraining(images, masks, layout, weights, archive_format, patient_pattern, ZonesConfig.of(config))
    (summary,) = (runner or PlainRunner()).map(train_zones_part, [work])
    return summary


def train_zones_part(work: ZonesTraining) -> ZonesSummary:
    """Train the members one after the other, and publish them."""
    images, masks, config, progress = work.images, work.masks, work.config, current_progress() or Progress()
    device = choose_device(config.device)  # before any case is read
    output, reports = open_storage(work.layout.zones_model), open_storage(work.layout.reports)
    found = take_inventory(images, masks, work.archive_format, channel_count(config))
    files = [(images, key) for case in found.cases for key in case.images[: channel_count(config)]]
    files += [(masks, case.mask) for case in found.cases]
    weights = None if work.weights is None else read_weights(work.weights)
    if weights and weights.in_channels < channel_count(config):
        few = f"has {weights.in_channels} input channels, fewer than --channels {config.channels}"
        raise CheckpointError(f"{weights.address}: {few}; choose --channels t2w, or other weights")
    with locked(output):
        output.sweep()
        stable = find_model(output)
        inputs = fingerprints(files, stable.inputs if stable else ())
        if weights:
            size, sha256 = weights.path.stat().st_size, sha256_of(weights.path)
            inputs = (*inputs, Input(name="weights", size=size, version="", sha256=sha256))
        run_id = identify([one.sha256 for one in inputs], config)
        if known := next((one for one in all_versions(output) if one.run_id == run_id), None):
            return _summary(promote(output, known), output, reports)
        cases, faults = _read_all(found, work)
        kernels = weights or NetworkConfig(channels=config.scale.kernels)
        network = NetworkConfig(channels=kernels.channels, merge=kernels.merge)
        workplace = run_folder(output, run_id)
        members = min(config.members, len({one.patient for one in cases}))
        progress.begin(STAGE, 2 * training_recipe(config).epochs * members, "epochs", may_end_early=True)
        shares = shares_of([one.patient for one in cases], members, config.seed)
        rows, contents = list[HeldOutRow](), []
        for number in range(members):
            held_out = [one for one in cases if shares[one.patient] == number]
            rest = [one for one in cases if shares[one.patient] != number]
            log.info("member %d of %d: %d cases, %d held out", number + 1, members, len(rest), len(held_out))
            folder = workplace.child(f"member{number}")

            def on_epoch(done: Epochs, number: int = number) -> None:
                progress.advance(STAGE)
                progress.note(STAGE, f"member {number + 1}, held-out loss {done.history[-1].validation_loss:.3f}")

            member, content = train_member(rest, held_out, number, config, network, weights, folder, on_epoch)
            contents.append(content)
            judge = partial(_held_out_row, work, number, Ensemble([member], config))
            rows += draw_all(judge, [one.case for one in held_out], lambda: None)
        progress.end(STAGE)
        made = ZonesModel(
            method=METHOD,
            inputs=inputs,
            outputs=(),
            run_id=run_id,
            parameters=config,
            network=network,
            versions=library_versions(),
            device=device.type,
            held_out=tuple(one for one, _ in rows),
        )
        drawn = zones_page(made, rows).encode()
        record = Record(method=METHOD, inputs=(), outputs=())
        publish_recorded(reports, "zones", record, {PAGE: lambda path: path.write_bytes(drawn)}, force=True)
        made = publish_version(output, made, contents)
        for entry in workplace.list():  # the version has the best weights, and no run continues from the last ones
            workplace.remove(entry.key)
    summary = _summary(made, output, reports, len(faults), is_new=True)
    progress.show("Zones", lambda: summary.sentence)
    log.info("published %s: %s", MODEL, summary.sentence)
    return summary


def _read_all(found: Inventory, work: ZonesTraining) -> tuple[list[LabelledCase], list[CaseError]]:
    """The cases that can be used, of two patients at least, and why others that have a mask cannot."""

    def read(case: Case) -> LabelledCase | CaseError:
        try:
            return read_labelled(case, work.images, work.masks, work.config, work.patient_pattern)
        except CaseError as fault:
            return fault

    done, labelled = draw_all(read, found.cases, lambda: None), masks_by_case(work.masks)
    cases = [one for one in done if isinstance(one, LabelledCase)]
    faults = [one for one in (*found.faults, *done) if isinstance(one, CaseError) and one.case_id in labelled]
    for fault in faults:
        log.warning("left out: %s", fault)
    patients = sorted({one.patient for one in cases})
    if len(patients) < 2:
        raise InputError(
            f"{work.masks.uri}: {len(cases)} labelled cases of {len(patients)} patients "
            f"({shortened(patients) or 'none'}) can be used; at least two patients are needed, of whom each member of "
            "the ensemble holds out one: add masks with both zones, or correct --patient-pattern"
        )
    return cases, faults


def _held_out_row(work: ZonesTraining, number: int, ensemble: Ensemble, case: Case) -> HeldOutRow:
    """A case, predicted by the member that was trained without it."""
    volumes, _, _ = read_images(case, work.images, channel_count(work.config))
    truth, found = read_mask(case, work.masks, volumes[0]), ensemble.segment(volumes).mask
    figures, odd = figures_against(found, truth), tuple(odd_about(found, volumes[0], {}, 0.0))
    held_out = HeldOut(case_id=case.id, member=number, figures=figures, findings=odd)
    return draw_held_out(held_out, volumes[0], truth, found)


def _summary(
    made: ZonesModel, output: Storage, reports: Storage, left_out: int = 0, is_new: bool = False
) -> ZonesSummary:
    names = {name for one in made.held_out for name in one.figures}
    return ZonesSummary(
        model=output.where(MODEL),
        page=reports.where(PAGE),
        run_id=made.run_id,
        cases=len(made.held_out),
        left_out=left_out,
        figures={name: value for name in sorted(names) if not math.isnan(value := made.mean(name))},
        is_new=is_new,
    )
