"""Image files, read and written whole: NIfTI and MetaImage.

ITK reads the header, which was checked; the voxels are decompressed here, once. ITK by itself fills what is missing in
a truncated NIfTI file with zeros, reads its NaN as 0, takes a damaged compressed stream as it comes, takes the voxels
of ``a.nii.gz`` from ``a.nii`` if that is there, and writes to a full disk, all without an error.
"""

import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from isal import igzip, isal_zlib

from zssmnet.data.image_headers import NIFTI_HEADER_BYTES, Header, HeaderError, read_header
from zssmnet.errors import CaseError, UnreadableFileError
from zssmnet.storage.temporary import temporary_errors, temporary_folder

LARGEST_VOLUME = 2**28
"""Voxels; a header that asks for more is taken to be damaged (PI-CAI's largest examination has 3.3e7)."""
SMALLEST_SPACING_MM, LARGEST_SPACING_MM, FURTHEST_ORIGIN_MM = 0.01, 100.0, 1e5
"""What lies beyond is no examination of a patient, but damage or another unit than mm."""
NO_PLACE = "no place"
"""Metadata of an image whose header gives neither origin nor directions."""
_GZIP = b"\x1f\x8b"
_TOO_MUCH = 2**20
"""Bytes that are read beyond the last voxel: a small file may decompress to many gigabytes."""
_COMPRESSION_LEVEL = 1
_GZIP_WINDOW = 31
_DAMAGED: tuple[type[Exception], ...] = (OSError, EOFError, isal_zlib.error)  # type: ignore[assignment]

sitk.ProcessObject.SetGlobalWarningDisplay(False)
# ITK makes its eight global objects when each is first used, in one table without a lock: two threads damaged it, and
# the process did not end. These calls make them all, before there are threads.
sitk.ImageFileReader().GetRegisteredImageIOs()
sitk.Abs(sitk.Image(1, 1, 1, sitk.sitkFloat32))


def read_image(path: Path) -> sitk.Image:
    """A 3-D image with one value a voxel; place (see `NO_PLACE`) and pixel type are as ITK reads them.

    Raises:
        UnreadableFileError: not an image, not 3-D, several values a voxel, truncated, damaged, with a header that
            contradicts itself, or with values that are not finite.
        StorageError: there is no place for temporary files.
    """
    try:
        with path.open("rb") as file:
            is_compressed = file.read(len(_GZIP)) == _GZIP
            file.seek(0)
            stream: Any = igzip.IGzipFile(fileobj=file) if is_compressed else file  # type: ignore[no-untyped-call]
            header = read_header(stream, is_compressed)
            reader = _read_by_itk(path, header)
            _check_geometry(path, reader)
            array = _read_voxels(path, header, reader, stream)
    except HeaderError as error:
        raise UnreadableFileError(str(path), f"is no readable image: {error}") from error
    except _DAMAGED as error:
        text = re.sub(r" 0x[0-9a-f]+ != 0x[0-9a-f]+", "", str(error))  # the two checksums
        raise UnreadableFileError(str(path), f"is truncated or damaged: {text}") from error
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(reader.GetSpacing())
    image.SetOrigin(reader.GetOrigin())
    image.SetDirection(reader.GetDirection())
    if not header.has_place:
        image.SetMetaData(NO_PLACE, "")
    return image


def array_of(image: sitk.Image) -> npt.NDArray[Any]:
    """The image's voxels with axes (z, y, x), as a view: valid as long as ``image`` is."""
    view: npt.NDArray[Any] = sitk.GetArrayViewFromImage(image)
    return view


def image_like(array_ZYX: npt.NDArray[Any], image: sitk.Image) -> sitk.Image:
    """An image of other voxels on the grid of ``image``."""
    made = sitk.GetImageFromArray(array_ZYX)
    made.CopyInformation(image)
    return made


def check_values(case_id: str, address: str, image: sitk.Image, name: str) -> None:
    """Raise a CaseError if values are not finite in float32, or are all the same."""
    values = array_of(image)
    low, high = values.min(), values.max()
    if not max(-float(low), float(high)) <= float(np.finfo(np.float32).max):
        raise CaseError(case_id, address, f"has values that are not finite in float32: {low:g} to {high:g}")
    if low == high:
        raise CaseError(case_id, address, f"{name} is constant: all voxels are {low}")


