"""The commands, one function each: settings, the stage, and a few result lines."""

import argparse
from collections import Counter
from pkgutil import resolve_name
from typing import Any

from pydantic import BaseModel

from flows.console import shown_progress
from flows.exit_handling import say
from flows.settings import config_of, retraining_of, settings_of
from zssmnet.config import (
    ArchiveConfig,
    DemoConfig,
    GivenMasksConfig,
    LabelledConfig,
    MaskedArchiveConfig,
    ProbeConfig,
    SegmentConfig,
    StrictConfig,
    ZonesConfig,
)
from zssmnet.errors import CheckpointError, VerificationError
from zssmnet.runner import PlainRunner
from zssmnet.storage import Storage, open_storage
from zssmnet.storage.address import S3, local_path
from zssmnet.storage.environment import variable
from zssmnet.storage.keys import printable
from zssmnet.storage.layout import Layout


def prepare(options: argparse.Namespace) -> None:
    """Prepare an archive."""
    config = settings_of(options, "preparation").preparation
    archive = _fields(options, ArchiveConfig, StrictConfig)
    done = _run(options, **archive, output_path=options.output_path, config=config)
    say(f"{done.prepared} cases prepared, {done.others}: {done.data_path}")


def cubes(options: argparse.Namespace) -> None:
    """Cut cubes."""
    subsets = None if options.fold is None else [options.fold]
    folders = {"data_path": options.data, "output_path": options.save}
    done = _run(options, **folders, subsets=subsets, config=settings_of(options, "cubes").cubes)
    say(f"{done.cubes} cubes in {len(done.subsets)} subsets: {done.cubes_path}")


def pretrain(options: argparse.Namespace) -> None:
    """Pre-train."""
    folders = {"cubes_path": options.data, "output_path": options.output}
    done = _run(options, **folders, config=settings_of(options, "pretraining").pretraining)
    best = f"best epoch {done.best_epoch} of {len(done.history)}, validation loss {done.best_validation_loss:.5f}"
    say(f"{best}: {done.model}")


def run(options: argparse.Namespace) -> None:
    """All stages."""
    settings = dict(settings_of(options))
    archive = _fields(options, MaskedArchiveConfig, StrictConfig)
    done = _run(options, **archive, root=options.output, **settings)
    say(*done.lines())


def retrain(options: argparse.Namespace) -> None:
    """Retrain where there are enough new cases."""
    settings, cubes, retraining = retraining_of(options)
    config = {"preparation": settings.preparation, "cubes": cubes, **dict(retraining)}
    done = _run(options, **_fields(options, MaskedArchiveConfig), root=options.output, **config)
    say(f"{done.new} new, {done.changed} changed, {done.gone} gone cases: {done.decision}")


def verify(options: argparse.Namespace) -> None:
    """Check a working root against its records; VerificationError if they do not agree."""
    from zssmnet.storage.verification import verify_root

    findings = verify_root(options.output)
    for finding in findings:
        say(f"{finding.kind:10} {printable(finding.file)}")
    if findings:
        kinds = Counter(finding.kind for finding in findings)
        found = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        raise VerificationError(
            f"{options.output}: {found}; remove what is changed or foreign; 'zssmnet run' recreates what is "
            "missing or outdated"
        )
    say(f"{options.output}: every file matches its record")


def versions(options: argparse.Namespace) -> None:
    """List the published models (CheckpointError: none); losses on the same validation cubes can be compared."""
    from zssmnet.data.splits import VALIDATION_SUBSET
    from zssmnet.probe.note import notes_of
    from zssmnet.registry.versions import list_versions, stable_model, version_key

    weights = _weights(options)
    stable, published = stable_model(weights), list_versions(weights)
    if not published:
        raise CheckpointError(f"{weights.uri}: no published model there; give the working root of 'zssmnet run'")
    for model in published:
        mark = "*" if stable and stable.run_id == model.run_id else " "
        entry = weights.stat(version_key(model.run_id))
        written = f"{entry.modified.astimezone():%Y-%m-%d %H:%M}" if entry else "being written"
        cubes = model.inputs[VALIDATION_SUBSET].sha256[:8]
        say(
            f"{mark} {model.run_id}  {written}  validation loss {model.best_validation_loss:.5f} on cubes {cubes}"
            f"  {len(model.data)} cases"
            + (f"  replaces {model.replaces}" if model.replaces else "")
            + "".join(f"  probe, {note.task}: {note.verdict}" for note in notes_of(weights, model.run_id))
        )


