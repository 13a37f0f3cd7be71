"""Image files, read and written whole: NIfTI and MetaImage.

ITK fills what is missing in a truncated NIfTI file with zeros, takes a damaged compressed stream as it comes, and
writes to a full disk, all without an error. What it lets pass is found here.
"""

import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import SimpleITK as sitk

from zssmnet.errors import UnreadableFileError

LARGEST_VOLUME = 2**31
"""Voxels; a header that asks for more is taken to be damaged (PI-CAI's largest examination has 3.3e7)."""
_GZIP = b"\x1f\x8b"
_CHUNK = 2**20
_WRITER = "ITK_InputFilterName"

sitk.ProcessObject.SetGlobalWarningDisplay(False)


def read_image(path: Path) -> sitk.Image:
    """A 3-D image with one value a voxel, read with one thread.

    Raises:
        UnreadableFileError: not an image, not 3-D, several values a voxel, truncated, damaged, or with a header that
            cannot be true.
    """
    reader = sitk.ImageFileReader()
    reader.SetNumberOfThreads(1)  # cases run side by side: one thread each
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        _check_header(path, reader)
        _check_content(path, reader)
        return reader.Execute()
    except (RuntimeError, MemoryError) as error:
        raise UnreadableFileError(str(path), f"is no readable image: {_one_line(error)}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise UnreadableFileError(str(path), f"is truncated or damaged: {error}") from error


def write_image(image: sitk.Image, path: str) -> None:
    """Write an image file, compressed where its format can be, with one thread.

    Raises:
        OSError: it cannot be written, or not wholly (a full disk).
    """
    writer = sitk.ImageFileWriter()
    writer.SetNumberOfThreads(1)
    writer.UseCompressionOn()
    writer.SetFileName(path)
    try:
        writer.Execute(image)
        reader = sitk.ImageFileReader()
        reader.SetFileName(path)
        reader.ReadImageInformation()
        _check_content(Path(path), reader)
    except (RuntimeError, UnreadableFileError, EOFError, zlib.error) as error:
        raise OSError(f"not all of it could be written; is the disk full? ({_one_line(error)})") from error


def _check_header(path: Path, reader: sitk.ImageFileReader) -> None:
    size, spacing = reader.GetSize(), reader.GetSpacing()
    if len(size) != 3:
        raise UnreadableFileError(str(path), f"is {len(size)}-D with size {size}; a 3-D image is needed")
    if (components := reader.GetNumberOfComponents()) != 1:
        raise UnreadableFileError(str(path), f"has {components} values a voxel; one is needed")
    if not 0 < np.prod(size, dtype=np.float64) <= LARGEST_VOLUME:
        raise UnreadableFileError(str(path), f"its header asks for {size} voxels; it is probably damaged")
    if not all(0 < step < 1000 for step in spacing):
        raise UnreadableFileError(str(path), f"has the spacing {spacing} mm; it is probably damaged")
    if not np.isfinite(reader.GetOrigin()).all():
        raise UnreadableFileError(str(path), f"has the origin {reader.GetOrigin()} mm; it is probably damaged")
    direction = np.reshape(reader.GetDirection(), (3, 3))
    if not np.allclose(direction @ direction.T, np.eye(3), atol=1e-3):
        raise UnreadableFileError(str(path), f"has axes that are not at right angles: {reader.GetDirection()}")


def _check_content(path: Path, reader: sitk.ImageFileReader) -> None:
    """Whether the file holds the voxels that its header tells of; a checksum in it is verified on the way."""
    if reader.HasMetaDataKey("bitpix"):  # NIfTI
        offset, bits, content = float(reader.GetMetaData("vox_offset")), int(reader.GetMetaData("bitpix")), _nifti
    elif reader.HasMetaDataKey(_WRITER) and reader.GetMetaData(_WRITER) == "MetaImageIO":
        pixel = sitk.Image(1, 1, reader.GetPixelID())
        offset, bits, content = 0.0, 8 * pixel.GetSizeOfPixelComponent(), _meta_image
    else:
        raise UnreadableFileError(str(path), "is neither a NIfTI nor a MetaImage file")
    expected = int(offset + np.prod(reader.GetSize(), dtype=np.float64) * bits / 8)
    with path.open("rb") as stream:
        found = sum(len(chunk) for chunk in content(stream))
    if found != expected:
        what = "is truncated" if found < expected else "has a header that cannot be true"
        raise UnreadableFileError(str(path), f"{what}: it holds {found} bytes, not {expected}")


def _nifti(stream: BinaryIO) -> Iterator[bytes]:
    """Header and voxels of a NIfTI file, decompressed."""
    is_compressed = stream.read(len(_GZIP)) == _GZIP
    stream.seek(0)
    source = gzip.GzipFile(fileobj=stream) if is_compressed else stream
    while chunk := source.read(_CHUNK):
        yield chunk


def _meta_image(stream: BinaryIO) -> Iterator[bytes]:
    """Voxels of a MetaImage, decompressed."""
    is_compressed = False
    for line in stream:
        name, _, value = line.partition(b"=")
        if name.strip() == b"CompressedData":
            is_compressed = value.strip() == b"True"
        if name.strip() == b"ElementDataFile":
            break
    decompressor = zlib.decompressobj()
    while chunk := stream.read(_CHUNK):
        yield decompressor.decompress(chunk) if is_compressed else chunk
    if is_compressed and not decompressor.eof:
        raise EOFError("the compressed voxels end too early")


def _one_line(error: BaseException) -> str:
    """ITK's message without the place in its source code, addresses in memory and its guess at the reason."""
    lines = [line.strip() for line in str(error).splitlines() if not line.startswith(("Exception thrown", "Reason:"))]
    text = re.sub(r"(sitk::|ITK )ERROR: |\(0x[0-9a-f]+\)", "", " ".join(lines)).strip()
    return text or type(error).__name__
