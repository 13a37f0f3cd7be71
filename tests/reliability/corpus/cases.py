"""Masks, ids and pairings of files that are wrong, or look so."""

import shutil
from collections.abc import Iterator

import numpy as np
import SimpleITK as sitk

from tests.reliability.corpus.member import ARCHIVE, MASKS, BrokenCase, GoodCase
from tests.reliability.corpus.nifti import MASK, NAN, bytes_of, image, with_value
from tests.zssmnet.examinations import SIZE, Archive, as_image, gland


def voxels(*boxes: tuple[slice, slice, slice], dtype: str = "uint8") -> sitk.Image:
    """A mask of boxes (z, y, x), labels 1, 2, ..."""
    array = np.zeros(SIZE[::-1], dtype)
    for label, box in enumerate(boxes, 1):
        array[box] = label
    return as_image(array)


def one(z: int, y: int, x: int) -> tuple[slice, slice, slice]:
    return slice(z, z + 1), slice(y, y + 1), slice(x, x + 1)


def broken_masks() -> Iterator[BrokenCase]:
    empty, labels, values = "empty", "wrong labels", "values, dimensions or grid"
    for case_id, fault, says, build in [
        ("mask of zeros", empty, "the mask has no foreground: no voxel is labelled 1 or 2", voxels),
        ("mask of one label 3", labels, "has the labels 3; only 0, 1 and 2 are zones", lambda: with_value(gland(), 3)),
        ("mask of 255", labels, "has the labels 255; only", lambda: as_image((gland() > 0) * np.uint8(255))),
        ("mask with a label -1", labels, "has the labels -1;", lambda: with_value(gland(), -1)),
        ("mask with a label 1.5", labels, "has the labels 1.5;", lambda: with_value(gland(), 1.5)),
        ("mask with a label 0.002", labels, "has the labels 0.002;", lambda: with_value(gland(), 0.002)),
        ("mask of an image", labels, "has the labels 3, .*; only 0, 1 and 2", lambda: as_image(gland() * 50 + 3)),
        ("mask with a NaN", values, "has 1 values that are not finite", lambda: with_value(gland(), NAN)),
        ("mask in 2-D", values, "is 2-D with size", lambda: sitk.GetImageFromArray(gland()[4])),
        ("mask of vectors", values, "has 2 values a voxel", lambda: sitk.Compose([as_image(gland())] * 2)),
        (
            "mask elsewhere",
            values,
            "lies up to 5 mm away from T2W's",
            lambda: as_image(gland(), origin=(-45.5, 12.25, 7)),
        ),
        ("mask without geometry", values, "mm away from T2W's grid", lambda: sitk.GetImageFromArray(gland())),
        ("mask of another size", values, r"has the size \(24, 20, 9\)", lambda: as_image(gland((24, 20, 9)))),
    ]:
        yield BrokenCase(case_id, MASKS, fault, says, image(MASK, build))
    yield BrokenCase("mask cut", MASKS, values, "is truncated", bytes_of(MASK, lambda content: content[:-9]))


def good_masks() -> Iterator[GoodCase]:
    fault = "one voxel, at the border, of another type"
    z, y, x = (size - 1 for size in SIZE[::-1])
    everything = (slice(None),) * 3
    for case_id, build in {
        "one voxel": lambda: voxels(one(4, 10, 12)),
        "one voxel in the first corner": lambda: voxels(one(0, 0, 0)),
        "one voxel in the last corner": lambda: voxels(one(z, y, x)),
        "two far corners": lambda: voxels(one(0, 0, 0), one(z, y, x)),
        "mask along a side": lambda: voxels((slice(None), slice(18, None), slice(0, 3)), one(4, 17, 1)),
        "mask that is all gland": lambda: voxels(everything, (slice(None), slice(0, 10), slice(None))),
        "mask of floats": lambda: as_image(gland(dtype="float32")),
        "mask with a label 1e-6": lambda: with_value(gland(), gland()[3, 10, 12] + 1e-6),
        "mask of 64 bits": lambda: as_image(gland(dtype="int64")),
        "peripheral zone alone": lambda: as_image((gland() == 1).astype(np.uint8)),
    }.items():
        yield GoodCase(case_id, MASKS, fault, image(MASK, build))


