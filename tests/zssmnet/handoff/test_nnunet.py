"""Our files and trainers in the real nnU-Net v2; the chain of docs/fine-tuning.md (long)."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from zssmnet.config import NnunetDatasetConfig
from zssmnet.handoff.detection import evaluate_detection
from zssmnet.handoff.export import export_nnunet_v2
from zssmnet.handoff.nnunet_dataset import dataset_folder, write_nnunet_dataset
from zssmnet.handoff.nnunet_trainer import FOLDER
from zssmnet.mnet import MNet, head_sizes
from zssmnet.storage import LocalStorage

from .conftest import CHANNELS, write_case

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("nnunetv2") is None,
    reason="nnunetv2 is not installed here (pip install 'zssmnet[nnunet]')",
)
PATCH = (8, 32, 32)
SHORT = """
from zssmnet.handoff.nnunet_trainer import zssmnet_trainer as all_of_it


def short(kind):
    def __init__(self, plans, configuration, fold, dataset_json, device=all_of_it.torch.device("cuda")):
        kind.__init__(self, plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 3, 4, 1
    return type("Short" + kind.__name__.removeprefix("nnUNetTrainer"), (kind,), {"__init__": __init__})


ShortZssmnet = short(all_of_it.nnUNetTrainerZssmnet)
ShortZssmnetNoDS = short(all_of_it.nnUNetTrainerZssmnetNoDS)
ShortZssmnetScratch = short(all_of_it.nnUNetTrainerZssmnetScratch)
"""


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


def run(environment: dict[str, str], *command: str) -> str:
    program = Path(sys.executable).with_name(command[0])
    done = subprocess.run([program, *command[1:]], env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_the_chain_from_archive_to_figures(model: Path, tmp_path: Path) -> None:
    for seed in range(5):
        write_case(tmp_path, f"{seed}_1", grade=3 if seed % 2 else 0, size=64, seed=seed)
    config = NnunetDatasetConfig()
    raw = dataset_folder(tmp_path / "raw", config)
    write_nnunet_dataset(*(LocalStorage(tmp_path / name) for name in ("imagesTr", "zones", "lesions")), raw, config)
    export_nnunet_v2(model, tmp_path / "mnet.pth", 2)
    (tmp_path / "trainers").mkdir()
    (tmp_path / "trainers" / "short.py").write_text(SHORT)
    environment = {
        **{f"nnUNet_{name}": str(tmp_path / name) for name in ("raw", "preprocessed", "results")},
        "nnUNet_extTrainer": f"{FOLDER}{os.pathsep}{tmp_path / 'trainers'}",
        "ZSSMNET_WEIGHTS": str(tmp_path / "mnet.pth"),
        "nnUNet_n_proc_DA": "0",
        "OMP_NUM_THREADS": "1",
    }
    run(
        environment,
        "nnUNetv2_plan_and_preprocess",
        "-d",
        "501",
        "-c",
        "3d_fullres",
        "-np",
        "1",
        "--verify_dataset_integrity",
    )
    preprocessed = tmp_path / "preprocessed" / raw.name
    shutil.copy(raw / "splits_final.json", preprocessed)
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    plans["configurations"]["3d_fullres"] |= {"patch_size": list(PATCH), "batch_size": 2}
    (preprocessed / "nnUNetPlans.json").write_text(json.dumps(plans))
    train = ("nnUNetv2_train", "501", "3d_fullres", "0", "-device", "cpu")
    given = ("-pretrained_weights", str(tmp_path / "mnet.pth"))
    for trainer, weights in (("ShortZssmnet", given), ("ShortZssmnetNoDS", given), ("ShortZssmnetScratch", ())):
        output = run(environment, *train, "-tr", trainer, *weights)
        taken = re.search(r"(\d+) of 343 tensors from pre-trained weights", output)
        assert taken
        assert taken[1] == ("336" if weights else "0")
        losses = [float(loss) for loss in re.findall(r"train_loss (-?[\d.]+)", output)]
        assert len(losses) == 3
        assert losses[-1] < losses[0]
    predicted = tmp_path / "predicted"
    environment.pop("ZSSMNET_WEIGHTS")  # the plans know the network
    predict = ("nnUNetv2_predict", "-i", str(raw / "imagesTr"), "-o", str(predicted), "-d", "501", "-c", "3d_fullres")
    run(environment, *predict, "-f", "0", "-tr", "ShortZssmnet", "-device", "cpu", "-npp", "1", "-nps", "1",
        "--save_probabilities")  # fmt: skip
    figures = evaluate_detection(predicted, raw / "labelsTr")
    assert 0 <= figures.auroc <= 1
    assert 0 <= figures.AP <= 1


def test_targets_under_deep_supervision_have_the_sizes_of_the_outputs() -> None:
    """nnU-Net rounds size times scale."""
    for patch in ((16, 64, 64), (20, 160, 144), (17, 35, 33), (7, 48, 48)):
        for sizes in head_sizes(patch):
            scales = [size / whole for size, whole in zip(sizes, patch, strict=True)]
            assert tuple(round(whole * scale) for whole, scale in zip(patch, scales, strict=True)) == sizes
