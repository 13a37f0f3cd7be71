"""Reading writes nothing, also where a root was copied, so that no file has its recorded version."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.model_record import model_record
from tests.zssmnet.interruption import traces
from tests.zssmnet.registry.test_provenance import PREPARATION, Pipeline, made
from zssmnet.handoff.load import load_pretrained
from zssmnet.mnet import MNet
from zssmnet.registry.changes import find_changes
from zssmnet.registry.lineage import training_inputs
from zssmnet.registry.versions import MODEL, checked_model, list_versions, publish, stable_model
from zssmnet.storage.verification import verify_stage

CHANNELS = (1, 1, 1, 1, 1)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A folder with all stages; its model can be loaded."""
    folder = tmp_path_factory.mktemp("original")
    pipeline = made(folder, str(folder / "root"))
    torch.save({"state_dict": MNet(6, 3, CHANNELS).state_dict()}, folder / "model")
    publish(pipeline.weights, model_record("second", training_inputs(pipeline.cubes).data), folder / "model")
    return pipeline


def changes(copy: Pipeline) -> list[str]:
    case, archive = copy.archive.case("a"), copy.archive
    found = find_changes([case], {"a": 0}, archive.images, archive.masks, copy.data, copy.weights, PREPARATION)
    return [record.case_id for record in found.up_to_date]


READERS: dict[str, tuple[Callable[[Pipeline], object], object]] = {
    "stable_model": (lambda copy: stable_model(copy.weights).run_id, "second"),
    "list_versions": (lambda copy: [record.run_id for record in list_versions(copy.weights)], ["first", "second"]),
    "checked_model": (lambda copy: checked_model(copy.weights, stable_model(copy.weights)).name, MODEL),
    "take_stock": (lambda copy: len(training_inputs(copy.cubes).data), 6),
    "find_changes": (changes, ["a"]),
    "load_pretrained": (
        lambda copy: load_pretrained(copy.weights.local(MODEL), num_classes=2).channels,
        CHANNELS,
    ),
    "verify": (lambda copy: [verify_stage(stage) for stage in (copy.cubes, copy.reports, copy.weights)], [[], [], []]),
}


@pytest.mark.parametrize("name", READERS)
def test_reading_a_copied_root_changes_no_file(name: str, original: Pipeline, tmp_path: Path) -> None:
    root = shutil.copytree(Path(original.data.uri).parent, tmp_path / "root", copy_function=shutil.copyfile)
    read, expected = READERS[name]
    before, contents = traces(root), {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert read(Pipeline(original.archive, str(root))) == expected
    assert traces(root) == before
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == contents
