"""Our file in the real loader of nnU-Net v1."""

from pathlib import Path

import pytest
import torch

from zssmnet.handoff.export import export_nnunet_v1
from zssmnet.mnet import MNet

from .conftest import CHANNELS


@pytest.mark.parametrize("classes", [2, 3])
def test_it_takes_336_tensors_and_no_head(
    model: Path, pretrained: MNet, tmp_path: Path, classes: int, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = "nnunet is not installed here (pip install --no-deps nnunet==1.7.1)"
    loader = pytest.importorskip("nnunet.run.load_pretrained_weights", reason=reason)
    export_nnunet_v1(model, tmp_path / "v1.model")
    network = MNet(6, classes, CHANNELS)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    capsys.readouterr()
    loader.load_pretrained_weights(network, tmp_path / "v1.model", verbose=True)
    listed = [line for line in capsys.readouterr().out.splitlines() if line in before]
    assert len(listed) == 336
    for name, tensor in network.state_dict().items():
        expected = before[name] if name.startswith("outputs.") else pretrained.state_dict()[name]
        assert torch.equal(tensor, expected), name


def test_of_a_file_with_heads_three_classes_would_take_all_343(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Why the export has none: heads that restore images would become heads that segment."""
    loader = pytest.importorskip("nnunet.run.load_pretrained_weights", reason="nnunet is not installed here")
    network = MNet(6, 3, CHANNELS)
    loader.load_pretrained_weights(network, model, verbose=True)
    assert sum(line in network.state_dict() for line in capsys.readouterr().out.splitlines()) == 343