def write_image(image: sitk.Image, path: str | os.PathLike[str]) -> None:
    """Write an image as ``.nii.gz`` or ``.mha``, compressed; the same image always gives the same bytes.

    Raises:
        OSError: it cannot be written, or not wholly (a full disk).
    """
    path = Path(path)
    with TemporaryDirectory(dir=path.parent) as folder:
        file = Path(folder, f"image{path.suffix}")
        try:
            _write(image, file)
        except (OSError, EOFError, RuntimeError, UnreadableFileError) as error:
            raise OSError("not all of it could be written; is the disk full? make room there and run again") from error
        file.replace(path)


def _write(image: sitk.Image, file: Path) -> None:
    """Write, and check what ITK wrote: to a full disk it writes NIfTI without an error."""
    is_nifti = file.suffix == ".gz"
    by_itk = file.with_suffix(".nii") if is_nifti else file
    writer = sitk.ImageFileWriter()
    writer.SetNumberOfThreads(1)
    writer.SetUseCompression(not is_nifti)
    writer.SetFileName(str(by_itk))
    writer.Execute(image)
    if not is_nifti:
        read_image(file)
        return
    header = by_itk.read_bytes()[:NIFTI_HEADER_BYTES]
    if len(header) < NIFTI_HEADER_BYTES:
        raise EOFError
    content = header + array_of(image).tobytes()
    file.write_bytes(isal_zlib.compress(content, _COMPRESSION_LEVEL, _GZIP_WINDOW))


def _read_by_itk(path: Path, header: Header) -> sitk.ImageFileReader:
    """A reader that has read a header; it gives size, place and pixel type."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO(header.reader)
    with temporary_errors(), temporary_folder() as folder:
        file = folder / f"header{header.suffix}"
        file.write_bytes(header.content)
        reader.SetFileName(str(file))
        try:
            reader.ReadImageInformation()
        except (RuntimeError, MemoryError) as error:
            text = _one_line(error).replace(str(file), path.name)
            raise UnreadableFileError(str(path), f"is no readable image: {text}") from error
    return reader


def _check_geometry(path: Path, reader: sitk.ImageFileReader) -> None:
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


def _read_voxels(path: Path, header: Header, reader: sitk.ImageFileReader, stream: BinaryIO) -> npt.NDArray[Any]:
    """The voxels that the header announces, all of them and no more, axes (z, y, x); a checksum is verified."""
    dtype = header.dtype or _dtype_of(reader)
    voxels = np.empty(reader.GetSize()[::-1], dtype.newbyteorder(">" if header.is_big_endian else "<"))
    data = voxels.reshape(-1).view(np.uint8).data
    found = _inflate_into(data, stream) if header.is_deflated else _read_into(data, stream)
    if found != len(data):
        what = "is truncated" if found < len(data) else "has a header that cannot be true"
        raise UnreadableFileError(str(path), f"{what}: it holds {found} bytes of voxels, not {len(data)}")
    voxels = voxels.astype(dtype, copy=False)
    if (header.slope, header.intercept) != (1, 0):
        precision = _dtype_of(reader)
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found below
            voxels = (voxels.astype(precision) * np.float64(header.slope) + header.intercept).astype(precision)
    if voxels.dtype.kind == "f" and not np.isfinite([voxels.min(), voxels.max()]).all():
        count = np.count_nonzero(~np.isfinite(voxels))
        raise UnreadableFileError(str(path), f"has {count} values that are not finite (NaN or infinite)")
    return voxels


def _dtype_of(reader: sitk.ImageFileReader) -> np.dtype[Any]:
    return array_of(sitk.Image([1, 1, 1], reader.GetPixelID())).dtype


def _read_into(data: memoryview, stream: BinaryIO) -> int:
    """Fill ``data``, and count what is there, though not far beyond its end."""
    found = 0
    while found < len(data) and (count := stream.readinto(data[found:])):  # type: ignore[attr-defined]
        found += count
    return found + len(stream.read(_TOO_MUCH))


def _inflate_into(data: memoryview, stream: BinaryIO) -> int:
    """See :func:`_read_into`; the rest of the stream is one zlib stream."""
    decompressor = isal_zlib.decompressobj()
    content = decompressor.decompress(stream.read(), len(data) + _TOO_MUCH)
    if len(content) == len(data):
        data[:] = content
    if len(content) <= len(data) and (not decompressor.eof or decompressor.unused_data):
        raise EOFError("the compressed voxels end too early, or too late")
    return len(content)


def _one_line(error: BaseException) -> str:
    """ITK's message without the place in its source code, addresses in memory and its guess at the reason."""
    lines = [line.strip() for line in str(error).splitlines() if not line.startswith(("Exception thrown", "Reason:"))]
    text = re.sub(r"(sitk::|ITK )ERROR: |\(0x[0-9a-f]+\)", "", " ".join(lines)).strip()
    return text or type(error).__name__