def rollback(options: argparse.Namespace) -> None:
    """Publish an earlier model again; CheckpointError if there is no such version, or none to go back to."""
    from zssmnet.registry.versions import MODEL, roll_back

    weights = _weights(options)
    model = roll_back(weights, options.to, options.comment)
    if _as_flow(options):
        from tasks.announcement import announce
        from tasks.models_page import publish_models_page

        announce(weights, "rollback")
        publish_models_page(weights)
    say(f"{weights.where(MODEL)} is version {model.run_id} again, validation loss {model.best_validation_loss:.5f}")


def clean(options: argparse.Namespace) -> None:
    """Show what of the weights' folder is no longer needed, and remove it where that is wanted."""
    from zssmnet.registry.clean import removable, remove

    weights = _weights(options)
    items = [one for one in removable(weights) if options.unpublished or one.kind != "unpublished"]
    if not items:
        say(f"{weights.uri}: nothing to remove")
        return
    what = {
        "published": "checkpoints and logs of a published model",
        "unpublished": "checkpoints and logs of a run that has published no model",
        "version": "an old version",
    }
    say(*(f"{one.size / 1e6:10,.1f} MB  {printable(one.folder)}  {what[one.kind]}" for one in items))
    removed = remove(weights, items) if options.yes else []
    megabytes = sum(one.size for one in removed or items) / 1e6
    if options.yes:
        folders = "1 folder is" if len(removed) == 1 else f"{len(removed)} folders are"
        say(f"{weights.uri}: {folders} removed, {megabytes:,.1f} MB")
    else:
        say(f"{weights.uri}: nothing is removed: give --yes to remove {len(items)} folders, {megabytes:,.1f} MB")


def probe(options: argparse.Namespace) -> None:
    """Ask whether weights help."""
    config = config_of(ProbeConfig, options)
    for one in ",".join([*options.weights, options.positive_control or ""]).split(","):
        if one and not one.startswith(S3) and not local_path(one).exists():  # known before PyTorch is imported
            raise CheckpointError(f"{one}: no such file; name the .model file that pre-training wrote")
    names = "images_path", "zonal_mask_path", "labels_path", "weights", "positive_control", "patient_pattern"
    done = _run(options, **_given(options, *names), output_path=options.output, config=config)
    say(*done.sentences, f"figures: {done.result}", f"table:   {done.table}", f"picture: {done.picture}")


def train_zones(options: argparse.Namespace) -> None:
    """Train networks that make zonal masks."""
    config = config_of(ZonesConfig, options)
    inputs = _given(options, "images_path", "zonal_mask_path") | _fields(options, LabelledConfig)
    done = _run(options, **inputs, root=options.output, config=config)
    say(done.sentence, f"networks: {done.model}", f"page:     {done.page}")


def segment_zones(options: argparse.Namespace) -> None:
    """Make zonal masks."""
    config = config_of(SegmentConfig, options)
    inputs = _given(options, "model", "images_path") | _fields(options, GivenMasksConfig)
    done = _run(options, **inputs, output_path=options.output, config=config)
    say(f"{done.sentence}: {done.masks_path}", f"page: {done.page}")


def demo(options: argparse.Namespace) -> None:
    """Synthetic examinations through all stages."""
    from zssmnet.phantom import evenly_split_cases
    from zssmnet.stages.demo import demo_run

    wanted = config_of(DemoConfig, options)
    cases, root = evenly_split_cases(wanted.cases), local_path(options.output)
    done = _run(options, **demo_run(root, cases, wanted.epochs, wanted.seed))
    say(f"{len(cases)} synthetic examinations, made in {root / 'archive'}, through all stages:")
    say(*done.lines())


def _weights(options: argparse.Namespace) -> Storage:
    return open_storage(Layout(options.output).weights)


def _given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    return {name: getattr(options, name) for name in names}


def _fields(options: argparse.Namespace, *configs: type[BaseModel]) -> dict[str, Any]:
    """The values of configurations whose fields are arguments of their own."""
    return {name: value for one in configs for name, value in config_of(one, options).model_dump().items()}


def _run(options: argparse.Namespace, **arguments: Any) -> Any:
    """Run a stage with progress bars or log lines, or as a flow where a Prefect server is named or asked for."""
    plain, flow = options.stage
    if _as_flow(options):
        from flows.on_server import run_flow

        return run_flow(resolve_name(f"flows.of_stages:{flow}"), arguments)
    arguments.pop("cases_per_task", None)
    with shown_progress(options.verbose) as progress:
        return resolve_name(f"zssmnet.stages.{plain}")(**arguments, runner=PlainRunner(progress))


def _as_flow(options: argparse.Namespace) -> bool:
    return bool(getattr(options, "prefect", False) or variable("PREFECT_API_URL"))
