from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.zssmnet.interruption import leave_half_written
from zssmnet.errors import CheckpointError, InputError, StorageError
from zssmnet.handoff.export import export_nnunet_v1, export_nnunet_v2
from zssmnet.handoff.load import load_pretrained
from zssmnet.mnet import MNet

from .conftest import CHANNELS, with_record


def taken_by_name_and_shape(network: dict[str, Tensor], file: Path, key: str) -> set[str]:
    """nnU-Net's rule."""
    found = torch.load(file, weights_only=True)[key]
    return {name for name, tensor in found.items() if name in network and network[name].shape == tensor.shape}


class TestNnunetV2:
    def test_without_classes_it_is_the_body_alone(self, model: Path, pretrained: MNet, tmp_path: Path) -> None:
        report = export_nnunet_v2(model, tmp_path / "out" / "mnet.pth")
        content = torch.load(tmp_path / "out" / "mnet.pth", weights_only=True)
        expected = {n: t for n, t in pretrained.state_dict().items() if not n.startswith("outputs.")}
        assert content["network_weights"].keys() == expected.keys()
        assert all(torch.equal(content["network_weights"][name], tensor) for name, tensor in expected.items())
        assert content["zssmnet"] == {"in_channels": 6, "channels": list(CHANNELS), "merge": "sub"}
        assert (len(report.taken), len(report.left_out)) == (336, 7)
        assert [file.name for file in (tmp_path / "out").iterdir()] == ["mnet.pth"]

    @pytest.mark.parametrize("classes", [1, 2, 3, 5])
    def test_with_classes_it_fits_a_plain_mnet_of_so_many_and_has_renamed_heads(
        self, model: Path, pretrained: MNet, tmp_path: Path, classes: int
    ) -> None:
        out = tmp_path / "mnet.pth"
        export_nnunet_v2(model, out, classes)
        network = MNet(6, classes, CHANNELS).state_dict()
        assert taken_by_name_and_shape(network, out, "network_weights") == set(network)
        weights = torch.load(out, weights_only=True)["network_weights"]
        renamed = [name for name in weights if name not in network]
        assert renamed == [f"outputs.seg_layers.{i}.weight" for i in range(7)]
        for i, name in enumerate(renamed):
            assert torch.equal(weights[name], weights[f"outputs.{i}.weight"])
        restores = pretrained.state_dict()["outputs.0.weight"]
        assert not torch.equal(weights["outputs.0.weight"][:1], restores[:1])

    def test_the_file_is_the_same_every_time_and_can_be_loaded(self, model: Path, tmp_path: Path) -> None:
        left = leave_half_written(tmp_path)
        for seed, name in enumerate(("a.pth", "b.pth")):
            torch.manual_seed(seed)
            export_nnunet_v2(model, tmp_path / name, 2)
        assert not left.exists()
        a, b = (torch.load(tmp_path / name, weights_only=True)["network_weights"] for name in ("a.pth", "b.pth"))
        assert all(torch.equal(a[name], b[name]) for name in a)
        assert load_pretrained(tmp_path / "a.pth", num_classes=2).channels == CHANNELS

    def test_the_merge_is_noted(self, tmp_path: Path) -> None:
        torch.save({"state_dict": MNet(6, 3, CHANNELS, "cat").state_dict()}, tmp_path / "cat.model")
        export_nnunet_v2(tmp_path / "cat.model", tmp_path / "cat.pth")
        assert torch.load(tmp_path / "cat.pth", weights_only=True)["zssmnet"]["merge"] == "cat"


@pytest.mark.parametrize("classes", [2, 3])
def test_nnunet_v1_takes_no_head_whatever_the_classes(model: Path, tmp_path: Path, classes: int) -> None:
    report = export_nnunet_v1(model, tmp_path / "v1.model")
    network = MNet(6, classes, CHANNELS).state_dict()
    taken = taken_by_name_and_shape(network, tmp_path / "v1.model", "state_dict")
    assert taken == {name for name in network if not name.startswith("outputs.")}
    assert (len(taken), report.total) == (336, 343)
    assert "336 of 343 tensors" in str(report)


class TestRefusals:
    def test_bad_weights_are_refused_and_nothing_is_written(self, tmp_path: Path, pretrained: MNet) -> None:
        weights = dict(pretrained.state_dict())
        weights["up22.CB2d.conv1.norm.weight"][0] = float("nan")
        torch.save({"state_dict": weights}, tmp_path / "bad.model")
        for export in (export_nnunet_v1, export_nnunet_v2):
            with pytest.raises(CheckpointError, match=r"1 of 336 tensors hold NaN"):
                export(tmp_path / "bad.model", tmp_path / "mnet.pth")
        assert [file.name for file in tmp_path.iterdir()] == ["bad.model"]

    def test_a_place_that_cannot_be_written(self, model: Path, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(StorageError, match="cannot be written"):
            export_nnunet_v2(model, tmp_path / "file" / "mnet.pth")


class TestWeightsAreNotReplaced:
    @pytest.mark.parametrize("export", [export_nnunet_v1, export_nnunet_v2])
    def test_by_an_export_of_themselves(self, model: Path, tmp_path: Path, export: Callable[..., object]) -> None:
        (tmp_path / "link").symlink_to(model)
        before = model.read_bytes()
        for out in (model, tmp_path / "link", tmp_path / "folder" / ".." / model.name):
            with pytest.raises(InputError, match="holds pre-trained weights, which an export would replace"):
                export(model, out)
        assert model.read_bytes() == before

    def test_by_an_export_of_others(self, model: Path, tmp_path: Path) -> None:
        published = tmp_path / "SSL" / "ssl_mnet_zonal.model"
        published.parent.mkdir()
        published.write_bytes(model.read_bytes())
        with_record(published)
        with pytest.raises(InputError, match="holds pre-trained weights"):
            export_nnunet_v2(model, published)

    def test_but_an_earlier_export_is(self, model: Path, tmp_path: Path) -> None:
        for classes in (2, 3):
            export_nnunet_v2(model, tmp_path / "mnet.pth", classes)
        weights = torch.load(tmp_path / "mnet.pth", weights_only=True)["network_weights"]
        assert weights["outputs.0.weight"].shape[0] == 3
