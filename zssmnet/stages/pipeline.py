"""The whole: from an archive to pre-trained weights."""

from typing_extensions import override

from zssmnet.config import (
    PICAI_PATIENT,
    ArchiveFormat,
    CubesConfig,
    MaxWarnings,
    PreparationConfig,
    PretrainConfig,
    SplitMode,
    StrictConfig,
)
from zssmnet.runner import PlainRunner, Runner, Summary
from zssmnet.stages.cubes import CubesSummary, generate_cubes
from zssmnet.stages.prepare import PreparationSummary, find_archive, prepare_cases
from zssmnet.stages.pretrain import PretrainingSummary, pretrain
from zssmnet.stages.segment_zones import masks_of_run
from zssmnet.storage import Address, open_storage
from zssmnet.storage.layout import Layout
from zssmnet.storage.lock import locked


class PipelineSummary(Summary):
    """Outcome of a whole run."""

    root: str
    preparation: PreparationSummary
    cubes: CubesSummary
    training: PretrainingSummary

    @property
    @override
    def outcome(self) -> tuple[str, str]:
        state, message = self.preparation.outcome
        return state, f"{message}; validation loss {self.training.best_validation_loss:.5f}"

    def lines(self) -> list[str]:
        """Report lines: files, addresses and losses."""
        prepared, cut, trained, layout = self.preparation, self.cubes, self.training, Layout(self.root)
        sizes = " + ".join(str(one.cubes) for one in cut.subsets)
        return [
            f"cases:    {prepared.prepared} prepared, {prepared.others} -> {layout.data}",
            f"cubes:    {cut.cubes} ({sizes}) -> {layout.cubes}",
            f"training: {len(trained.history)} epochs,"
            f" validation loss {trained.history[0].validation_loss:.5f} after the first,"
            f" {trained.best_validation_loss:.5f} at best (epoch {trained.best_epoch})",
            f"weights:  {trained.model}",
            f"pictures: {layout.reports}",
        ]


def run_pipeline(
    images_path: Address,
    zonal_mask_path: Address | None,
    root: Address,
    *,
    zones_model: Address | None = None,
    splits_path: Address | None = None,
    split_mode: SplitMode | None = None,
    archive_format: ArchiveFormat | None = None,
    patient_pattern: str = PICAI_PATIENT,
    strict: bool = False,
    max_warnings: MaxWarnings = None,
    preparation: PreparationConfig | None = None,
    cubes: CubesConfig | None = None,
    pretraining: PretrainConfig | None = None,
    runner: Runner | None = None,
) -> PipelineSummary:
    """Prepare every case, cut cubes, pre-train MNet; what is up to date is not done again.

    Args:
        images_path: an nnU-Net raw, PI-CAI MHA or BIDS archive.
        zonal_mask_path: folder of zonal masks ``<case>.nii.gz``; none: ``zones_model`` makes them all.
        root: working root; all files lie in ``SSL/`` below it.
        zones_model: networks of `train_zones` that make masks for cases that have none; none: those are left out.
        splits_path: splits.json with five folds; without it subsets follow from a hash of the patient's id.
        split_mode: ``reference`` needs a splits.json, ``stable`` takes none; none: by ``splits_path``.
        archive_format: ``nnunet``, ``picai`` or ``bids``; none: detected automatically.
        patient_pattern: regular expression whose group ``patient`` names a case's patient.
        strict: stop on any case that cannot be used or has a warning.
        max_warnings: stop where more cases have warnings; none: no limit, or 0 with ``strict``.
        preparation: resampling and cropping; none: the published settings.
        cubes: number, size, dtype and seed of the cubes; none: the defaults.
        pretraining: network, corruption and training recipe; none: the published settings.
        runner: what runs cases, subsets and the training; none: this process.

    Errors are those of `prepare_archive`, `generate_cubes` and `pretrain`.
    """
    runner, limits = runner or PlainRunner(), StrictConfig(strict=strict, max_warnings=max_warnings)
    cubes, pretraining = CubesConfig.of(cubes), PretrainConfig.of(pretraining)
    layout, splits = Layout(open_storage(root).uri), (splits_path, split_mode, patient_pattern)
    masks = masks_of_run(zones_model, images_path, zonal_mask_path, layout, archive_format, runner)
    archive = find_archive(images_path, masks, layout.data, archive_format, splits, preparation, limits)
    with locked(archive.output), locked(open_storage(layout.cubes)):
        prepared = prepare_cases(archive, archive.changes(), runner)
        cut = generate_cubes(layout.data, layout.cubes, cubes, runner=runner)
        trained = pretrain(layout.cubes, layout.weights, pretraining, runner=runner)
    return PipelineSummary(root=layout.root, preparation=prepared, cubes=cut, training=trained)
