"""Our trainers with a seed and a few short epochs, for nnU-Net v2: `Short0Zssmnet`, `Short0ZssmnetScratch`, and so on.

nnU-Net finds them if ``nnUNet_extTrainer`` names this folder. ``SHORT_EPOCHS`` and ``SHORT_ITERATIONS`` say how many
epochs of how many iterations; ``SHORT_VALIDATION=0`` leaves the prediction of the validation cases out. The number in
the name is the seed. There is no mirroring in prediction, which costs eight times the time.
"""

import os
from typing import Any

import numpy as np
import torch

from zssmnet.handoff.nnunet_trainer import zssmnet_trainer

GPU = torch.device("cuda")
SEEDS = range(10)
PREFIX = "nnUNetTrainer"


def short(kind: type, seed: int) -> type:
    """A trainer's short variant."""

    def __init__(  # noqa: N807
        self: Any, plans: Any, configuration: str, fold: int, dataset_json: Any, device: Any = GPU
    ) -> None:
        torch.set_num_threads(1)  # networks this small are slower on several, by far so on busy cores
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002  (nnU-Net's data loaders draw from it)
        kind.__init__(self, plans, configuration, fold, dataset_json, device)  # type: ignore[misc]
        self.num_epochs = int(os.environ.get("SHORT_EPOCHS", 3))
        self.num_iterations_per_epoch = int(os.environ.get("SHORT_ITERATIONS", 4))
        self.num_val_iterations_per_epoch = max(1, self.num_iterations_per_epoch // 5)

    def without_mirroring(self: Any) -> Any:
        *settings, _ = kind.configure_rotation_dummyDA_mirroring_and_inital_patch_size(self)  # type: ignore[attr-defined]
        self.inference_allowed_mirroring_axes = None
        return *settings, None

    members = {"__init__": __init__, "configure_rotation_dummyDA_mirroring_and_inital_patch_size": without_mirroring}
    if os.environ.get("SHORT_VALIDATION") == "0":
        members["perform_actual_validation"] = lambda self, save_probabilities=False: None
    return type(f"Short{seed}{kind.__name__.removeprefix(PREFIX)}", (kind,), members)


_KINDS = [value for name, value in vars(zssmnet_trainer).items() if name.startswith(f"{PREFIX}Zssmnet")]
globals().update({trainer.__name__: trainer for kind in _KINDS for seed in SEEDS for trainer in [short(kind, seed)]})
