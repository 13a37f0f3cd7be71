"""Self-supervised pre-training of Z-SSMNet: the science, without any orchestration.

>>> from zssmnet import MNet, load_pretrained
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zssmnet.handoff.pretrained import export_nnunet_v2, load_pretrained
    from zssmnet.mnet import MNet

__all__ = ["MNet", "export_nnunet_v2", "load_pretrained"]
_HOMES = {
    "MNet": "zssmnet.mnet",
    "load_pretrained": "zssmnet.handoff.pretrained",
    "export_nnunet_v2": "zssmnet.handoff.pretrained",
}


def __getattr__(name: str) -> Any:
    """Import torch only when something that needs it is asked for: ``zssmnet --help`` answers at once."""
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
