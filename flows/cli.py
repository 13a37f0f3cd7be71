"""The command line: zssmnet prepare | cubes | pretrain | run | ..., each a function of ``flows.commands``.

Exit status: 0 on success, 1 with one line where the input or the environment is at fault, 2 on wrong usage, 130 when
interrupted, 143 on SIGTERM. Flags are taken with hyphens and with underscores; those of settings come from the fields
of ``zssmnet.config``. Everything slow is imported only when it is needed, pydantic too: only the command that was given
gets its flags.
"""

import argparse
import atexit
import gc
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from flows.exit_handling import run_to_its_end

if TYPE_CHECKING:
    from pydantic import BaseModel

EPILOG = """\
Working root: all files of 'run' and 'demo' lie below ROOT/SSL: data (prepared cases), generated_cubes,
pretrained_weights, reports (pictures). What is up to date is skipped; an interrupted run continues.

example:
  zssmnet demo --output demo
"""
_ROOT = {"output": ("ROOT", "working root; everything is below ROOT/SSL")}
_MODEL = ("F", "local .model or .pth file, or a package's folder")
_ARCHIVE = "--images_path archive/images --zonal_mask_path archive/masks"


class Command(NamedTuple):
    """A command of the command line.

    Attributes:
        help: what it does, in one phrase.
        example: its flags in an example.
        addresses: flags that must be given, with metavar and help; several spellings are divided by a bar.
        settings: configurations of ``zssmnet.config`` whose fields are flags; if any is of `Settings`, there is
            ``--config`` as well.
        is_stage: whether it runs as a flow on a Prefect server as well.
        trains: whether torchrun may start it as several processes.
    """

    help: str
    example: str
    addresses: dict[str, tuple[str, str]]
    settings: tuple[str, ...] = ()
    is_stage: bool = False
    trains: bool = False


ENVIRONMENT = {
    # How long PyTorch's threads spin when they wait for each other. With GNU OpenMP's own choice, training on a CPU
    # becomes six times slower as soon as one other program runs beside it; with this, twice.
    "GOMP_SPINCOUNT": "10000",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "600",  # the first start makes the database: slow machines
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PYTHONSAFEPATH": "1",  # no process that a command starts has the current folder on its module path
}
"""Settings of PyTorch and Prefect where the user has not chosen otherwise; before these are imported."""

