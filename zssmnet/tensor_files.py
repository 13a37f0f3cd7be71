"""Files that torch.save wrote, read without running code in them and without growing beyond their size."""

import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def load_tensors(path: Path) -> Any:
    """The content of a file, tensors and plain values only, on the CPU.

    Raises:
        Exception: of nearly any type, on foreign, damaged or hostile bytes.
    """
    with path.open("rb") as file:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                if any(record.compress_type != zipfile.ZIP_STORED for record in archive.infolist()):
                    raise ValueError("compressed records, which torch.save does not write and which may be huge")
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)


def is_backed(tensor: Tensor) -> bool:
    """Whether a dense tensor's values were all in its file; else one value may stand for a huge tensor."""
    return tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.element_size()
