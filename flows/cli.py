"""The command line: zssmnet prepare | cubes | pretrain | run | ..., each a function of ``flows.commands``.

Exit status: 0 on success, 1 with one line where the input or the environment is at fault, 2 on wrong usage, 130 when
interrupted, 143 on SIGTERM or SIGHUP. Flags are taken with hyphens and with underscores; those of settings come from
the fields of ``zssmnet.config``. Everything slow is imported only when it is needed, pydantic too: only the command
that was given gets its flags.
"""

import argparse
import atexit
import gc
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple, NoReturn

from flows.exit_handling import run_to_its_end

EPILOG = """\
Working root: all files of 'run' and 'demo' lie below ROOT/SSL: data (prepared cases), generated_cubes,
pretrained_weights, reports (pictures). What is up to date is skipped; an interrupted run continues.

example:
  zssmnet demo --output demo
"""
_ROOT = {"output": ("ROOT", "working root; everything is below ROOT/SSL")}
_MODEL = ("F", ".model or .pth file, or a package's folder, local or in S3")
_IMAGES = {"images_path": ("D", "folder or s3://bucket/prefix of the images")}
_MASKS = {"zonal_mask_path": ("D", "folder or s3://bucket/prefix of zonal masks, CASE.nii.gz")}
_ALL_STAGES = ("pipeline:run_pipeline", "ssl_pretraining")
_ARCHIVE = "--images_path archive/images --zonal_mask_path archive/masks"


