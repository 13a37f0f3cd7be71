"""Tensors into files, in PyTorch's format."""

from pathlib import Path
from typing import Any

import torch


def save_tensors(content: dict[str, Any], path: Path) -> None:
    """Write tensors and plain values into a file.

    Raises:
        OSError: it cannot be written, or not wholly (a full disk); `torch.save` tells that as an internal error.
    """
    try:
        with path.open("wb") as file:
            torch.save(content, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from error
        raise
