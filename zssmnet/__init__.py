"""Self-supervised pre-training of Z-SSMNet (arXiv 2212.05808): the science, without any orchestration.

Tensors have the axes (N, C, Z, Y, X); files and SimpleITK images are x, y, z. Names are imported when they are first
used, so that ``import zssmnet`` takes no time.

>>> import torch, zssmnet
>>> cubes_NCZYX = torch.rand(2, 4, 16, 64, 64)
>>> corruption = zssmnet.Corruption(zssmnet.CorruptionConfig())
>>> input_NCZYX, target_NCZYX = corruption(cubes_NCZYX, torch.Generator().manual_seed(0))
>>> model = zssmnet.MNet(in_channels=6, num_classes=3, channels=(2, 2, 2, 2, 2))
>>> model(input_NCZYX).shape == target_NCZYX.shape
True
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from zssmnet.config import CorruptionConfig, CubesConfig, PreparationConfig, PretrainConfig
    from zssmnet.corruption import Corruption
    from zssmnet.errors import ZssmnetError
    from zssmnet.handoff.export import export_nnunet_v2
    from zssmnet.handoff.load import load_pretrained, load_restoration
    from zssmnet.handoff.network_input import network_input
    from zssmnet.mnet import MNet
    from zssmnet.stages.cubes import generate_cubes
    from zssmnet.stages.pipeline import run_pipeline
    from zssmnet.stages.prepare import prepare_archive, prepare_case
    from zssmnet.stages.pretrain import pretrain
    from zssmnet.stages.retrain import retrain
    from zssmnet.stages.segment_zones import segment_zones
    from zssmnet.stages.train_zones import train_zones
    from zssmnet.training.dataset import CubesDataset

__all__ = [
    "Corruption",
    "CorruptionConfig",
    "CubesConfig",
    "CubesDataset",
    "MNet",
    "PreparationConfig",
    "PretrainConfig",
    "ZssmnetError",
    "__version__",
    "export_nnunet_v2",
    "generate_cubes",
    "load_pretrained",
    "load_restoration",
    "network_input",
    "prepare_archive",
    "prepare_case",
    "pretrain",
    "retrain",
    "run_pipeline",
    "segment_zones",
    "train_zones",
]

_MODULES = {
    "config": ("CorruptionConfig", "CubesConfig", "PreparationConfig", "PretrainConfig"),
    "corruption": ("Corruption",),
    "errors": ("ZssmnetError",),
    "handoff.export": ("export_nnunet_v2",),
    "handoff.load": ("load_pretrained", "load_restoration"),
    "handoff.network_input": ("network_input",),
    "mnet": ("MNet",),
    "stages.cubes": ("generate_cubes",),
    "stages.pipeline": ("run_pipeline",),
    "stages.prepare": ("prepare_archive", "prepare_case"),
    "stages.pretrain": ("pretrain",),
    "stages.retrain": ("retrain",),
    "stages.segment_zones": ("segment_zones",),
    "stages.train_zones": ("train_zones",),
    "training.dataset": ("CubesDataset",),
}
_MODULE_OF = {name: f"zssmnet.{module}" for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name on first use: torch and SimpleITK take seconds."""
    if name == "__version__":
        from importlib.metadata import version

        return version("zssmnet")
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
