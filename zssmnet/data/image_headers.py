"""Headers of NIfTI-1 files and MetaImages, checked strictly before ITK sees the file.

ITK repairs in silence what it cannot believe (a spacing of NaN becomes 1 mm, an origin of NaN becomes 0), follows a
MetaImage's header to voxels in other files, leaves voxels undefined where the compressed size is wrong, and crashes
where the number of dimensions is. Here a header that contradicts itself or its file is refused.
"""

import gzip
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, NoReturn

import numpy as np

_GZIP = b"\x1f\x8b"
_LONGEST_HEADER = 2**16  # bytes of a MetaImage's header
_LARGEST_OFFSET = 2**24  # bytes of a NIfTI file before its voxels: its extensions
_MOST_DIMENSIONS = 10
_FOREIGN = "it is neither a NIfTI nor a MetaImage file"

_NIFTI = np.dtype(
    {
        "names": [
            *("dim", "datatype", "bitpix", "pixdim", "vox_offset", "scl_slope", "scl_inter"),
            *("qform_code", "sform_code", "quatern", "qoffset", "srow", "magic"),
        ],
        "formats": ["8i2", "i2", "i2", "8f4", "f4", "f4", "f4", "i2", "i2", "3f4", "3f4", "12f4", "S4"],
        "offsets": [40, 70, 72, 76, 108, 112, 116, 252, 254, 256, 268, 280, 344],
        "itemsize": 348,
    }
)
"""The fields of a NIfTI-1 header that are looked at."""
_SIZE, _SIZE_OF_NIFTI_2 = 348, 540  # of the header: what a file begins with, in its byte order
_ORDERS: dict[Literal["little", "big"], Literal["<", ">"]] = {"little": "<", "big": ">"}
_NUMBERS = {2: 8, 4: 16, 8: 32, 16: 32, 64: 64, 256: 8, 512: 16, 768: 32, 1024: 64, 1280: 64}
_SEVERAL = {32: 64, 1792: 128, 128: 24, 2304: 32}  # complex numbers and colours: refused later, for several values
_BITS = _NUMBERS | _SEVERAL
"""Bits of a voxel for each datatype that ITK reads."""
_FLOATS = {16: "f4", 64: "f8"}


class HeaderError(ValueError):
    """A header that cannot be true: the message says why."""


@dataclass(frozen=True)
class Voxels:
    """Where the voxels of a file are, and what ITK hides of them.

    Attributes:
        reader: ITK's name of what reads the file.
        source: the file at its first voxel; a NIfTI file decompressed.
        is_deflated: whether the rest of ``source`` is one zlib stream.
        floats: type of the voxels, if values that are not finite have to be looked for; ITK reads those of NIfTI as 0.
    """

    reader: str
    source: BinaryIO
    is_deflated: bool = False
    floats: np.dtype[Any] | None = None


def find_voxels(stream: BinaryIO) -> Voxels:
    """Check the header of a file, and go to its voxels.

    Raises:
        HeaderError: neither NIfTI-1 nor MetaImage, or a header that contradicts itself or the file.
        OSError, EOFError, zlib.error: damaged compression.
    """
    is_compressed = stream.read(len(_GZIP)) == _GZIP
    stream.seek(0)
    source: Any = gzip.GzipFile(fileobj=stream) if is_compressed else stream
    first = source.read(4)
    size = {order: int.from_bytes(first, order) for order in _ORDERS}
    for order, mark in _ORDERS.items():
        if size[order] == _SIZE:
            return _nifti(source, first + source.read(_SIZE - len(first)), mark)
    if _SIZE_OF_NIFTI_2 in size.values():
        raise HeaderError("it is a NIfTI-2 file; save it as NIfTI-1")
    if not is_compressed and first.isalpha():
        stream.seek(0)
        return _meta_image(stream)
    raise HeaderError(_FOREIGN)


def _nifti(source: BinaryIO, content: bytes, order: Literal["<", ">"]) -> Voxels:
    if len(content) < _SIZE:
        raise HeaderError(f"it ends within its header, after {len(content)} bytes")
    header = np.frombuffer(content, _NIFTI.newbyteorder(order))[0]
    if (magic := bytes(header["magic"])) != b"n+1":
        raise HeaderError(f"its header ends with {magic!r} instead of b'n+1'")
    dimensions, datatype, bits = int(header["dim"][0]), int(header["datatype"]), int(header["bitpix"])
    if not 1 <= dimensions <= 7:
        raise HeaderError(f"its header tells of {dimensions} dimensions")
    if (sizes := header["dim"][1 : dimensions + 1]).min() < 1:
        raise HeaderError(f"its header asks for ({', '.join(map(str, sizes))}) voxels")
    if _BITS.get(datatype) != bits:
        raise HeaderError(f"its header says datatype {datatype} and bitpix {bits}, which is no type of numbers")
    _check_scaling(float(header["scl_slope"]), float(header["scl_inter"]))
    _check_place(header, min(dimensions, 3))
    offset = float(header["vox_offset"])
    if not _SIZE + 4 <= offset <= _LARGEST_OFFSET:
        raise HeaderError(f"its header puts the voxels at byte {offset:g}")
    source.read(int(offset) - _SIZE)
    floats = np.dtype(order + _FLOATS[datatype]) if datatype in _FLOATS else None
    return Voxels("NiftiImageIO", source, floats=floats)


