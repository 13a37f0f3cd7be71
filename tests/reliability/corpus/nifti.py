"""NIfTI files that lie or are damaged: in nnU-Net's form of an archive."""

import gzip
import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import SimpleITK as sitk

from tests.reliability.corpus.member import IMAGES, BrokenCase, GoodCase
from tests.zssmnet.examinations import Archive, as_image, gland, noise, oblique, write

T2W, ADC, DWI, MASK = range(4)
NAN, INF = float("nan"), float("inf")
BOMB_MIB = 4096
Field = tuple[Any, ...]
"""Offset in the header, format as of `struct`, values."""


def path_of(archive: Archive, case_id: str, which: int):
    return archive.mask_path(case_id) if which == MASK else archive.image_path(which, case_id)


def bytes_of(which: int, change: Callable[[bytes], bytes]) -> Callable[[Archive, str], object]:
    """Change a file."""

    def make(archive: Archive, case_id: str) -> None:
        path = path_of(archive, case_id, which)
        path.write_bytes(change(path.read_bytes()))

    return make


def header(which: int, *fields: Field) -> Callable[[Archive, str], object]:
    """Change fields of a header; the checksum is right again."""
    return bytes_of(which, lambda content: with_fields(content, *fields))


def with_fields(content: bytes, *fields: Field) -> bytes:
    changed = bytearray(gzip.decompress(content))
    for offset, form, *values in fields:
        struct.pack_into(f"<{form}", changed, offset, *values)
    return gzip.compress(changed, 1)


def all_four(*fields: Field) -> Callable[[Archive, str], object]:
    def make(archive: Archive, case_id: str) -> None:
        for which in range(4):
            header(which, *fields)(archive, case_id)

    return make


def image(which: int, build: Callable[[], sitk.Image]) -> Callable[[Archive, str], object]:
    """Another image in place of a good one."""
    return lambda archive, case_id: write(build(), path_of(archive, case_id, which))


def with_value(array: np.ndarray, value: float, dtype: str = "f4") -> sitk.Image:
    changed = array.astype(dtype)
    changed[3, 10, 12] = value
    return as_image(changed)


def flipped(content: bytes, place: float) -> bytes:
    changed = bytearray(content)
    changed[int(place * len(content))] ^= 1
    return bytes(changed)