def without(which: int):
    def make(archive: Archive, case_id: str) -> None:
        (archive.mask_path(case_id) if which == MASK else archive.image_path(which, case_id)).unlink()

    return make


def twice(which: int):
    def make(archive: Archive, case_id: str) -> None:
        path = archive.mask_path(case_id) if which == MASK else archive.image_path(which, case_id)
        (path.parent / "again").mkdir(exist_ok=True)
        shutil.copy(path, path.parent / "again" / path.name)

    return make


def a_folder(archive: Archive, case_id: str) -> None:
    archive.image_path(1, case_id).unlink()
    (archive.image_path(1, case_id) / "inside").mkdir(parents=True)


def a_dead_link(archive: Archive, case_id: str) -> None:
    archive.image_path(2, case_id).unlink()
    archive.image_path(2, case_id).symlink_to("nothing here")


def of_macos(archive: Archive, case_id: str) -> None:
    """What macOS adds to every file on a disk of another kind, and to archives."""
    for path in (archive.image_path(0, case_id), archive.image_path(1, case_id), archive.mask_path(case_id)):
        (path.parent / f"._{path.name}").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(100))
        (path.parent / "__MACOSX").mkdir(exist_ok=True)
        shutil.copy(path.parent / f"._{path.name}", path.parent / "__MACOSX")
        shutil.copy(path, path.parent / "__MACOSX")


def as_it_is(archive: Archive, case_id: str) -> None:
    """The id alone is odd."""


def broken_archive() -> Iterator[BrokenCase]:
    pairing, duplicate, ids = "a file missing", "duplicate ids", "ids that cannot name a file"
    yield BrokenCase("no ADC", ARCHIVE, pairing, "missing: the case has no ADC image", without(1))
    yield BrokenCase("no T2W", ARCHIVE, pairing, "missing: the case has no T2W image", without(0))
    yield BrokenCase("no mask", ARCHIVE, pairing, "missing: the case has no zonal mask", without(MASK))
    yield BrokenCase("a folder for ADC", ARCHIVE, pairing, "missing: the case has no ADC image", a_folder)
    yield BrokenCase("a dead link for DWI", ARCHIVE, pairing, "missing: the case has no DWI image", a_dead_link)
    yield BrokenCase("T2W twice", ARCHIVE, duplicate, "the id is there twice", twice(0))
    yield BrokenCase("mask twice", ARCHIVE, duplicate, "the id is there twice", twice(MASK))
    yield BrokenCase("plain_0001", ARCHIVE, duplicate, "has the name of an image of case plain; rename one", as_it_is)
    yield BrokenCase("two\nlines", ARCHIVE, ids, "control characters", as_it_is)
    yield BrokenCase("bell\a", ARCHIVE, ids, "control characters", as_it_is)
    yield BrokenCase("line\N{LINE SEPARATOR}separator", ARCHIVE, ids, "control characters", as_it_is)
    yield BrokenCase("Latin-1 \udce9", ARCHIVE, ids, "not UTF-8", as_it_is)
    yield BrokenCase("", ARCHIVE, ids, "the case has no id", as_it_is)


def good_ids() -> Iterator[GoodCase]:
    fault = "ids with dots, spaces, Unicode"
    odd = [
        "plain",
        "..",
        "...",
        "two words",
        " spaces ",
        "Łódź 前立腺 🩻",
        "-rf",
        "%s{x}$(id)`id`",
        "a;b&c|d",
        "'\"\\",
        "*?[x]",
    ]
    for case_id in [*odd, "e\N{COMBINING ACUTE ACCENT}", "x" * 100, "records", ".partial", "CON", "nul.json"]:
        yield GoodCase(case_id, ARCHIVE, fault, as_it_is)
    yield GoodCase("copied by macOS", ARCHIVE, "files that macOS adds", of_macos)