COMMANDS = {
    "prepare": Command(
        "resample every case and crop it around the gland",
        f"{_ARCHIVE} --output_path root/SSL/data",
        {"output_path|output": ("D", "folder for the prepared cases (ROOT/SSL/data)")},
        ("ArchiveConfig", "StrictConfig"),
        is_stage=True,
    ),
    "cubes": Command(
        "cut random cubes from the prepared cases",
        "--scale 12 --data root/SSL/data --save root/SSL/generated_cubes",
        {
            "data": ("D", "folder of the prepared cases (ROOT/SSL/data)"),
            "save": ("D", "folder for the cubes (ROOT/SSL/generated_cubes)"),
        },
        ("CubesConfig",),
        is_stage=True,
    ),
    "pretrain": Command(
        "train MNet to restore corrupted cubes",
        "--data root/SSL/generated_cubes --output root/SSL/pretrained_weights --epochs 100",
        {
            "data": ("D", "folder of the cubes (ROOT/SSL/generated_cubes)"),
            "output": ("D", "folder for the weights (ROOT/SSL/pretrained_weights)"),
        },
        ("PretrainConfig",),
        is_stage=True,
        trains=True,
    ),
    "run": Command(
        "run all stages, from an archive to weights",
        f"{_ARCHIVE} --output root",
        _ROOT,
        ("MaskedArchiveConfig", "StrictConfig", "CubesConfig", "PretrainConfig"),
        is_stage=True,
        trains=True,
    ),
    "retrain": Command(
        "continue training with new cases and publish the model if it is better",
        f"{_ARCHIVE} --output root --min_new_cases 10",
        _ROOT,
        ("MaskedArchiveConfig", "RetrainingConfig"),
        is_stage=True,
        trains=True,
    ),
    "train-zones": Command(
        "train networks that make zonal masks, on the cases that have one",
        f"{_ARCHIVE} --output root",
        {
            "images_path": ("D", "folder or s3://bucket/prefix of the images"),
            "zonal_mask_path": ("D", "folder or s3://bucket/prefix of zonal masks of some or all cases, CASE.nii.gz"),
            "output": ("ROOT", "working root; the networks go to ROOT/SSL/zones_model"),
        },
        ("ZonesConfig", "LabelledConfig"),
        is_stage=True,
    ),
    "segment-zones": Command(
        "make zonal masks for the cases of an archive that have none",
        "--model root --images_path archive/images --output masks",
        {
            "model": ("F", "root of 'train-zones', or its zones.model"),
            "images_path": ("D", "folder or s3://bucket/prefix of the images"),
            "output": ("D", "folder for the masks; those that need a look go to doubtful/ in it"),
        },
        ("SegmentConfig", "GivenMasksConfig"),
        is_stage=True,
    ),
    "import-dicom": Command(
        "convert a tree of DICOM files into a de-identified archive in PI-CAI's layout",
        "--dicom_path export --output archive --key_file import.key",
        {"output": ("D", "folder for the archive; its choices.csv lists why each series was taken or not")},
        ("DicomConfig",),
    ),
    "check-masks": Command(
        "check zonal masks for anatomical plausibility and draw them on one page",
        "--zonal_mask_path masks --images_path archive --output masks_page",
        {"output": ("D", "folder for the page, masks.html")},
        ("MaskChecksConfig",),
    ),
    "upload": Command(
        "copy a folder to S3, where the service reads it; creates the bucket if missing",
        "--source archive --output s3://archive",
        {
            "source": ("D", "folder, uploaded with its subfolders"),
            "output": ("D", "s3://bucket/prefix, or a folder"),
        },
        ("UploadConfig",),
    ),
    "verify": Command("check a working root against its records", "--output root", _ROOT),
    "versions": Command("list the published models, the stable one marked", "--output root", _ROOT),
    "rollback": Command("make an earlier model the stable one again", "--output root --to 0123456789ab", _ROOT),
    "clean": Command(
        "list checkpoints and old versions that are no longer needed; remove them with --yes", "--output root", _ROOT
    ),
    "nnunet-dataset": Command(
        "write a raw data set for nnU-Net v2 with the six channels of pre-training and csPCa labels",
        f"{_ARCHIVE} --lesion_path archive/cspca --output nnUNet_raw --dataset 501",
        {
            "images_path": ("D", "folder or s3://bucket/prefix of the images"),
            "zonal_mask_path": ("D", "folder or s3://bucket/prefix of zonal masks, CASE.nii.gz"),
            "output": ("D", "nnU-Net's folder of raw data sets (nnUNet_raw)"),
        },
        ("NnunetDatasetConfig",),
    ),
    "evaluate": Command(
        "compute the PI-CAI challenge's figures of predictions of csPCa",
        "--predictions predicted --labels nn/raw/Dataset501_csPCa/labelsTr",
        {
            "predictions": ("D", "folder of CASE.npz, by nnUNetv2_predict --save_probabilities"),
            "labels": ("D", "folder of csPCa labels on the same grids, CASE.nii.gz"),
        },
        ("EvaluationConfig",),
    ),
    "export": Command(
        "export pre-trained weights to a file for nnU-Net",
        "--model root/SSL/pretrained_weights/ssl_mnet_zonal.model --to nnunet-v2 --classes 2 --output mnet.pth",
        {"model": _MODEL, "output": ("F", "file to write")},
        ("ExportConfig",),
    ),
    "package": Command(
        "package pre-trained weights with a model card for publication",
        "--model root/SSL/pretrained_weights/ssl_mnet_zonal.model --output package",
        {"model": _MODEL, "output": ("D", "folder to write")},
        ("PackageConfig",),
    ),
    "probe": Command(
        "measure whether weights help: fine-tune from them and from scratch on a few labelled cases, and compare",
        f"{_ARCHIVE} --labels_path archive/cspca --weights a.model b.model --output probe",
        {
            "images_path": ("D", "folder or s3://bucket/prefix of the images"),
            "zonal_mask_path": ("D", "folder or s3://bucket/prefix of zonal masks, CASE.nii.gz"),
            "output": ("D", "folder for probe.json, table and picture; an interrupted probe continues there"),
        },
        ("ProbeConfig",),
        is_stage=True,
    ),
    "demo": Command(
        "run all stages on synthetic examinations, with a small MNet, on the CPU",
        "--output demo --cases 12",
        {},
        ("DemoConfig",),
        is_stage=True,
        trains=True,
    ),
}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit."""
    sys.exit(run_to_its_end(lambda: _run(arguments)))


def _run(arguments: Sequence[str] | None) -> None:
    options = _parser().parse_args(arguments)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Python searches for garbage when it ends, and frees what PyTorch, ITK and matplotlib own in any order, though the
    # system takes it all back: it costs half a second, and once ended a command with a signal after its work was done.
    atexit.register(gc.freeze)
    from flows import commands

    run: Callable[[argparse.Namespace], None] = getattr(commands, options.command.replace("-", "_"))
    with commands.torchrun_part() if COMMANDS[options.command].trains else nullcontext(False) as is_done:
        if not is_done:
            run(options)


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *more: Any) -> NoReturn:
        from importlib import metadata

        print(f"zssmnet {metadata.version('zssmnet')}")
        parser.exit()


class _CommandParser(argparse.ArgumentParser):
    """The parser of one command; it gets its flags when it is the one that parses."""

    add_flags: Callable[[argparse.ArgumentParser], None]

    def parse_known_args(self, *arguments: Any, **more: Any) -> Any:
        self.add_flags(self)
        return super().parse_known_args(*arguments, **more)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="zssmnet",
        description="Self-supervised pre-training of Z-SSMNet, the zonal-aware mesh network for prostate cancer in "
        "bi-parametric MRI: from T2W/ADC/DWI scans and zonal masks to pre-trained weights.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    parsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_CommandParser)
    for name, command in COMMANDS.items():
        one = parsers.add_parser(
            name,
            help=command.help,
            description=f"{command.help[0].upper()}{command.help[1:]}.",
            epilog=f"example:\n  zssmnet {name} {command.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        one.set_defaults(command=name)
        one.add_flags = partial(_add_flags, name=name, command=command)
    return parser


def _add_flags(parser: argparse.ArgumentParser, name: str, command: Command) -> None:
    from flows.settings import Settings, add_flags, address, addresses, flags_of, spellings
    from zssmnet import config

    parser.add_argument("-v", "--verbose", action="store_true", help="log lines instead of progress bars")
    if command.is_stage:
        parser.add_argument(
            "--prefect",
            action="store_true",
            help="run as a Prefect flow, on a temporary server (default: only where PREFECT_API_URL names a server)",
        )
    for flag, (metavar, help) in command.addresses.items():
        names = [spelling for one in flag.split("|") for spelling in spellings(one)]
        parser.add_argument(
            *names, metavar=metavar, type=address, required=True, dest=flag.partition("|")[0], help=help
        )
    settings: list[type[BaseModel]] = [getattr(config, one) for one in command.settings]
    add_flags(parser, (setting for one in settings for setting in flags_of(one)))
    parts = {field.annotation for field in Settings.model_fields.values()} | {
        config.ArchiveConfig,
        config.MaskedArchiveConfig,
    }
    if parts.intersection(settings):
        parser.add_argument(
            "--config", metavar="F", type=address, help="TOML file of all settings; flags take precedence"
        )
    if name == "cubes":
        parser.add_argument(
            "--fold", metavar="K", type=int, choices=range(6), help="only subset K, 0 to 5 (default: all six)"
        )
    elif name == "rollback":
        parser.add_argument(
            "--to",
            metavar="ID",
            help="version, as 'versions' lists them (default: the one that the stable model replaced)",
        )
        parser.add_argument("--comment", metavar="TEXT", default="", help="why; kept with the record of the rollback")
    elif name == "clean":
        parser.add_argument(
            "--unpublished", action="store_true", help="also checkpoints of trainings without a published model"
        )
        parser.add_argument("--yes", action="store_true", help="remove them (default: only list them)")
    elif name == "probe":
        parser.add_argument(
            *spellings("labels_path"), metavar="D", type=address, help="folder of lesions, CASE.nii.gz on T2W's grid"
        )
        parser.add_argument(
            "--weights",
            metavar="F[,F...]",
            type=addresses,
            nargs="+",
            required=True,
            help="weight files, local or in S3, or packages; comma-separated trainings of one recipe form one arm",
        )
        parser.add_argument(
            *spellings("positive_control"),
            metavar="F[,F...]",
            type=addresses,
            help="weights trained with labels of other cases, one training a seed: without them no verdict counts",
        )
        parser.add_argument(
            *spellings("patient_pattern"),
            metavar="RE",
            default=config.PICAI_PATIENT,
            help="regular expression whose group 'patient' names a case's patient",
        )
    elif name == "demo":
        parser.add_argument(
            "--output", metavar="ROOT", type=address, default="demo", help="working root (default: %(default)s)"
        )


if __name__ == "__main__":
    main()