def bomb(content: bytes) -> bytes:
    """The good file, and then gigabytes of zeros in a few megabytes."""
    return gzip.compress(gzip.decompress(content), 1) + gzip.compress(bytes(2**24), 9) * (BOMB_MIB // 16)


def nifti_2(*sizes: int) -> bytes:
    """A NIfTI-2 header, whose numbers of voxels have 64 bits."""
    content = struct.pack("<i8s2h8q", 540, b"n+2\0\r\n\x1a\n", 512, 16, 3, *sizes, 1, 1, 1, 1)
    content = content.ljust(104, b"\0") + struct.pack("<8dq2d", 1, 0.6, 0.55, 3.3, 1, 1, 1, 1, 544, 1, 0)
    return gzip.compress(content.ljust(544, b"\0") + noise().tobytes())


NO_SFORM, NO_QFORM = (254, "h", 0), (252, "h", 0)
HEADERS: dict[str, list[tuple[str, str, list[Field]]]] = {
    "NIfTI, dimensions that cannot be": [
        ("dim0 0", "has 0 dimensions", [(40, "h", 0)]),
        ("dim0 8", "has 8 dimensions", [(40, "h", 8)]),
        ("dim0 negative", "has -3 dimensions", [(40, "h", -3)]),
        ("dim0 1", r"is 1-D with size \(24,\)", [(40, "h", 1)]),
        ("dim0 2", r"is 2-D with size \(24, 20\)", [(40, "h", 2)]),
        ("dim1 negative", r"asks for \(-24, 20, 8\) voxels", [(42, "h", -24)]),
        ("dim3 0", r"asks for \(24, 20, 0\) voxels", [(46, "h", 0)]),
        ("dims of 32767", r"asks for \(32767, 32767, 32767\) voxels", [(42, "3h", 32767, 32767, 32767)]),
        ("one slice more", "is truncated: it holds 7680 bytes of voxels, not 8640", [(46, "h", 9)]),
        ("one slice less", "cannot be true: it holds 7680 bytes of voxels, not 6720", [(46, "h", 7)]),
    ],
    "NIfTI, voxels at a wrong offset": [
        (f"offset {value:g}", f"puts the voxels at byte {shown}", [(108, "f", value)])
        for value, shown in [(1e30, r"1e\+30"), (INF, "inf"), (NAN, "nan"), (-1, "-1"), (0, "0"), (348, "348")]
    ]
    + [("offset 353", "is truncated: it holds 7679 bytes of voxels", [(108, "f", 353)])],
    "NIfTI, type of the voxels": [
        ("datatype 0", "datatype 0 and bitpix 16, which is no type of numbers", [(70, "h", 0)]),
        ("datatype bit", "datatype 1 and bitpix 1", [(70, "2h", 1, 1)]),
        ("datatype 9999", "datatype 9999", [(70, "h", 9999)]),
        ("datatype of 128 bits", "datatype 1536", [(70, "2h", 1536, 128)]),
        ("datatype RGB", "has 3 values a voxel; one is needed", [(70, "2h", 128, 24)]),
        ("datatype complex", "has 2 values a voxel; one is needed", [(70, "2h", 32, 64)]),
        ("datatype double", "is truncated: it holds 7680 bytes of voxels, not 30720", [(70, "2h", 64, 64)]),
        ("bitpix 8", "datatype 512 and bitpix 8", [(72, "h", 8)]),
        ("bitpix 0", "datatype 512 and bitpix 0", [(72, "h", 0)]),
        ("bitpix negative", "datatype 512 and bitpix -16", [(72, "h", -16)]),
    ],
    "NIfTI, scaling of the values": [
        ("slope infinite", "scales values by scl_slope inf and scl_inter 0", [(112, "f", INF)]),
        ("intercept NaN", "scales values by scl_slope 1 and scl_inter nan", [(116, "f", NAN)]),
        ("intercept infinite", "scl_inter -inf", [(116, "f", -INF)]),
        ("intercept alone", "scales values by scl_slope 0 and scl_inter 5", [(112, "2f", 0, 5)]),
        ("slope beyond float32", "values that are not finite", [(112, "f", 1e38)]),
    ],
    "NIfTI, another kind of header": [
        ("magic", "ends with b'xxxx' instead of b'n", [(344, "4s", b"xxxx")]),
        ("magic of a pair of files", "ends with b'ni1' instead", [(344, "4s", b"ni1\0")]),
        ("magic of Analyze", "ends with b'' instead", [(344, "4s", bytes(4))]),
        ("size of the header", "is neither a NIfTI nor a MetaImage file", [(0, "i", 347)]),
        ("size of a NIfTI-2 header", "is a NIfTI-2 file; save it as NIfTI-1", [(0, "i", 540)]),
    ],
    "spacing: zero, negative, huge, no number": [
        ("spacing 0", r"spacing \(pixdim\) is 0 0.55 3.3", [(80, "f", 0)]),
        ("spacing NaN", r"spacing \(pixdim\) is 1 nan 0.55", [(80, "f", NAN)]),
        ("spacing infinite", r"spacing \(pixdim\) is 1 inf 0.55", [(80, "f", INF)]),
        ("spacing negative", r"has the spacing \(-0.6", [(80, "f", -0.6)]),
        ("spacing huge", r"has the spacing \(1000000000.0", [(80, "f", 1e9), NO_SFORM]),
        ("spacing tiny", r"has the spacing \(9.99.*e-10", [(80, "f", 1e-9), NO_SFORM]),
        ("spacing in metres", r"has the spacing \(600.0", [(123, "B", 1)]),
        ("spacing in micrometres", r"has the spacing \(0.0006", [(123, "B", 3)]),
        ("spacing against sform", "6 0.55 3.3 as pixdim, 0.6 0.55 3.3 as sform", [(80, "f", 6)]),
    ],
    "direction: singular, sheared, no number": [
        ("quaternion too long", r"direction \(quatern\) is 5 5 5", [(256, "3f", 5, 5, 5)]),
        ("quaternion NaN", r"direction \(quatern\) is nan", [(256, "f", NAN)]),
        ("affine NaN", r"\(srow\) is nan", [(280, "f", NAN)]),
        ("affine infinite", r"\(srow\) is inf", [(280, "f", INF)]),
        ("affine of zeros", "0 0 0 as sform", [NO_QFORM, (280, "12f", *[0] * 12)]),
        ("affine sheared", "No orthonormal definition found", [NO_QFORM, (284, "f", 0.5)]),
        ("affine singular", "is no readable image", [NO_QFORM, (280, "4f", 0, 0.9, 0, 1), (296, "4f", 0, 0.5, 0, 1)]),
        ("handedness NaN", r"\(pixdim\) is nan", [(76, "f", NAN)]),
    ],
    "origin: no number, far away": [
        ("origin NaN", r"origin \(qoffset\) is nan", [(268, "f", NAN)]),
        ("origin infinite", r"origin \(qoffset\) is inf", [(268, "f", INF)]),
        ("origin far away", r"has the origin \(-1.*e\+30", [(268, "f", 1e30), (292, "f", 1e30)]),
    ],
}

COMPRESSION: list[tuple[str, str, Callable[[bytes], bytes]]] = [
    ("empty", "is neither a NIfTI nor a MetaImage file", lambda content: b""),
    ("a web page", "is neither a NIfTI nor a MetaImage file", lambda content: b"<html>404</html>\n"),
    ("a pickle", "is neither a NIfTI nor a MetaImage file", lambda content: b"\x80\x04cos\nsystem\n."),
    ("cut after 1 byte", "is neither a NIfTI", lambda content: content[:1]),
    ("cut after 10 bytes", "is truncated or damaged", lambda content: content[:10]),
    ("cut within the header", "is truncated or damaged", lambda content: content[:100]),
    ("cut in the middle", "is truncated or damaged", lambda content: content[: len(content) // 2]),
    ("cut before the checksum", "is truncated or damaged", lambda content: content[:-8]),
    ("cut before the last byte", "is truncated or damaged", lambda content: content[:-1]),
    ("one bit in the middle", "is truncated or damaged|is no readable image", lambda content: flipped(content, 0.5)),
    (
        "one bit in the checksum",
        "is truncated or damaged|is no readable image",
        lambda content: content[:-8] + flipped(content[-8:], 0.1),
    ),
    ("junk behind it", "is truncated or damaged", lambda content: content + b"junk"),
    ("compressed twice", "is neither a NIfTI", gzip.compress),
    ("another kind of content", "is neither a NIfTI", lambda content: gzip.compress(b"no image" * 999)),
    ("100,000 voxels on each axis", "is a NIfTI-2 file", lambda content: nifti_2(100_000, 100_000, 100_000)),
    ("2 to the 62 voxels on an axis", "is a NIfTI-2 file", lambda content: nifti_2(2**62, 4, 8)),
]

VALUES: list[tuple[str, str, Callable[[], sitk.Image]]] = [
    ("a NaN", "has 1 values that are not finite", lambda: with_value(noise(), NAN)),
    ("an infinity", "has 1 values that are not finite", lambda: with_value(noise(), INF)),
    ("a negative infinity", "has 1 values that are not finite", lambda: with_value(noise(), -INF, "f8")),
    ("values beyond float32", "not finite", lambda: with_value(noise(), 1e300, "f8")),
    ("all voxels alike", "image is constant: all voxels are 7", lambda: as_image(np.full_like(noise(), 7))),
    ("two dimensions", "is 2-D with size", lambda: sitk.GetImageFromArray(noise()[0])),
    ("four dimensions", "is 4-D with size", lambda: sitk.JoinSeries([as_image(noise())] * 2)),
    ("vector pixels", "has 3 values a voxel; one is needed", lambda: sitk.Compose([as_image(noise())] * 3)),
    ("a single slice", r"has the size \(24, 20, 1\)", lambda: as_image(noise(size=(24, 20, 1)))),
    ("a grid elsewhere", "lies up to 1 mm away from T2W's grid", lambda: as_image(noise(), origin=(-49.5, 12.25, 7))),
    ("a grid turned", "mm away from T2W's grid", lambda: as_image(noise(), direction=oblique(25))),
    ("a grid mirrored", "mm away", lambda: as_image(noise(), direction=(-1, 0, 0, *oblique(20)[3:]))),
    ("a finer grid", r"has the size \(48, 40, 8\)", lambda: as_image(noise(size=(48, 40, 8)), (0.3, 0.275, 3.3))),
]


def broken_cases() -> Iterator[BrokenCase]:
    """All of them; the file at fault is in turn T2W, ADC, DWI."""
    for fault, members in HEADERS.items():
        for number, (name, says, fields) in enumerate(members):
            which = MASK if name.startswith("slope infinite") else T2W if "-D" in says else number % 3
            yield BrokenCase(name, IMAGES, fault, says, header(which, *fields))
    for number, (name, says, change) in enumerate(COMPRESSION):
        fault = "headers that ask for far too much" if "voxels on" in name else "NIfTI, cut, flipped or foreign bytes"
        yield BrokenCase(name, IMAGES, fault, says, bytes_of(number % 4, change))
    for name, says, build in VALUES:
        fault = "values, dimensions or grid"
        yield BrokenCase(name, IMAGES, fault, says, image(ADC, build))
    yield BrokenCase("a bomb", IMAGES, "compressed gigabytes", "bytes of voxels, not 7680", bytes_of(ADC, bomb))
    spacing = ((80, "3f", 99, 99, 99), NO_SFORM)
    too_large = "would make it 4752 x 3960 x 264 voxels; it is probably damaged"
    yield BrokenCase("90 mm", IMAGES, "headers that ask for far too much", too_large, all_four(*spacing))


def good_cases() -> Iterator[GoodCase]:
    """Odd headers that say the right thing."""
    fault = "odd, and prepared right"
    for name, fields in {
        "7 dimensions of which 4 are 1": [(40, "h", 7)],
        "slope NaN as of no scaling": [(112, "2f", NAN, NAN)],
        "slope 0 as of no scaling": [(112, "2f", 0, 0)],
        "an unknown unit": [(123, "B", 0)],
        "quaternion alone": [NO_SFORM],
        "affine alone": [NO_QFORM],
        "odd handedness": [(76, "f", 7)],
        "range of display NaN": [(124, "2f", NAN, NAN)],
    }.items():
        yield GoodCase(name, IMAGES, fault, all_four(*fields))
    yield GoodCase("big gland", IMAGES, fault, image(MASK, lambda: as_image(np.maximum(gland(), 1))))
