import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.zssmnet.interruption import leave_half_written
from zssmnet.config import PackageConfig
from zssmnet.errors import CheckpointError, ConfigError, InputError
from zssmnet.handoff.export import export_nnunet_v2
from zssmnet.handoff.load import load_pretrained
from zssmnet.handoff.package import write_package
from zssmnet.handoff.weights import read_weights
from zssmnet.mnet import MNet
from zssmnet.probe.arms import Arm, scaling_of
from zssmnet.storage import sha256_of

from .conftest import CHANNELS, with_record


def test_a_package_is_loaded_as_the_file_it_was_made_from(model: Path, pretrained: MNet, tmp_path: Path) -> None:
    leave_half_written(tmp_path / "package")
    folder = write_package(model, tmp_path / "package")
    assert sorted(file.name for file in folder.iterdir()) == [
        *("README.md", "adaptation_plan.json", "config.json", "model.safetensors"),
    ]
    assert len({file.stat().st_mode for file in folder.iterdir()}) == 1  # all can be read by those who may read one
    assert load_file(folder / "model.safetensors").keys() == pretrained.state_dict().keys()
    loaded = load_pretrained(folder, num_classes=2)
    for name, tensor in load_pretrained(model, num_classes=2).state_dict().items():
        if not name.startswith("outputs."):
            assert torch.equal(loaded.state_dict()[name], tensor)


def test_the_card_has_what_the_record_knows_and_names_no_case(model: Path, tmp_path: Path) -> None:
    with_record(model)
    probe = tmp_path / "probe.json"
    probe.write_text(json.dumps({"verdict": "the weights help", "difference": 0.05, "scores": [1, 2]}))
    card = (write_package(model, tmp_path / "p", PackageConfig(probe_path=str(probe))) / "README.md").read_text()
    assert card.startswith("---\nlicense: fill-in  # to be filled in")
    for line in (
        "- 4 cases: 3 trained on, 1 validated with",
        "merging unit `sum`",
        "0.01234",
        "explained variance of the restored images: 50.0 % (100 % is perfect",
        "cubes of 32 x 40 x 8 voxels of 1 x 1 x 3 mm (x, y, z)",
        "optimizer `adamw`",
        "- verdict: the weights help",
        "zssmnet.load_pretrained(",
    ):
        assert line in card
    assert "7777" not in card
    assert "scores" not in card
    assert (
        "license: apache-2.0\n"
        in (write_package(model, tmp_path / "p", PackageConfig(licence="apache-2.0")) / "README.md").read_text()
    )


def test_the_licence_follows_the_cases(model: Path, tmp_path: Path) -> None:
    with_record(model, ids=("10000_1000000", "77771_1"))
    card = (write_package(model, tmp_path / "p") / "README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-nc-4.0\n")
    with pytest.raises(InputError, match=r"'apache-2\.0' contradicts .* 1 of 2 have ids of PI-CAI \(10000_1000000\)"):
        write_package(model, tmp_path / "q", PackageConfig(licence="apache-2.0"))
    for config in (PackageConfig(licence="apache-2.0", force=True), PackageConfig(licence="CC-BY-NC-SA-4.0")):
        folder = write_package(model, tmp_path / config.licence, config)
        assert f"license: {config.licence}\n" in (folder / "README.md").read_text()


def test_the_merge_of_the_record_goes_into_the_package(model: Path, tmp_path: Path) -> None:
    with_record(model, "sum")
    folder = write_package(model, tmp_path / "p")
    assert json.loads((folder / "config.json").read_text())["merge"] == "sum"
    assert load_pretrained(folder, num_classes=2).merge == "sum"


def test_a_package_and_an_export_know_the_cubes_and_no_package_is_made_of_one(model: Path, tmp_path: Path) -> None:
    with_record(model, scaling="percentile")
    folder = write_package(model, tmp_path / "p")
    export_nnunet_v2(model, tmp_path / "a.pth")
    for file in (model, folder, tmp_path / "a.pth"):
        weights = read_weights(file)
        assert (weights.spacing_mm, weights.intensity_scaling) == ((1.0, 1.0, 3.0), "percentile")
        assert scaling_of([Arm("a", "weights", (weights,))]) == "percentile"
    with pytest.raises(InputError, match="is a package already"):
        write_package(folder, folder)


