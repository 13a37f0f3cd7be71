"""Headers of NIfTI-1 files and MetaImages, checked strictly before ITK reads them.

ITK repairs in silence what it cannot believe (a spacing of NaN becomes 1 mm, an origin of NaN becomes 0), follows a
MetaImage's header to voxels in other files, and crashes where the number of dimensions is. Here a header that
contradicts itself is refused.
"""

import math
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

_NIFTI_1, _NIFTI_2 = 348, 540
"""Bytes of a NIfTI header, with which it begins, in the byte order of the file."""
# of NIfTI-1's header (nifti1.h): byte and format
_FIELDS = {"dim": (40, "8i2"), "datatype": (70, "i2"), "bitpix": (72, "i2"), "pixdim": (76, "8f4")}
_FIELDS |= {"vox_offset": (108, "f4"), "scl_slope": (112, "f4"), "scl_inter": (116, "f4"), "magic": (344, "S4")}
_FIELDS |= {"qform_code": (252, "i2"), "quatern": (256, "3f4"), "qoffset": (268, "3f4")}
_FIELDS |= {"sform_code": (254, "i2"), "srow": (280, "(3,4)f4")}
_BYTES, _FORMATS = zip(*_FIELDS.values(), strict=True)
_HEADER = np.dtype({"names": list(_FIELDS), "offsets": _BYTES, "formats": _FORMATS, "itemsize": _NIFTI_1})
_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 32: "c8", 64: "f8", 128: "V3", 256: "i1", 512: "u2", 768: "u4"}
_TYPES |= {1024: "i8", 1280: "u8", 1792: "c16", 2304: "V4"}
"""Types of NIfTI-1's voxels by their code; V are colours. Complex numbers and colours are refused later."""
_EXTENSIONS = 4
NIFTI_HEADER_BYTES = _NIFTI_1 + _EXTENSIONS
"""Bytes before the voxels where there are no extensions."""
_LARGEST_OFFSET = 2**24  # bytes of a NIfTI file before its voxels: its extensions
_LONGEST_HEADER = 2**16  # bytes of a MetaImage's header
_MOST_DIMENSIONS = 10


class HeaderError(ValueError):
    """A header that contradicts itself; the message gives the reason."""


@dataclass(frozen=True)
class Header:
    """What ITK needs to read a header, and where the voxels are. The stream is left at the first voxel."""

    reader: str  # ITK's name of what reads the format
    content: bytes  # a file that holds the header alone
    suffix: str  # of such a file
    dtype: np.dtype[Any] | None = None  # of a NIfTI file; a MetaImage's follows from the header as ITK reads it
    is_big_endian: bool = False
    is_deflated: bool = False  # whether the rest of the stream is one zlib stream
    slope: float = 1.0  # voxels are values times slope plus intercept
    intercept: float = 0.0
    has_place: bool = True  # whether it gives an origin and directions of axes


def read_header(stream: BinaryIO, is_compressed: bool) -> Header:
    """Read and check the header of a file.

    Raises:
        HeaderError: neither NIfTI-1 nor MetaImage, or a header that contradicts itself.
        OSError, EOFError: damaged compression.
    """
    first = stream.read(4)
    sizes = [int.from_bytes(first, order) for order in ("little", "big")]
    if _NIFTI_1 in sizes:
        return _nifti(stream, first + stream.read(_NIFTI_1 - len(first)), "<" if sizes[0] == _NIFTI_1 else ">")
    if _NIFTI_2 in sizes:
        raise HeaderError("it is a NIfTI-2 file; save it as NIfTI-1")
    if not is_compressed and first.isalpha():
        stream.seek(0)
        return _meta_image(stream)
    raise HeaderError("it is neither a NIfTI nor a MetaImage file")


def _nifti(stream: BinaryIO, content: bytes, order: Literal["<", ">"]) -> Header:
    if len(content) < _NIFTI_1:
        raise HeaderError(f"it ends within its header, after {len(content)} bytes")
    header: np.void = np.frombuffer(content, _HEADER.newbyteorder(order))[0]
    if (magic := bytes(header["magic"])) != b"n+1":
        raise HeaderError(f"its header ends with {magic!r} instead of b'n+1'")
    dimensions = int(header["dim"][0])
    if not 1 <= dimensions <= 7:
        raise HeaderError(f"its header has {dimensions} dimensions")
    if (sizes := header["dim"][1 : dimensions + 1]).min() < 1:
        raise HeaderError(f"its header asks for ({', '.join(map(str, sizes))}) voxels")
    code, bits = int(header["datatype"]), int(header["bitpix"])
    dtype = np.dtype(_TYPES.get(code, "V0"))
    if not dtype.itemsize or dtype.itemsize * 8 != bits:
        raise HeaderError(f"its header has datatype {code} and bitpix {bits}, which is no type of numbers")
    slope, intercept = _scaling(float(header["scl_slope"]), float(header["scl_inter"]))
    _check_place(header, min(dimensions, 3))
    offset = float(header["vox_offset"])
    if not NIFTI_HEADER_BYTES <= offset <= _LARGEST_OFFSET:
        raise HeaderError(f"its header puts the voxels at byte {offset:g}")
    stream.read(int(offset) - _NIFTI_1)
    alone = bytearray(content + bytes(_EXTENSIONS))
    struct.pack_into(f"{order}f", alone, _FIELDS["vox_offset"][0], NIFTI_HEADER_BYTES)
    place = bool(header["qform_code"] > 0 or header["sform_code"] > 0)
    return Header("NiftiImageIO", bytes(alone), ".nii", dtype, order == ">", False, slope, intercept, place)