class Command(NamedTuple):
    """A command of the command line.

    Attributes:
        help: what it does, in one phrase.
        example: its flags in an example.
        addresses: flags that must be given, with metavar and help; several spellings are divided by a bar.
        settings: configurations of ``zssmnet.config`` whose fields are flags.
        stage: where its stage is as a plain function, in ``zssmnet.stages``, and as a flow, in ``flows.of_stages``;
            both take the same arguments.
        trains: whether torchrun may start it as several processes.
    """

    help: str
    example: str
    addresses: dict[str, tuple[str, str]]
    settings: tuple[str, ...] = ()
    stage: tuple[str, str] | None = None
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
        stage=("prepare:prepare_archive", "prepare_data"),
    ),
    "cubes": Command(
        "cut random cubes from the prepared cases",
        "--scale 12 --data root/SSL/data --save root/SSL/generated_cubes",
        {
            "data": ("D", "folder of the prepared cases (ROOT/SSL/data)"),
            "save": ("D", "folder for the cubes (ROOT/SSL/generated_cubes)"),
        },
        ("CubesConfig",),
        stage=("cubes:generate_cubes", "generate_cubes"),
    ),
    "pretrain": Command(
        "train MNet to restore corrupted cubes",
        "--data root/SSL/generated_cubes --output root/SSL/pretrained_weights --epochs 100",
        {
            "data": ("D", "folder of the cubes (ROOT/SSL/generated_cubes)"),
            "output": ("D", "folder for the weights (ROOT/SSL/pretrained_weights)"),
        },
        ("PretrainConfig",),
        stage=("pretrain:pretrain", "pretrain"),
        trains=True,
    ),
    "run": Command(
        "run all stages, from an archive to weights",
        f"{_ARCHIVE} --output root",
        _ROOT,
        ("MaskedArchiveConfig", "StrictConfig", "CubesConfig", "PretrainConfig"),
        stage=_ALL_STAGES,
        trains=True,
    ),
    "retrain": Command(
        "continue training with new cases, by default with the published model's settings; publish the better model",
        f"{_ARCHIVE} --output root --min_new_cases 10",
        _ROOT,
        ("MaskedArchiveConfig", "RetrainingConfig"),
        stage=("retrain:retrain", "retrain_on_new_data"),
        trains=True,
    ),
    "train-zones": Command(
        "train networks that make zonal masks, on the cases that have one",
        f"{_ARCHIVE} --output root",
        {
            **_IMAGES,
            "zonal_mask_path": ("D", "folder or s3://bucket/prefix of zonal masks of some or all cases, CASE.nii.gz"),
            "output": ("ROOT", "working root; the networks go to ROOT/SSL/zones_model"),
        },
        ("ZonesConfig", "LabelledConfig"),
        stage=("train_zones:train_zones", "train_zones"),
    ),
    "segment-zones": Command(
        "make zonal masks for the cases of an archive that have none",
        "--model root --images_path archive/images --output masks",
        {
            "model": ("F", "root of 'train-zones', or its zones.model"),
            **_IMAGES,
            "output": ("D", "folder for the masks; those that need a look go to doubtful/ in it"),
        },
        ("SegmentConfig", "GivenMasksConfig"),
        stage=("segment_zones:segment_zones", "segment_zones"),
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
            **_IMAGES,
            **_MASKS,
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
            **_IMAGES,
            **_MASKS,
            "output": ("D", "folder for probe.json, table and picture; an interrupted probe continues there"),
        },
        ("ProbeConfig",),
        stage=("probe:probe_weights", "probe"),
    ),
    "demo": Command(
        "run all stages on synthetic examinations, with a small MNet, on the CPU",
        "--output demo --cases 12",
        {},
        ("DemoConfig",),
        stage=_ALL_STAGES,
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
    from flows import commands, local_commands

    name = options.command.replace("-", "_")
    run: Callable[[argparse.Namespace], None] = getattr(commands if hasattr(commands, name) else local_commands, name)
    part: AbstractContextManager[bool] = nullcontext(False)
    if COMMANDS[options.command].trains and os.environ.get("TORCHELASTIC_RUN_ID"):  # only then PyTorch is needed here
        from zssmnet.training.processes import torchrun_command

        part = torchrun_command()
    with part as is_done:
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
        one.set_defaults(command=name, stage=command.stage)
        one.add_flags = partial(_add_flags, name=name, command=command)
    return parser


def _add_flags(parser: argparse.ArgumentParser, name: str, command: Command) -> None:
    from flows.settings import add_flags, address, addresses, spellings
    from zssmnet import config

    add = parser.add_argument
    add("-v", "--verbose", action="store_true", help="log lines instead of progress bars")
    if command.stage:
        server = "on a temporary server (default: only where PREFECT_API_URL names a server)"
        add("--prefect", action="store_true", help=f"run as a Prefect flow, {server}")
    for flag, (metavar, help) in command.addresses.items():
        names = [spelling for one in flag.split("|") for spelling in spellings(one)]
        add(*names, metavar=metavar, type=address, required=True, dest=flag.partition("|")[0], help=help)
    add_flags(parser, [getattr(config, one) for one in command.settings])
    if name in ("prepare", "cubes", "pretrain", "run", "retrain"):
        add("--config", metavar="F", type=address, help="TOML file of all settings; flags take precedence")
    if name == "cubes":
        add("--fold", metavar="K", type=int, choices=range(6), help="only subset K, 0 to 5 (default: all six)")
    elif name == "rollback":
        default = "the one that the stable model replaced"
        add("--to", metavar="ID", help=f"version, as 'versions' lists them (default: {default})")
        add("--comment", metavar="TEXT", default="", help="why; kept with the record of the rollback")
    elif name == "clean":
        add("--unpublished", action="store_true", help="also checkpoints of trainings without a published model")
        add("--yes", action="store_true", help="remove them (default: only list them)")
    elif name == "probe":
        lesions = "folder of lesions, CASE.nii.gz on T2W's grid"
        add(*spellings("labels_path"), metavar="D", type=address, help=lesions)
        weights = "weight files, local or in S3, or packages; comma-separated trainings of one recipe form one arm"
        add("--weights", metavar="F[,F...]", type=addresses, nargs="+", required=True, help=weights)
        control = "weights trained with labels of other cases, one training a seed: without them no verdict counts"
        add(*spellings("positive_control"), metavar="F[,F...]", type=addresses, help=control)
        pattern = "regular expression whose group 'patient' names a case's patient"
        add(*spellings("patient_pattern"), metavar="RE", default=config.PICAI_PATIENT, help=pattern)
    elif name == "demo":
        add("--output", metavar="ROOT", type=address, default="demo", help="working root (default: %(default)s)")


if __name__ == "__main__":
    main()
