"""Weights in S3 compete as those on a disk do, and get their verdict beside their version."""

import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.zssmnet.handoff.conftest import with_record
from tests.zssmnet.probe.examples import as_read, made_cases, save_weights, small_probe
from tests.zssmnet.training.examples import small_config, write_cubes
from zssmnet.config import NetworkConfig
from zssmnet.errors import CheckpointError, ConfigError, StorageError
from zssmnet.handoff.weights import read_weights
from zssmnet.mnet import MNet
from zssmnet.probe.arms import POSITIVE, read_arm, scaling_of
from zssmnet.probe.note import note_verdict, notes_of
from zssmnet.probe.run import check_arms, compare_arms
from zssmnet.registry.runs import train_and_publish
from zssmnet.registry.versions import MODEL, version_key
from zssmnet.storage import LocalStorage, open_storage
from zssmnet.storage.records import publish_record


def weights_with(folder: Path, **recorded: Any) -> Path:
    """A file of weights with a record that has these values."""
    file = folder / MODEL
    folder.mkdir(exist_ok=True)
    torch.save({"state_dict": MNet(6, 3, (2, 3, 4, 5, 6)).state_dict()}, file)
    with_record(file)
    record = read_weights(file).record
    assert record
    publish_record(LocalStorage(folder), MODEL, record.model_copy(update=recorded))
    return file


def test_weights_in_s3_are_read_with_their_record_and_get_their_verdict(s3_root: str, tmp_path: Path) -> None:
    folder = open_storage(f"{s3_root}/weights")
    config = small_config(epochs=1).model_copy(update={"network": NetworkConfig(channels=(2, 2, 2, 2, 2), merge="sum")})
    made, _ = train_and_publish(write_cubes(tmp_path / "cubes"), folder, config)
    address = folder.where(MODEL)
    with pytest.raises(CheckpointError, match=rf"{address}: its explained variance is -.*--force"):
        read_arm(address)
    one = read_arm(address, force=True)
    assert one.records == [made] and one.weights[0].merge == "sum"
    assert one.name == f"{made.parameters.corruption.recipe} {made.run_id}"
    settings = small_probe(labelled=2, steps=1)
    result = compare_arms(as_read(made_cases(20)), [one], LocalStorage(tmp_path / "out"), settings)
    assert result.network.merge == "sum"
    for where in (address, folder.where(version_key(made.run_id))):
        assert note_verdict(where, result.verdicts[0], result)
    assert [note.verdict for note in notes_of(folder, made.run_id)] == [result.verdicts[0].verdict]
    with pytest.raises(StorageError, match=r"none\.model: no such file"):
        read_arm(f"{s3_root}/weights/none.model")


def test_other_weights_under_the_name_of_a_published_model_do_not_have_its_record(tmp_path: Path) -> None:
    folder = LocalStorage(tmp_path / "weights")
    config = small_config(epochs=1).model_copy(update={"network": NetworkConfig(channels=(2, 2, 2, 2, 2))})
    train_and_publish(write_cubes(tmp_path / "cubes"), folder, config)
    save_weights(folder.folder / MODEL)
    assert read_arm(folder.where(MODEL)).records == []


@pytest.mark.parametrize(("explained", "is_refused"), [(0.0, True), (0.01, False)])
def test_weights_that_explain_nothing_are_refused(tmp_path: Path, explained: float, is_refused: bool) -> None:
    file = weights_with(tmp_path, metrics={"explained_variance": explained})
    assert len(read_arm(file, force=True).records) == 1
    with pytest.raises(CheckpointError, match="--force") if is_refused else nullcontext():
        read_arm(file)


def test_an_arm_without_a_file_is_an_error() -> None:
    with pytest.raises(ConfigError, match="name no file"):
        read_arm(",")


@pytest.mark.parametrize(
    ("spacing_mm", "preset"), [((0.5, 0.5, 3.0), "gpu"), ((2.6667, 2.6667, 4.0), "coarse"), ((0.7, 0.7, 3.0), None)]
)
def test_the_preset_is_that_of_the_weights_spacing(
    tmp_path: Path, spacing_mm: tuple[float, float, float], preset: str | None
) -> None:
    file = weights_with(tmp_path, spacing_mm=spacing_mm)
    arm, config = read_arm(file, force=True), small_probe(preset=None)
    if preset:
        assert check_arms([arm], config).preset == preset
        assert check_arms([arm], small_probe(preset="cpu")).preset == "cpu"
    else:
        with pytest.raises(ConfigError, match=r"trained at \(0\.7, 0\.7, 3\.0\) mm, which no preset has.*--preset"):
            check_arms([arm], config)


def test_weights_of_several_spacings_are_not_probed_at_the_first_one_s(tmp_path: Path) -> None:
    arms = []
    for number, spacing_mm in enumerate(((0.5, 0.5, 3.0), (1.0, 1.0, 3.0), None)):
        file = weights_with(tmp_path / str(number), spacing_mm=spacing_mm)
        arms.append(replace(read_arm(file, force=True), name=str(number)))
    for other in arms[1:]:
        with pytest.raises(ConfigError, match=rf"several spacings .*{other.name}/{MODEL} at .* and .*0/{MODEL} at"):
            check_arms([arms[0], other], small_probe(preset=None))
    assert check_arms(arms, small_probe(preset="cpu")).preset == "cpu"
    assert check_arms([arms[0], replace(arms[1], name=POSITIVE)], small_probe(preset=None)).preset == "gpu"


def test_a_training_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    for name in "abc":
        torch.save({"state_dict": MNet(6, 3, (2, 3, 4, 5, 6)).state_dict()}, tmp_path / f"{name}.model")
    a, b, c = (tmp_path / f"{name}.model" for name in "abc")
    shutil.copy(a, tmp_path / "copy.model")
    config = small_probe(seeds=3)
    assert check_arms([read_arm(f"{a},{b},{c}")], config).seeds == 3
    for arms in ([f"{a},{b},{tmp_path / 'copy.model'}"], [f"{a},{a},{a}"], [a, tmp_path / "copy.model"]):
        with pytest.raises(ConfigError, match=r"\.model: is named twice, or a copy of another one"):
            check_arms([read_arm(one) for one in arms], config)


def test_cases_are_scaled_as_for_the_weights_and_not_in_two_ways(tmp_path: Path) -> None:
    arms = []
    for scaling in ("percentile", "maximum"):
        file = weights_with(tmp_path / scaling, intensity_scaling=scaling)
        arms.append(read_arm(file, force=True))
        assert scaling_of(arms[-1:]) == scaling
    with pytest.raises(CheckpointError, match=rf"several scalings .*{MODEL}: percentile.*{MODEL}: maximum.*probe them"):
        scaling_of(arms)