def _scaling(slope: float, intercept: float) -> tuple[float, float]:
    """A slope of 0 or NaN means that values are not scaled; ITK adds the intercept all the same."""
    is_scaled = slope != 0 and not math.isnan(slope)
    if is_scaled and math.isfinite(slope) and math.isfinite(intercept):
        return slope, intercept
    if is_scaled or not (intercept == 0 or math.isnan(intercept)):
        raise HeaderError(f"its header scales values by scl_slope {slope:g} and scl_inter {intercept:g}")
    return 1.0, 0.0


def _check_place(header: np.void, axes: int) -> None:
    """Spacing and place are numbers, and agree with each other."""
    spacing = header["pixdim"][1 : axes + 1]
    _check("spacing (pixdim)", header["pixdim"][: axes + 1])
    _check("spacing (pixdim)", spacing, spacing.all())
    if header["qform_code"] > 0:
        quaternion = header["quatern"]
        _check("direction (quatern)", quaternion)
        _check("origin (qoffset)", header["qoffset"])
        _check("direction (quatern)", quaternion, np.square(quaternion, dtype=np.float64).sum() <= 1.001)
    if header["sform_code"] > 0:
        rows = header["srow"]
        _check("direction and origin (srow)", rows.ravel())
        steps = rows[:, :axes].astype(np.float64)
        lengths = np.linalg.norm(steps, axis=0)
        overlaps = steps.T @ steps - np.diag(lengths**2)
        if np.abs(overlaps).max() <= 1e-3 * lengths.max() ** 2 and not np.allclose(lengths, np.abs(spacing), rtol=0.01):
            raise HeaderError(f"its header gives the spacing {_listed(spacing)} as pixdim, {_listed(lengths)} as sform")


def _check(name: str, values: Sequence[float] | npt.NDArray[Any], is_right: bool | np.bool_ = True) -> None:
    if not (is_right and np.isfinite(values).all()):
        raise HeaderError(f"its header cannot be true: {name} is {_listed(values)}")


def _listed(values: Sequence[float] | npt.NDArray[Any]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _meta_image(stream: BinaryIO) -> Header:
    fields = _meta_image_fields(stream)
    if (file := fields["ElementDataFile"]).upper() != "LOCAL":
        raise HeaderError(f"its voxels are said to lie in {file!r}; a file that holds them itself (LOCAL) is needed")
    dimensions = _numbers(fields, "NDims", 1)
    if not (dimensions and dimensions[0] in range(1, _MOST_DIMENSIONS + 1)):
        raise HeaderError(f"its header has {fields.get('NDims', 'no number of')} dimensions")
    axes = int(dimensions[0])
    sizes = _numbers(fields, "DimSize", axes)
    _check("DimSize", sizes, all(size.is_integer() for size in sizes))
    for name, count in _PLACES.items():
        _numbers(fields, name, axes**count)
    for name, allowed in _ALLOWED.items():
        if name in fields and fields[name].lower() not in allowed:
            raise HeaderError(f"its header has {name} = {fields[name]}; expected {' or '.join(allowed)}")
    orders = {fields[name].lower() for name in ("BinaryDataByteOrderMSB", "ElementByteOrderMSB") if name in fields}
    if len(orders) > 1:
        raise HeaderError("its header contradicts itself: BinaryDataByteOrderMSB and ElementByteOrderMSB differ")
    is_deflated = fields.get("CompressedData", "False").lower() == "true"
    here = stream.tell()
    there = stream.seek(0, 2) - here
    if is_deflated and (given := fields.get("CompressedDataSize", str(there))) != str(there):
        raise HeaderError(f"it is truncated or damaged: {there} bytes of compressed voxels, CompressedDataSize {given}")
    stream.seek(0)
    content = stream.read(here)
    return Header("MetaImageIO", content, ".mha", is_big_endian="true" in orders, is_deflated=is_deflated)


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
            raise HeaderError("it is neither a NIfTI nor a MetaImage file")
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
