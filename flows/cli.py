"""The command line: zssmnet prepare | cubes | pretrain | run | ..., each a function of ``flows.commands``.

Exit status: 0 on success, 1 with one line where the input is at fault, 2 on wrong usage, 130 when interrupted, 143 when
told to end (SIGTERM).
Flags are taken with hyphens and with underscores. Everything slow is imported only when it is needed.
"""

import argparse
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from flows import embedded

EPILOG = """\
Working root: all files of 'run' and 'demo' lie below ROOT/SSL: data (prepared cases), generated_cubes,
pretrained_weights, reports (pictures). What is up to date is not done again; an interrupted run continues.
"""


class Terminated(BaseException):
    """The command is told to end (SIGTERM), as by a shutdown or a container's end."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit."""
    options = _parser().parse_args(arguments)
    try:
        with _termination_raised():
            embedded.set_defaults()
            warnings.filterwarnings("ignore", module="prefect|pydantic")
            status = _run(options)
    except KeyboardInterrupt:
        print("zssmnet: interrupted; the same command continues where it stopped", file=sys.stderr)
        status = 130
    except Terminated:
        print("zssmnet: told to end; the same command continues where it stopped", file=sys.stderr)
        status = 143
    sys.exit(status)


@contextmanager
def _termination_raised() -> Iterator[None]:
    """SIGTERM ends the command as an interrupt does, in order; Prefect hands it on when it has noted the crash."""
    if threading.current_thread() is not threading.main_thread():  # others can take no signals
        yield
        return

    def end(number: int, frame: FrameType | None) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough, and the end takes a moment
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(options: argparse.Namespace) -> int:
    from flows import commands
    from zssmnet.errors import ConfigError, ZssmnetError
    from zssmnet.storage.keys import printable

    try:
        commands.check_addresses(options)
        with commands.torchrun_part() as follows:
            if not follows:
                getattr(commands, options.command)(options)
    except ConfigError as error:
        print(f"zssmnet: error: {printable(str(error))}", file=sys.stderr)
        return 2
    except ZssmnetError as error:
        print(f"zssmnet: error: {printable(str(error))}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="zssmnet",
        description="Self-supervised pre-training of Z-SSMNet, the zonal-aware mesh network for prostate cancer in "
        "bi-parametric MRI: from T2W/ADC/DWI scans and zonal masks to pre-trained weights.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    prepare = _command(commands, "prepare", "resample every case and crop it around the gland")
    _config_option(prepare)
    _archive_options(prepare)
    _option(prepare, "--output_path", metavar="D", required=True, help="folder for the prepared cases (ROOT/SSL/data)")

    cubes = _command(commands, "cubes", "cut random cubes from the prepared cases")
    _config_option(cubes)
    _option(cubes, "--data", metavar="D", required=True, help="folder of the prepared cases (ROOT/SSL/data)")
    _option(cubes, "--save", metavar="D", required=True, help="folder for the cubes (ROOT/SSL/generated_cubes)")
    _option(cubes, "--fold", metavar="K", type=int, choices=range(6), help="only subset K, 0 to 5; default: all six")
    _cubes_options(cubes)
    _option(cubes, "--seed", metavar="N", type=int, help="seed of the cubes' positions (0)")

    pretrain = _command(commands, "pretrain", "train MNet to restore corrupted cubes")
    _config_option(pretrain)
    _option(pretrain, "--data", metavar="D", required=True, help="folder of the cubes (ROOT/SSL/generated_cubes)")
    _option(
        pretrain, "--output", metavar="D", required=True, help="folder for the weights (ROOT/SSL/pretrained_weights)"
    )
    _training_options(pretrain)
    _option(pretrain, "--seed", metavar="N", type=int, help="seed of weights, order and corruption (0)")

    run = _command(commands, "run", "all stages as one flow: from an archive to weights")
    _config_option(run)
    _archive_options(run)
    _option(run, "--output", metavar="ROOT", required=True, help="working root; everything goes to ROOT/SSL")
    _cubes_options(run)
    _training_options(run)
    _option(run, "--seed", metavar="N", type=int, help="seed of everything (0)")

    verify = _command(commands, "verify", "check a working root against its records")
    _option(verify, "--output", metavar="ROOT", required=True, help="working root of 'run' or 'demo'")

    versions = _command(commands, "versions", "list the models that were published, the stable one marked")
    _option(versions, "--output", metavar="ROOT", required=True, help="working root of 'run'")

    rollback = _command(commands, "rollback", "make an earlier model the published one again")
    _option(rollback, "--output", metavar="ROOT", required=True, help="working root of 'run'")
    _option(
        rollback,
        "--to",
        metavar="ID",
        help="version, as 'versions' lists them; default: the one before the present one",
    )

    demo = _command(commands, "demo", "synthetic examinations through all stages, with a small MNet, on the CPU")
    _option(demo, "--output", metavar="ROOT", default="demo", help="working root (demo)")
    _option(demo, "--cases", metavar="N", type=int, default=12, help="synthetic examinations, at least 6 (12)")
    _option(demo, "--epochs", metavar="N", type=int, default=8, help="epochs (8)")
    _option(demo, "--seed", metavar="N", type=int, default=0, help="seed of everything (0)")
    return parser


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, help: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
    command.set_defaults(command=name)
    command.add_argument("-v", "--verbose", action="store_true", help="log lines instead of progress bars")
    return command


def _option(parser: argparse.ArgumentParser, name: str, **settings: object) -> None:
    """A flag with hyphens, and with underscores as the published documentation writes it."""
    if settings.get("metavar") in ("D", "F", "ROOT"):
        settings["type"] = _address
    spellings = dict.fromkeys([name.replace("_", "-").replace("---", "--"), name])
    parser.add_argument(*spellings, **settings)  # type: ignore[arg-type]


def _archive_options(parser: argparse.ArgumentParser) -> None:
    _option(parser, "--images_path", metavar="D", required=True, help="nnU-Net raw archive, or PI-CAI's MHA archive")
    _option(parser, "--zonal_mask_path", metavar="D", required=True, help="folder of zonal masks, <case>.nii.gz")
    _option(parser, "--splits_path", metavar="F", help="splits.json with five folds; default: subsets by patient hash")
    _option(
        parser,
        "--split_mode",
        choices=["reference", "stable"],
        help="how cases are split; default: reference with a splits.json, else stable",
    )
    _option(
        parser, "--archive_format", choices=["nnunet", "picai"], help="kind of archive; default: recognised by itself"
    )
    _option(
        parser,
        "--patient_pattern",
        metavar="RE",
        help="regular expression whose group 'patient' names a case's patient; default: <patient>_<study> in digits",
    )
    _option(parser, "--strict", action="store_true", help="stop if any case cannot be used, instead of leaving it out")


def _cubes_options(parser: argparse.ArgumentParser) -> None:
    _option(parser, "--scale", metavar="N", type=int, help="cubes of each case (12)")
    _option(parser, "--dtype", choices=["float16", "float32", "float64"], help="number type of the cubes (float16)")


def _training_options(parser: argparse.ArgumentParser) -> None:
    _option(parser, "--epochs", metavar="N", type=int, help="most epochs (1000)")
    _option(parser, "--patience", metavar="N", type=int, help="epochs without a better validation loss to stop (20)")
    _option(parser, "--batch_size", metavar="N", type=int, help="cubes in a batch (24)")
    _option(parser, "--learning_rate", metavar="X", type=float, help="initial learning rate (0.1)")
    _option(parser, "--channels", metavar="A,B,C,D,E", type=_integers, help="kernels of the levels (32,48,64,80,96)")
    _option(parser, "--merge", choices=["sub", "sum", "cat"], help="how 2D and 3D features are merged (sub)")
    _option(parser, "--recipe", choices=["reference", "per-channel"], help="how cubes are corrupted (reference)")
    _option(parser, "--device", choices=["auto", "cpu", "cuda"], help="where to train (auto)")
    _option(parser, "--processes", metavar="N", type=int, help="processes that share each batch (0: one a GPU)")
    _option(
        parser,
        "--precision",
        choices=["auto", "float32", "bfloat16"],
        help="of convolutions (auto: bfloat16 on GPUs that compute in it)",
    )
    _option(
        parser,
        "--compile",
        choices=["off", "cudagraphs", "default", "reduce-overhead", "max-autotune"],
        help="mode of torch.compile (off)",
    )


def _config_option(parser: argparse.ArgumentParser) -> None:
    _option(parser, "--config", metavar="F", help="TOML file of all settings; flags take precedence")


def _address(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("an empty address; name a local folder or file, or s3://bucket/prefix")
    return text


def _integers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers like 32,48,64,80,96") from None


if __name__ == "__main__":
    main()