def test_spacing_and_patch_are_those_of_the_cubes(model: Path, tmp_path: Path) -> None:
    with_record(model)
    folder = write_package(model, tmp_path / "p")
    config, plan = (json.loads((folder / name).read_text()) for name in ("config.json", "adaptation_plan.json"))
    assert (config["spacing_mm_xyz"], config["patch_size_zyx"]) == ([1.0, 1.0, 3.0], [8, 40, 32])
    assert plan["pretrain_plan"]["spacing_zyx"] == [3.0, 1.0, 1.0]
    assert plan["pretrain_plan"]["patch_size"] == plan["recommended_downstream_patchsize"] == [8, 40, 32]


def test_the_record_of_another_file_is_not_used(model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with_record(model)
    torch.save({"state_dict": MNet(6, 3, CHANNELS).state_dict()}, model)
    card = (write_package(model, tmp_path / "p") / "README.md").read_text()
    assert "no record of the cases lies beside the weights" in card
    assert f"{model}: does not match the record beside it, which is not used" in caplog.text


def test_nnssl_s_adaptation_plan_has_its_fields(model: Path, tmp_path: Path) -> None:
    plan = json.loads((write_package(model, tmp_path / "p") / "adaptation_plan.json").read_text())
    assert plan["architecture_plans"]["arch_kwargs"] == {"channels": list(CHANNELS), "merge": "sub"}
    assert plan["pretrain_num_input_channels"] == 6
    assert plan["recommended_downstream_patchsize"] == [16, 64, 64]
    names = MNet(6, 3, CHANNELS).state_dict()
    assert all(f"{key}.weight" in names for key in plan["keys_to_in_proj"])


def test_weights_in_another_memory_layout_are_packed_and_those_that_are_not_finite_are_not(
    pretrained: MNet, tmp_path: Path
) -> None:
    weights = pretrained.to(memory_format=torch.channels_last_3d).state_dict()
    torch.save({"state_dict": weights}, tmp_path / "a.model")
    packed = load_file(write_package(tmp_path / "a.model", tmp_path / "p") / "model.safetensors")
    assert all(torch.equal(packed[name], tensor) for name, tensor in weights.items())
    weights["outputs.0.weight"][0] = float("nan")
    torch.save({"state_dict": weights}, tmp_path / "bad.model")
    with pytest.raises(CheckpointError, match="1 of 343 tensors hold NaN"):
        write_package(tmp_path / "bad.model", tmp_path / "bad")
    assert not (tmp_path / "bad").exists()


def test_what_cannot_be_packed_or_loaded_is_one_line(model: Path, tmp_path: Path) -> None:
    (tmp_path / "probe.json").write_text("[1]")
    with pytest.raises(InputError, match="holds a list, not the probe's figures"):
        write_package(model, tmp_path / "p", PackageConfig(probe_path=str(tmp_path / "probe.json")))
    folder = write_package(model, tmp_path / "p")
    assert load_pretrained(folder / "model.safetensors", num_classes=2).num_classes == 2
    (folder / "model.safetensors").write_bytes(b"cut short")
    with pytest.raises(CheckpointError, match="is no safetensors file, or damaged"):
        load_pretrained(folder, num_classes=2)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_pretrained(folder, num_classes=2)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "holds no verdict"),
        ({"cases": 4, "AP": 0.5}, "holds no verdict"),
        ({"verdict": "helps", "verdicts": None}, "holds no verdict"),
        ({"verdict": "helps", "weights": [{"sha256": ["0" * 64]}]}, "is the probe of other weights than"),
    ],
)
def test_the_card_has_no_probe_of_anything_else(model: Path, tmp_path: Path, content: dict, words: str) -> None:
    (tmp_path / "probe.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"probe.json: {words}"):
        write_package(model, tmp_path / "p", PackageConfig(probe_path=str(tmp_path / "probe.json")))
    assert not (tmp_path / "p").exists()


def test_a_probe_s_lines_stay_in_their_list(model: Path, tmp_path: Path) -> None:
    content = {"verdict": "helps\n# Not a title", "weights": [{"sha256": [sha256_of(model)]}], "verdicts": [1]}
    (tmp_path / "probe.json").write_text(json.dumps(content))
    config = PackageConfig(probe_path=str(tmp_path / "probe.json"))
    assert (
        "\n- verdict: helps # Not a title\n" in (write_package(model, tmp_path / "p", config) / "README.md").read_text()
    )


@pytest.mark.parametrize("settings", [{"licence": "mit\nname: x"}, {"licence": "a: b"}, {"name": "a\n# b"}])
def test_words_that_would_break_the_card_are_refused(settings: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="should match pattern"):
        PackageConfig(**settings)
