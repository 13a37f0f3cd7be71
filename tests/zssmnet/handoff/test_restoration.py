"""The network that restores, from a published file."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.zssmnet.training.examples import small_config, write_cubes
from zssmnet.config import NetworkConfig, PretrainConfig, ZoneTaskConfig
from zssmnet.errors import CheckpointError
from zssmnet.handoff.export import export_nnunet_v2
from zssmnet.handoff.load import load_pretrained, load_restoration
from zssmnet.handoff.weights import HEADS
from zssmnet.probe.arms import read_arm
from zssmnet.registry.runs import train_and_publish
from zssmnet.registry.versions import MODEL
from zssmnet.storage import LocalStorage
from zssmnet.training.loss import restoring_network
from zssmnet.training.tensor_files import save_tensors

INPUT = torch.rand(1, 6, 4, 16, 16, generator=torch.Generator().manual_seed(0))


def write(folder: Path, network: NetworkConfig, change: Any = lambda weights: None) -> tuple[Path, torch.Tensor]:
    """A file of weights, and what its network predicts."""
    model = restoring_network(network, seed=1)
    weights = model.state_dict()
    change(weights)
    save_tensors({"state_dict": weights}, folder / "a.model")
    with torch.no_grad():
        return folder / "a.model", model.eval()(INPUT)


@pytest.mark.parametrize("merge", ["sub", "cat"])
@pytest.mark.parametrize("kind", [str, Path])
def test_predicts_what_was_saved(tmp_path: Path, merge: Any, kind: type) -> None:
    file, expected = write(tmp_path, NetworkConfig(channels=(2, 3, 4, 5, 6), merge=merge))
    before = torch.get_rng_state()
    network = load_restoration(kind(file))
    assert torch.equal(torch.get_rng_state(), before)
    assert not network.training
    assert (network.channels, network.merge) == ((2, 3, 4, 5, 6), merge)
    with torch.no_grad():
        assert torch.equal(network(INPUT), expected)


def test_of_sum_and_sub_the_record_decides(tmp_path: Path) -> None:
    config = PretrainConfig(
        network=NetworkConfig(channels=(2, 2, 2, 2, 2), merge="sum"),
        corruption=small_config().corruption,
        training=small_config(epochs=1).training,
    )
    train_and_publish(write_cubes(tmp_path / "cubes"), LocalStorage(tmp_path / "weights"), config)
    assert load_restoration(tmp_path / "weights" / MODEL).merge == "sum"


def spoil(weights: dict[str, torch.Tensor]) -> None:
    weights["outputs.3.weight"].fill_(torch.nan)


def take_heads(weights: dict[str, torch.Tensor]) -> None:
    for name in [name for name in weights if name.startswith("outputs.")]:
        del weights[name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            spoil,
            r"a\.model: 1 of 343 tensors hold NaN or infinity \(outputs\.3\.weight\): .*; take an earlier checkpoint$",
        ),
        (take_heads, r"a\.model: does not fit: .*outputs.*; name a \.model file that pre-training wrote$"),
    ],
)
def test_weights_that_cannot_restore_are_one_line(tmp_path: Path, change: Any, message: str) -> None:
    file, _ = write(tmp_path, NetworkConfig(channels=(2, 2, 2, 2, 2)), change)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_restoration(file)
    assert "\n" not in str(caught.value)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        load_restoration(tmp_path / "a.model")


def test_weights_of_the_co_task_load_as_others_do(tmp_path: Path) -> None:
    small = small_config(epochs=1)
    corruption = small.corruption.model_copy(update={"zone_task": ZoneTaskConfig(share=0.5)})
    config = small.model_copy(update={"corruption": corruption})
    train_and_publish(write_cubes(tmp_path / "cubes"), LocalStorage(tmp_path / "weights"), config)
    file = tmp_path / "weights" / MODEL
    with torch.no_grad():
        assert load_restoration(file)(INPUT).shape[1] == 6
    plain = dict(restoring_network(small.network).state_dict())
    segmenting = load_pretrained(file, num_classes=2)
    export_nnunet_v2(file, tmp_path / "a.pth")
    exported = torch.load(tmp_path / "a.pth", weights_only=True)["network_weights"]
    body = [name for name in plain if not name.startswith(HEADS)]
    for tensors in (segmenting.state_dict(), exported):
        assert [tensors[name].shape for name in body] == [plain[name].shape for name in body]
    assert read_arm(str(file), force=True)
