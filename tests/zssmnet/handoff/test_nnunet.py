"""Our files and trainers in the real nnU-Net v2; the chain of docs/fine-tuning.md (long)."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from benchmarks.nnunet_chain import PLANNER, PLANS, Chain, losses, write_lesion_phantoms
from tests.test_docs import shell_commands
from zssmnet.handoff.detection import evaluate_detection
from zssmnet.handoff.export import export_nnunet_v2
from zssmnet.mnet import MNet, head_sizes
from zssmnet.phantom import case_ids

from .conftest import CHANNELS

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("nnunetv2") is None,
    reason="nnunetv2 is not installed here (pip install 'zssmnet[nnunet]')",
)
PATCH = (8, 32, 32)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("exported_classes", [None, 2])
def test_the_real_loader_takes_the_file_with_any_number_of_classes(
    model: Path, pretrained: MNet, tmp_path: Path, classes: int, exported_classes: int | None
) -> None:
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

    from zssmnet.handoff.nnunet_trainer.zssmnet_trainer import SegmentationMNet

    export_nnunet_v2(model, tmp_path / "mnet.pth", exported_classes)
    network = SegmentationMNet(6, classes, CHANNELS)
    heads = {name: t.clone() for name, t in network.state_dict().items() if ".seg_layers." in name}
    load_pretrained_weights(network, str(tmp_path / "mnet.pth"))
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, heads[name] if name in heads else pretrained.state_dict()[name]), name
    assert (network.tensors_taken, len(heads)) == (336, 7)


@pytest.mark.filterwarnings("ignore")
def test_the_real_loader_takes_an_export_for_a_plain_mnet(model: Path, tmp_path: Path) -> None:
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

    export_nnunet_v2(model, tmp_path / "mnet.pth", 2)
    load_pretrained_weights(MNet(6, 2, CHANNELS), str(tmp_path / "mnet.pth"))


@pytest.mark.filterwarnings("ignore")
def test_warm_up_is_linear_and_then_nnunets_own_decay() -> None:
    from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler

    from zssmnet.handoff.nnunet_trainer.zssmnet_trainer import WarmUpThenPoly

    def rates(kind: type, *more: int) -> np.ndarray:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1e-3)
        schedule, found = kind(optimizer, 1e-3, 100, *more), []
        for epoch in range(100):
            schedule.step(epoch)
            found.append(optimizer.param_groups[0]["lr"])
        return np.array(found)

    with_warm_up, without = rates(WarmUpThenPoly, 4), rates(PolyLRScheduler)
    np.testing.assert_allclose(with_warm_up[:4] / without[:4], [0.2, 0.4, 0.6, 0.8])
    np.testing.assert_allclose(with_warm_up[4:], without[4:])


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.filterwarnings("ignore:No negative samples")  # all phantoms have lesions
def test_the_chain_from_archive_to_figures(model: Path, tmp_path: Path) -> None:
    write_lesion_phantoms(tmp_path / "archive", 6)
    chain = Chain(tmp_path, epochs=4, iterations=15)
    chain.write_data_set(PATCH)
    for case_id in case_ids(6):
        assert_preprocessing_changed_nothing(chain, case_id)
    weights = tmp_path / "mnet.pth"
    export_nnunet_v2(model, weights, 2)
    for trainer in ("Short0Zssmnet", "Short0ZssmnetNoDS", "Short0ZssmnetScratch"):
        scratch = trainer.endswith("Scratch")
        output = chain.train(trainer, None if scratch else weights, weights)
        taken = re.search(r"\d+ of 343 tensors from pre-trained weights.*", output)
        assert taken
        print(trainer, taken[0], losses(output), sep="\n")
        assert taken[0].startswith("0 of" if scratch else "336 of")
        assert len(losses(output)) == 4
        assert losses(output)[-1] < losses(output)[0]
    predicted = tmp_path / "predicted"
    predict = ("-i", chain.raw / "imagesTr", "-o", predicted, "-d", "501", "-c", "3d_fullres", "-f", "0", "-p", PLANS)
    options = ("-tr", "Short0Zssmnet", "-device", "cpu", "-npp", "1", "-nps", "1", "--save_probabilities")
    chain.run("nnUNetv2_predict", *predict, *options)  # the plans know the network: no variable is needed
    assert len(list(predicted.glob("*.npz"))) == 6
    figures = evaluate_detection(chain.validation("Short0Zssmnet"), chain.raw / "labelsTr")
    print(figures)
    assert figures.num_cases == len(validation_cases(chain))
    assert -1e-9 < figures.AP <= 1  # of so short a training about 0, from either side


@pytest.mark.long
def test_commands_of_the_page_have_these_flags() -> None:
    commands = [words for words in shell_commands() if words[0].startswith("nnUNetv2_")]
    assert {words[0] for words in commands} == {"nnUNetv2_plan_and_preprocess", "nnUNetv2_train", "nnUNetv2_predict"}
    for program, *arguments in commands:
        command = [Path(sys.executable).with_name(program), "-h"]
        known = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for flag in (word for word in arguments if word.startswith("-")):
            assert re.search(rf"(?<![\w-]){flag}(?![\w-])", known), f"{program} {flag}"
        for option, value in (("-pl", PLANNER), ("-p", PLANS)):
            assert option not in arguments or arguments[arguments.index(option) + 1] == value


def validation_cases(chain: Chain) -> list[str]:
    found: list[str] = json.loads((chain.raw / "splits_final.json").read_text())[0]["val"]
    return found


def assert_preprocessing_changed_nothing(chain: Chain, case_id: str) -> None:
    """The network sees the six channels as they were written."""
    import blosc2

    file = chain.preprocessed / f"{PLANS}_3d_fullres" / f"{case_id}.b2nd"
    seen = blosc2.open(str(file), mode="r")[:]
    for channel in range(6):
        image = sitk.ReadImage(str(chain.raw / "imagesTr" / f"{case_id}_{channel:04d}.nii.gz"))
        np.testing.assert_array_equal(seen[channel], sitk.GetArrayFromImage(image))


def test_targets_under_deep_supervision_have_the_sizes_of_the_outputs() -> None:
    """nnU-Net rounds size times scale."""
    for patch in ((16, 64, 64), (20, 160, 144), (17, 35, 33), (7, 48, 48)):
        for sizes in head_sizes(patch):
            scales = [size / whole for size, whole in zip(sizes, patch, strict=True)]
            assert tuple(round(whole * scale) for whole, scale in zip(patch, scales, strict=True)) == sizes
