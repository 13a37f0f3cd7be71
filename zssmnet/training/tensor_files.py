"""Tensors in files of PyTorch's format, read without running code in them and without growing beyond their size."""

import io
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def save_tensors(content: dict[str, Any], path: Path) -> None:
    """Write tensors and plain values into a file; OSError if it cannot be written, or not wholly (a full disk).

    `torch.save` gets memory: into a file it would hide whatever interrupts it, a full disk or a signal, behind an
    internal error, or end the whole process.
    """
    stream = io.BytesIO()
    torch.save(content, stream)
    path.write_bytes(stream.getbuffer())


def load_tensors(path: Path) -> Any:
    """The content of a file, tensors and plain values only, on the CPU.

    Raises:
        Exception: of nearly any type, on foreign, damaged or hostile bytes.
    """
    with path.open("rb") as file:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                _check_records(archive)
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)


def is_backed(tensor: Tensor) -> bool:
    """Whether a dense tensor's values were all in its file; else one value may stand for a huge tensor."""
    return tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.element_size()


def _check_records(archive: zipfile.ZipFile) -> None:
    """Check what PyTorch does not look at: it would load a weight with a wrong bit."""
    if any(record.compress_type != zipfile.ZIP_STORED for record in archive.infolist()):
        raise ValueError("compressed records, which torch.save does not write and which may be huge")
    if damaged := archive.testzip():
        raise zipfile.BadZipFile(f"{damaged} is damaged")
