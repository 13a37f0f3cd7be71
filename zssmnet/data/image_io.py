"""Image files, read and written whole: NIfTI and MetaImage.

ITK fills what is missing in a truncated NIfTI file with zeros, reads its NaN as 0, takes a damaged compressed stream as
it comes, takes the voxels of ``a.nii.gz`` from ``a.nii`` if that is there, and writes to a full disk, all without an
error. Here it is given files that lie alone under plain names, and what it lets pass is found.
"""

import re
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import numpy as np
import SimpleITK as sitk

from zssmnet.data.image_headers import HeaderError, Voxels, find_voxels
from zssmnet.errors import UnreadableFileError
from zssmnet.storage.temporary import temporary_errors, temporary_folder

LARGEST_VOLUME = 2**28
"""Voxels; a header that asks for more is taken to be damaged (PI-CAI's largest examination has 3.3e7)."""
SMALLEST_SPACING_MM, LARGEST_SPACING_MM, FURTHEST_ORIGIN_MM = 0.01, 100.0, 1e5
"""What lies beyond is no examination of a patient, but damage or another unit than mm."""
_CHUNK = 2**20  # bytes, whole voxels of any type

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
            with path.open("rb") as stream:
                voxels = find_voxels(stream)
                reader.SetImageIO(voxels.reader)
                reader.ReadImageInformation()
                _check_header(path, reader)
                _check_content(path, reader, voxels)
            return reader.Execute()
        except HeaderError as error:
            raise UnreadableFileError(str(path), f"is no readable image: {error}") from error
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
            with file.open("rb") as stream:
                _check_content(file, reader, find_voxels(stream))
        except (RuntimeError, HeaderError, UnreadableFileError, EOFError, zlib.error) as error:
            raise OSError("not all of it could be written; is the disk full? make room there and run again") from error
        file.replace(path)


@contextmanager
def _plainly_named(path: Path) -> Iterator[Path]:
    """A link to the file, alone in a folder."""
    with ExitStack() as stack:
        with temporary_errors():
            link = stack.enter_context(temporary_folder()) / _plain_name(path)
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
    if not all(SMALLEST_SPACING_MM <= step <= LARGEST_SPACING_MM for step in spacing):
        raise UnreadableFileError(str(path), f"has the spacing {spacing} mm; it is probably damaged")
    if not all(abs(place) <= FURTHEST_ORIGIN_MM for place in reader.GetOrigin()):
        raise UnreadableFileError(str(path), f"has the origin {reader.GetOrigin()} mm; it is probably damaged")
    direction = np.reshape(reader.GetDirection(), (3, 3))
    if not np.allclose(direction @ direction.T, np.eye(3), atol=1e-3):
        raise UnreadableFileError(str(path), f"has axes that are not at right angles: {reader.GetDirection()}")


def _check_content(path: Path, reader: sitk.ImageFileReader, voxels: Voxels) -> None:
    """Whether the file holds the voxels that its header tells of; a checksum in it is verified on the way."""
    expected = int(np.prod(reader.GetSize(), dtype=np.float64)) * _voxel_bytes(reader)
    found = not_finite = 0
    for chunk in _inflated(voxels.source) if voxels.is_deflated else iter(lambda: voxels.source.read(_CHUNK), b""):
        found += len(chunk)
        if found > expected:  # no further: a small file may hold many gigabytes
            break
        not_finite += _count_not_finite(chunk, voxels.floats) if voxels.floats else 0
    if found != expected:
        what = "is truncated" if found < expected else "has a header that cannot be true"
        raise UnreadableFileError(str(path), f"{what}: it holds {found} bytes of voxels, not {expected}")
    if not_finite:
        raise UnreadableFileError(str(path), f"has {not_finite} values that are not finite (NaN or infinite)")


def _voxel_bytes(reader: sitk.ImageFileReader) -> int:
    """Bytes of a voxel in the file; of scaled NIfTI, ITK shows another type."""
    if reader.HasMetaDataKey("bitpix"):
        return int(reader.GetMetaData("bitpix")) // 8
    return int(sitk.Image(1, 1, reader.GetPixelID()).GetSizeOfPixelComponent())


def _count_not_finite(chunk: bytes, floats: np.dtype[Any]) -> int:
    values = np.frombuffer(chunk, floats, count=len(chunk) // floats.itemsize)
    return int(np.count_nonzero(~np.isfinite(values)))


def _inflated(source: BinaryIO) -> Iterator[bytes]:
    """The rest of a file, one zlib stream, in chunks of bounded size."""
    decompressor = zlib.decompressobj()
    while chunk := decompressor.unconsumed_tail or source.read(_CHUNK):
        yield decompressor.decompress(chunk, _CHUNK)
    if not decompressor.eof or decompressor.unused_data:
        raise EOFError("the compressed voxels end too early, or too late")


def _one_line(error: BaseException) -> str:
    """ITK's message without the place in its source code, addresses in memory and its guess at the reason."""
    lines = [line.strip() for line in str(error).splitlines() if not line.startswith(("Exception thrown", "Reason:"))]
    text = re.sub(r"(sitk::|ITK )ERROR: |\(0x[0-9a-f]+\)", "", " ".join(lines)).strip()
    return text or type(error).__name__
