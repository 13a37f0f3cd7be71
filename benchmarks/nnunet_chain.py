"""The way of docs/fine-tuning.md through the real nnU-Net v2, on synthetic cases small enough for a CPU."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from zssmnet.handoff.nnunet_trainer import FOLDER
from zssmnet.phantom import GridSpec, write_archive

TRAINERS = Path(__file__).parent / "fine_tuning_trainers"
DATASET = "Dataset501_csPCa"
PLANNER, PLANS = "nnUNetPlannerResEncL_noResampling", "nnUNetResEncUNetLPlans_noResampling"
_GRIDS = (GridSpec.centred((88, 88, 15), (1.0, 1.0, 3.0), (0.0, 0.0, 0.0)),)


def write_lesion_phantoms(folder: Path, count: int) -> None:
    """Write an archive of synthetic cases with lesions: ``nnunet_raw``, ``zonal_masks`` and ``lesions`` in `folder`."""
    write_archive(folder, count, grids=_GRIDS, subtle=True)


class Chain:
    """nnU-Net v2 in a folder of its own.

    Args:
        folder: of everything; the archive lies in ``archive``, see `write_lesion_phantoms`.
        epochs: of each training.
        iterations: of each epoch.
    """

    def __init__(self, folder: Path, epochs: int, iterations: int) -> None:
        self.folder = folder
        self.raw = folder / "raw" / DATASET
        self.preprocessed = folder / "preprocessed" / DATASET
        self.environment = {
            **{f"nnUNet_{name}": str(folder / name) for name in ("raw", "preprocessed", "results")},
            "nnUNet_extTrainer": f"{FOLDER}{os.pathsep}{TRAINERS}",
            "nnUNet_def_n_proc": "1",
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",  # nnU-Net's own number of threads comes back in prediction
            "SHORT_EPOCHS": str(epochs),
            "SHORT_ITERATIONS": str(iterations),
        }

    def run(self, program: str, *arguments: str | Path, **more: str) -> str:
        """Run a program of this Python's environment; its output.

        Raises:
            RuntimeError: it fails.
        """
        command = [Path(sys.executable).with_name(program), *arguments]
        environment = os.environ | self.environment | more
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{program} ended with {done.returncode}: {done.stdout[-3000:]}{done.stderr[-3000:]}")
        return done.stdout

    def write_data_set(self, patch_size_zyx: Sequence[int]) -> None:
        """The data set, planned and preprocessed; batches of two patches."""
        archive = self.folder / "archive"
        self.run(
            *("zssmnet", "nnunet-dataset", "--images-path", archive / "nnunet_raw"),
            *("--zonal-mask-path", archive / "zonal_masks", "--lesion-path", archive / "lesions"),
            *("--output", self.folder / "raw", "--dataset", "501"),
        )
        planning = (
            "-d",
            "501",
            "-c",
            "3d_fullres",
            "-pl",
            PLANNER,
            "-np",
            "1",
            "-npfp",
            "1",
            "--verify_dataset_integrity",
        )
        self.run("nnUNetv2_plan_and_preprocess", *planning)
        shutil.copy(self.raw / "splits_final.json", self.preprocessed)
        file = self.preprocessed / f"{PLANS}.json"
        plans = json.loads(file.read_text())
        plans["configurations"]["3d_fullres"] |= {"patch_size": list(patch_size_zyx), "batch_size": 2}
        file.write_text(json.dumps(plans))

    def train(self, trainer: str, weights: Path | None, network: Path, validate: bool = True) -> str:
        """Train fold 0; nnU-Net's output.

        Args:
            trainer: name of a trainer.
            weights: pre-trained weights, or None for a training from scratch.
            network: weights that tell the channels of the network.
            validate: whether the validation cases are predicted at the end, see `validation`.
        """
        given = () if weights is None else ("-pretrained_weights", weights)
        command = ("501", "3d_fullres", "0", "-p", PLANS, "-tr", trainer, "-device", "cpu", "--npz", *given)
        more = {"ZSSMNET_WEIGHTS": str(network), "SHORT_VALIDATION": str(int(validate)), "nnUNet_n_proc_DA": "0"}
        return self.run("nnUNetv2_train", *command, **more)

    def validation(self, trainer: str) -> Path:
        """Folder of the probabilities of fold 0's validation cases."""
        return self.folder / "results" / DATASET / f"{trainer}__{PLANS}__3d_fullres" / "fold_0" / "validation"


def losses(output: str, kind: str = "train") -> list[float]:
    """The ``train`` or ``val`` loss of each epoch, from nnU-Net's output."""
    return [float(loss) for loss in re.findall(rf"{kind}_loss (-?[\d.]+)", output)]
