"""Image files, read and written whole: NIfTI and MetaImage.

ITK fills what is missing in a truncated NIfTI file with zeros, reads its NaN as 0, takes a damaged compressed stream as
it comes, takes the voxels of ``a.nii.gz`` from ``a.nii`` if that is there, and writes to a full disk, all without an
error. Here it is given files that lie alone under plain names, and what it lets pass is found.
"""

import gzip
import re
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import numpy as np
import SimpleITK as sitk

from zssmnet.errors import UnreadableFileError
from zssmnet.temporary import temporary_errors

LARGEST_VOLUME = 2**31
"""Voxels; a header that asks for more is taken to be damaged (PI-CAI's largest examination has 3.3e7)."""
_GZIP = b"\x1f\x8b"
_LITTLE_ENDIAN = (348).to_bytes(4, "little")  # a NIfTI file begins with the size of its header
_CHUNK = 2**20  # bytes, whole voxels of any type
_WRITER = "ITK_InputFilterName"

sitk.ProcessObject.SetGlobalWarningDisplay(False)


def read_image(path: Path) -> sitk.Image:
    """A 3-D image with one value a voxel, read with one thread.

    Raises:
        UnreadableFileError: not an image, not 3-D, several values a voxel, truncated, damaged, with a header that
            cannot be true, or with values that are not finite and that ITK would hide.
        StorageError: there is no place for temporary files.
    """
    reader = sitk.ImageFileReader()
    reader.SetNumberOfThreads(1)  # cases run side by side: one thread each
    with _plainly_named(path) as link:
        reader.SetFileName(str(link))
        try:
            reader.ReadImageInformation()
            _check_header(path, reader)
            _check_content(path, reader)
            return reader.Execute()
        except (RuntimeError, MemoryError) as error:
            text = _one_line(error).replace(str(link), path.name)
            raise UnreadableFileError(str(path), f"is no readable image: {text}") from error
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
    with TemporaryDirectory(dir=Path(path).parent) as folder:
        file = Path(folder, _plain_name(Path(path)))
        writer.SetFileName(str(file))
        try:
            writer.Execute(image)
            reader = sitk.ImageFileReader()
            reader.SetFileName(str(file))
            reader.ReadImageInformation()
            _check_content(file, reader)
        except (RuntimeError, UnreadableFileError, EOFError, zlib.error) as error:
            raise OSError("not all of it could be written; is the disk full? make room there and run again") from error
        file.replace(path)


@contextmanager
def _plainly_named(path: Path) -> Iterator[Path]:
    """A link to the file, alone in a folder."""
    with ExitStack() as stack:
        with temporary_errors():
            link = Path(stack.enter_context(TemporaryDirectory()), _plain_name(path))
            link.symlink_to(path.absolute())
        yield link


def _plain_name(path: Path) -> str:
    """A name for ITK, which takes endings off names until none is left: of ``a.nii.nii.gz`` it makes ``a.nii.gz``."""
    return "image.nii.gz" if path.name.endswith(".nii.gz") else f"image{path.suffix}"


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
    found = not_finite = 0
    with path.open("rb") as stream:
        if reader.HasMetaDataKey("bitpix"):
            bits = int(reader.GetMetaData("bitpix"))
            chunks, floats = _nifti_voxels(stream, reader)
        elif reader.HasMetaDataKey(_WRITER) and reader.GetMetaData(_WRITER) == "MetaImageIO":
            bits = 8 * sitk.Image(1, 1, reader.GetPixelID()).GetSizeOfPixelComponent()
            chunks, floats = _meta_image_voxels(stream), None
        else:
            raise UnreadableFileError(str(path), "is neither a NIfTI nor a MetaImage file")
        for chunk in chunks:
            found += len(chunk)
            not_finite += _count_not_finite(chunk, floats) if floats else 0
    expected = int(np.prod(reader.GetSize(), dtype=np.float64)) * bits // 8
    if found != expected:
        what = "is truncated" if found < expected else "has a header that cannot be true"
        raise UnreadableFileError(str(path), f"{what}: it holds {found} bytes of voxels, not {expected}")
    if not_finite:
        raise UnreadableFileError(str(path), f"has {not_finite} values that are not finite (NaN or infinite)")


def _nifti_voxels(stream: BinaryIO, reader: sitk.ImageFileReader) -> tuple[Iterator[bytes], np.dtype[Any] | None]:
    """Voxels of a NIfTI file, decompressed; and their type, if they are floating-point numbers."""
    is_compressed = stream.read(len(_GZIP)) == _GZIP
    stream.seek(0)
    source = gzip.GzipFile(fileobj=stream) if is_compressed else stream
    header = source.read(int(float(reader.GetMetaData("vox_offset"))))
    order = "<" if header.startswith(_LITTLE_ENDIAN) else ">"
    size = {"16": "f4", "64": "f8"}.get(reader.GetMetaData("datatype"))
    return iter(lambda: source.read(_CHUNK), b""), np.dtype(order + size) if size else None


def _count_not_finite(chunk: bytes, floats: np.dtype[Any]) -> int:
    values = np.frombuffer(chunk, floats, count=len(chunk) // floats.itemsize)
    return int(np.count_nonzero(~np.isfinite(values)))


def _meta_image_voxels(stream: BinaryIO) -> Iterator[bytes]:
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


def _one_line(error: BaseException) -> str:
    """ITK's message without the place in its source code, addresses in memory and its guess at the reason."""
    lines = [line.strip() for line in str(error).splitlines() if not line.startswith(("Exception thrown", "Reason:"))]
    text = re.sub(r"(sitk::|ITK )ERROR: |\(0x[0-9a-f]+\)", "", " ".join(lines)).strip()
    return text or type(error).__name__