def _check_scaling(slope: float, intercept: float) -> None:
    """A slope of 0 or NaN means that values are not scaled; ITK adds the intercept all the same."""
    is_scaled = slope != 0 and not math.isnan(slope)
    is_good = (
        math.isfinite(slope) and math.isfinite(intercept) if is_scaled else intercept == 0 or math.isnan(intercept)
    )
    if not is_good:
        raise HeaderError(f"its header scales values by scl_slope {slope:g} and scl_inter {intercept:g}")


def _check_place(header: Any, axes: int) -> None:
    """Spacing and place are numbers, and agree with each other."""
    spacing = header["pixdim"][1 : axes + 1]
    _check_finite("spacing (pixdim)", header["pixdim"][: axes + 1])
    if not spacing.all():
        _refuse("spacing (pixdim)", spacing)
    if header["qform_code"] > 0:
        _check_finite("direction (quatern)", header["quatern"])
        _check_finite("origin (qoffset)", header["qoffset"])
        if not np.square(header["quatern"], dtype=np.float64).sum() <= 1.001:
            _refuse("direction (quatern)", header["quatern"])
    if header["sform_code"] > 0:
        _check_finite("direction and origin (srow)", header["srow"])
        steps = header["srow"].reshape(3, 4)[:, :axes].astype(np.float64)
        lengths = np.linalg.norm(steps, axis=0)
        overlaps = steps.T @ steps - np.diag(lengths**2)
        if np.abs(overlaps).max() <= 1e-3 * lengths.max() ** 2 and not np.allclose(lengths, np.abs(spacing), rtol=0.01):
            raise HeaderError(f"its header gives the spacing {_listed(spacing)} as pixdim, {_listed(lengths)} as sform")


def _check_finite(name: str, values: Sequence[float]) -> None:
    if not np.isfinite(values).all():
        _refuse(name, values)


def _refuse(name: str, values: Sequence[float]) -> NoReturn:
    raise HeaderError(f"its header cannot be true: {name} is {_listed(values)}")


def _listed(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _meta_image(stream: BinaryIO) -> Voxels:
    fields = _meta_image_fields(stream)
    if (file := fields["ElementDataFile"]).upper() != "LOCAL":
        raise HeaderError(f"its voxels are said to lie in {file!r}; a file that holds them itself (LOCAL) is needed")
    dimensions = _numbers(fields, "NDims", 1)
    if not (dimensions and dimensions[0] in range(1, _MOST_DIMENSIONS + 1)):
        raise HeaderError(f"its header tells of {fields.get('NDims', 'no number of')} dimensions")
    axes = int(dimensions[0])
    sizes = _numbers(fields, "DimSize", axes)
    if not all(size.is_integer() for size in sizes):
        _refuse("DimSize", sizes)
    for name, count in _PLACES.items():
        _numbers(fields, name, axes**count)
    for name, allowed in _ALLOWED.items():
        if name in fields and fields[name].lower() not in allowed:
            raise HeaderError(f"its header says {name} = {fields[name]}; expected {' or '.join(allowed)}")
    orders = {fields[name].lower() for name in ("BinaryDataByteOrderMSB", "ElementByteOrderMSB") if name in fields}
    if len(orders) > 1:
        raise HeaderError("its header contradicts itself: BinaryDataByteOrderMSB and ElementByteOrderMSB differ")
    is_deflated = fields.get("CompressedData", "False").lower() == "true"
    there = _bytes_left(stream)
    if is_deflated and (told := fields.get("CompressedDataSize", str(there))) != str(there):
        raise HeaderError(f"it is truncated or damaged: {there} bytes of compressed voxels, CompressedDataSize {told}")
    return Voxels("MetaImageIO", stream, is_deflated)


_PLACES = {
    **dict.fromkeys(("ElementSpacing", "ElementSize", "Offset", "Position", "Origin", "CenterOfRotation"), 1),
    **dict.fromkeys(("TransformMatrix", "Rotation", "Orientation"), 2),
}
"""Fields of numbers: one for each axis, or for each pair of axes."""
_ALLOWED = {
    "BinaryData": ("true",),
    "CompressedData": ("true", "false"),
    "HeaderSize": ("0",),  # others would skip voxels
    "DistanceUnits": ("mm", "?"),  # ITK takes all for mm
    "ElementToIntensityFunctionSlope": ("1", "1.0"),  # ITK does not scale
    "ElementToIntensityFunctionOffset": ("0", "0.0"),
}


def _meta_image_fields(stream: BinaryIO) -> dict[str, str]:
    fields: dict[str, str] = {}
    while "ElementDataFile" not in fields:
        line = stream.readline(_LONGEST_HEADER)
        found = re.fullmatch(r"([^=:]+?)\s*[=:]\s*(.*)", line.decode("latin-1").strip())
        if found is None and not fields:
            raise HeaderError(_FOREIGN)
        if not line.endswith(b"\n") or stream.tell() > _LONGEST_HEADER:
            raise HeaderError("it is truncated, or damaged: its header has no end")
        if found is None:
            raise HeaderError(f"its header has the line {line[:80]!r}")
        if found[1] in fields:
            raise HeaderError(f"its header gives {found[1]} twice")
        fields[found[1]] = found[2]
    return fields


def _numbers(fields: dict[str, str], name: str, count: int) -> list[float]:
    """The numbers of a field; none if it is not there."""
    texts = fields.get(name, "").split()
    try:
        values = [float(text) for text in texts]
    except ValueError:
        values = [math.nan]
    if name in fields and (len(values) != count or not all(math.isfinite(value) for value in values)):
        raise HeaderError(f"its header cannot be true: {name} is {fields[name]!r}")
    return values


def _bytes_left(stream: BinaryIO) -> int:
    here = stream.tell()
    end = stream.seek(0, 2)
    stream.seek(here)
    return end - here
