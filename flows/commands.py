"""What each command does: settings, the flow, and a few words at the end. Each function is a command."""

import argparse
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows.console import Bars
from flows.embedded import start_server
from flows.settings import settings_of
from zssmnet.data.archive import PICAI_PATIENT
from zssmnet.errors import CheckpointError, VerificationError
from zssmnet.storage import check_address
from zssmnet.storage.keys import printable


def check_addresses(options: argparse.Namespace) -> None:
    """See to it that no address has a password in it, before Prefect notes it as a parameter of a run.

    Raises:
        InputError: one has.
    """
    for value in vars(options).values():
        if isinstance(value, str):
            check_address(value)


@contextmanager
def torchrun_part() -> Iterator[bool]:
    """Whether this process only follows: of those that torchrun has started, the first does the command.

    Raises:
        ZssmnetError: following cannot go on.
    """
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield False  # and PyTorch need not be imported for that
        return
    from zssmnet.training.follower import follow
    from zssmnet.training.followers import leading_torchrun
    from zssmnet.training.team import torchrun_meeting

    if int(os.environ["RANK"]):
        follow(torchrun_meeting())
        yield True
        return
    with leading_torchrun():
        yield False


def prepare(options: argparse.Namespace) -> None:
    """Prepare an archive."""
    settings = settings_of(options)
    with _progress(options) as ready:
        from flows.prepare_data import prepare_data

        ready()
        done = prepare_data(**_archive(options), output_path=options.output_path, config=settings.preparation)
    print(f"{done.prepared} cases prepared, {done.up_to_date} up to date, {done.left_out} left out: {done.data_path}")


def cubes(options: argparse.Namespace) -> None:
    """Cut cubes."""
    settings = settings_of(options)
    with _progress(options) as ready:
        from flows.generate_cubes import generate_cubes

        ready()
        subsets = None if options.fold is None else [options.fold]
        done = generate_cubes(options.data, options.save, subsets, settings.cubes)
    print(f"{done.cubes} cubes in {len(done.subsets)} subsets: {done.cubes_path}")


def pretrain(options: argparse.Namespace) -> None:
    """Pre-train."""
    settings = settings_of(options)
    with _progress(options) as ready:
        from flows.pretrain import pretrain as flow

        ready()
        done = flow(options.data, options.output, settings.pretraining)
    print(
        f"best epoch {done.best_epoch} of {done.epochs}, validation loss {done.best_validation_loss:.5f}: {done.model}"
    )


def run(options: argparse.Namespace) -> None:
    """All stages."""
    settings = settings_of(options)
    with _progress(options) as ready:
        from flows.pipeline import ssl_pretraining, summary_lines

        ready()
        done = ssl_pretraining(
            **_archive(options),
            root=options.output,
            preparation=settings.preparation,
            cubes=settings.cubes,
            pretraining=settings.pretraining,
        )
    print(*summary_lines(done), sep="\n")


def verify(options: argparse.Namespace) -> None:
    """Check a working root against its records.

    Raises:
        VerificationError: something is missing, changed, unfinished or foreign.
    """
    from zssmnet.storage.verification import verify_root

    findings = verify_root(options.output)
    for finding in findings:
        print(f"{finding.kind:10} {printable(finding.file)}")
    if findings:
        kinds = Counter(finding.kind for finding in findings)
        found = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        raise VerificationError(
            f"{options.output}: {found}; remove what is changed or foreign, and 'zssmnet run' makes anew what is "
            "missing or outdated"
        )
    print(f"{options.output}: every file is as its record tells")


def versions(options: argparse.Namespace) -> None:
    """List the published models.

    Raises:
        CheckpointError: there is none.
    """
    from zssmnet.registry.versions import list_versions, stable_model
    from zssmnet.storage import open_storage
    from zssmnet.storage.layout import Layout

    weights = open_storage(Layout(options.output).weights)
    stable, published = stable_model(weights), list_versions(weights)
    if not published:
        raise CheckpointError(f"{weights.uri}: no model was published there; name the working root of 'zssmnet run'")
    for model in published:
        mark = "*" if stable and stable.run_id == model.run_id else " "
        print(
            f"{mark} {model.run_id}  validation loss {model.best_validation_loss:.5f}  {len(model.data)} cases"
            + (f"  replaces {model.replaces}" if model.replaces else "")
        )


def rollback(options: argparse.Namespace) -> None:
    """Publish an earlier model again.

    Raises:
        CheckpointError: there is no such version, or none to go back to.
    """
    from prefect.settings import PREFECT_API_URL

    from tasks.announcement import announce
    from zssmnet.registry.versions import MODEL, roll_back
    from zssmnet.storage import open_storage
    from zssmnet.storage.layout import Layout

    weights = open_storage(Layout(options.output).weights)
    model = roll_back(weights, options.to)
    if PREFECT_API_URL.value():
        announce(weights, "rollback")
    print(f"{weights.where(MODEL)} is version {model.run_id} again, validation loss {model.best_validation_loss:.5f}")


def demo(options: argparse.Namespace) -> None:
    """Synthetic examinations through all stages."""
    from zssmnet.phantom import evenly_split_cases

    cases = evenly_split_cases(options.cases)
    with _progress(options) as ready:
        from flows.demo import demonstrate
        from flows.pipeline import summary_lines

        ready()
        done = demonstrate(Path(options.output), cases, options.epochs, options.seed)
    print(f"{len(cases)} synthetic examinations, made in {Path(options.output) / 'archive'}, through all stages:")
    print(*summary_lines(done), sep="\n")


def _archive(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "images_path": options.images_path,
        "zonal_mask_path": options.zonal_mask_path,
        "splits_path": options.splits_path,
        "split_mode": options.split_mode,
        "archive_format": options.archive_format,
        "patient_pattern": options.patient_pattern or PICAI_PATIENT,
        "strict": options.strict,
    }


@contextmanager
def _progress(options: argparse.Namespace) -> Iterator[Callable[[], None]]:
    """Progress bars in a terminal, Prefect's log lines elsewhere or where they are asked for.

    Yields:
        What waits for Prefect's server: it gets ready while the flow is imported.
    """
    in_terminal = sys.stderr.isatty() and not options.verbose
    if in_terminal:
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "WARNING")
    if options.command != "pretrain":  # which has no tasks to hand out
        from flows.concurrency import check_choice

        check_choice()
    server = start_server()
    ready = server.wait if server else lambda: None
    if not in_terminal:
        yield ready
        return
    from tasks.progress import shown_on

    logging.captureWarnings(True)
    with Bars() as bars, shown_on(bars):
        yield ready
