"""The commands around the next step: data set, exported weights, package. They need no Prefect."""

import argparse
from pathlib import Path

from flows.counter import counter
from flows.ends import say
from flows.settings import validated, with_flags
from zssmnet.config import ExportConfig, NnunetDatasetConfig, PackageConfig


def nnunet_dataset(options: argparse.Namespace) -> None:
    """Write a raw data set for nnU-Net v2."""
    config = validated(NnunetDatasetConfig, with_flags(NnunetDatasetConfig, {}, options))
    from zssmnet.handoff.nnunet_dataset import dataset_folder, write_nnunet_dataset
    from zssmnet.handoff.weights import local_path
    from zssmnet.storage import open_storage

    folder = dataset_folder(local_path(options.output), config)
    images, masks, lesions = map(open_storage, (options.images_path, options.zonal_mask_path, options.lesion_path))
    with counter("cases") as advance:
        done = write_nnunet_dataset(images, masks, lesions, folder, config, lambda case_id: advance())
    say(*(f"left out: {fault}" for fault in done.left_out))
    say(
        f"{len(done.cases)} cases, {done.with_lesion} with a lesion, {len(done.left_out)} left out: {done.folder}",
        f"after planning, copy {done.folder / 'splits_final.json'} to nnUNet_preprocessed/{done.folder.name}",
    )


def export(options: argparse.Namespace) -> None:
    """Write weights for nnU-Net."""
    config = validated(ExportConfig, with_flags(ExportConfig, {}, options))
    from zssmnet.handoff.export import export_nnunet_v1, export_nnunet_v2

    if config.to == "nnunet-v1":
        report = export_nnunet_v1(options.model, options.output)
        say(f"the published segmentation network will take {len(report.taken)} of its {report.total} tensors, no head")
    else:
        report = export_nnunet_v2(options.model, options.output, config.classes)
    say(str(report), options.output)


def package(options: argparse.Namespace) -> None:
    """Write weights as a package with a model card."""
    config = validated(PackageConfig, with_flags(PackageConfig, {}, options))
    from zssmnet.handoff.package import CARD, write_package

    folder = write_package(options.model, options.output, config)
    say(f"{folder}: read {Path(folder) / CARD}, and fill in the licence before you publish it")
