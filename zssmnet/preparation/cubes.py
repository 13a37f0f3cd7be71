"""Intensities to 0..1, cubes out, one file a subset.

A file ``bat_<N>_s_<X>x<Y>x<Z>_<subset>.npy`` has the shape (cubes, 4, X, Y, Z): axes (cube, channel, x, y, z), channels
T2W, ADC, DWI, mask. A case's cubes depend only on the seed, the case and the parameters.
"""

import hashlib
import logging
import re
from collections.abc import Callable, Iterable
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from zssmnet.config import CubesConfig, IntensityScaling, check_choice
from zssmnet.data.archive import IMAGE_SUFFIXES, MASK_SUFFIX, shortened
from zssmnet.data.image_io import array_of, check_values, read_image
from zssmnet.data.splits import SUBSETS, checked_subsets
from zssmnet.errors import CaseError, CubesError, InputError, StorageError, UnreadableFileError
from zssmnet.preparation.cropping import Triple
from zssmnet.preparation.prepare import PreparedCase, prepared_keys
from zssmnet.storage import Storage, sha256_of
from zssmnet.storage.ownership import check_ours
from zssmnet.storage.records import (
    NOT_YET,
    Output,
    Record,
    fingerprints,
    publish_record,
    read_record,
    record_key,
    record_names,
    refresh_record,
    remove_record,
    same_content,
    up_to_date,
    with_version,
)

log = logging.getLogger(__name__)

METHOD = 1
"""Raised whenever the same inputs and parameters would give other cubes."""
HIGHEST_ADC = 3000.0
"""ADC is clipped to 0..3000 (1e-6 mm2/s) and divided by it."""
CHANNEL_COUNT = 4
PERCENTILES = (0.1, 99.9)
"""Of the region of interest, which become 0 and 1: a few voxels of a vessel or an artefact set no scale."""
_SUFFIXES = IMAGE_SUFFIXES["nnunet"]
Spacing = tuple[float, float, float]
_CUBES = re.compile(r"(bat_\d+_s_(\d+)x(\d+)x(\d+))_(\d)\.npy")


class CaseCubes(NamedTuple):
    """Where a case's cubes come from: starts (x, y, z) in voxels of its prepared (and, if need be, padded) volume."""

    case_id: str
    starts: tuple[Triple, ...]


class SubsetCubes(Record):
    """The record of a file of cubes: its cases in the order of their cubes.

    Attributes:
        spacing_mm: that its cases were prepared for, x, y, z; None if it is not recorded.
    """

    subset: int
    parameters: CubesConfig
    cases: tuple[CaseCubes, ...]
    spacing_mm: Spacing | None = None

    @override
    def is_valid_for(self, name: str) -> bool:
        keys = [output.key for output in self.outputs]
        return self.subset in SUBSETS and keys == [name] == [cubes_key(self.parameters, self.subset)]


def cubes_key(config: CubesConfig, subset: int) -> str:
    """The file name of a subset's cubes."""
    x, y, z = config.size
    return f"bat_{config.cubes_per_case}_s_{x}x{y}x{z}_{subset}.npy"


def size_of_cubes(key: str) -> Triple | None:
    """The size (x, y, z) of the cubes in a file, by its name; None if it is no such name."""
    named = _CUBES.fullmatch(key)
    return (int(named[2]), int(named[3]), int(named[4])) if named else None


def cut_subset(
    subset: int,
    data: Storage,
    output: Storage,
    config: CubesConfig,
    on_case: Callable[[str], None] = lambda case_id: None,
) -> tuple[SubsetCubes, bool]:
    """Cut the cubes of one subset's prepared cases and publish them, unless they are there already.

    Cubes are written as they come, so memory does not grow with the number of cases.

    Args:
        subset: 0 to 5.
        data: prepared cases, in folders ``subset{k}``.

    Returns:
        The record, and whether any work was done.

    Raises:
        CaseError: a prepared case is incomplete or unreadable.
        InputError: cubes without a record are there: somebody else's; or cases were prepared at several spacings.
        StorageError: prepared cases have changed meanwhile.
    """
    folder = f"subset{subset}"
    seen = data.list(folder)
    case_ids = prepared_cases(data, subset)
    key, number = cubes_key(config, subset), len(case_ids) * config.cubes_per_case
    known = read_record(output, key, SubsetCubes)
    files = [(data, file) for case_id in case_ids for file in prepared_keys(case_id, subset)]
    inputs = fingerprints(files, known.inputs if known else ())
    is_same = known is not None and (known.method, known.parameters) == (METHOD, config)
    if known and is_same and same_content(known.inputs, inputs) and (present := up_to_date(output, known, inputs)):
        refresh_record(output, key, present)
        log.info("subset %d: %d cubes of %d cases are up to date", subset, number, len(case_ids))
        return present, False
    if output.stat(record_key(key)) is None:
        check_ours(output, key, lambda file: False)
    spacing_mm = _spacing(data, case_ids)
    with output.publishing(key) as path:
        cases = _write_cubes(path, subset, case_ids, data, config, on_case)
        if data.list(folder) != seen:
            raise StorageError(
                f"{data.where(folder)}: changed while its cubes were cut, so they are not published; "
                "wait until no other run prepares cases there, and cut them again"
            )
        produced = Output(key=key, size=path.stat().st_size, sha256=sha256_of(path))
        # if this run is killed between the file and its record, the file is ours, and no record tells of another
        to_come = (Output(key=key, size=NOT_YET, sha256=""),)
        record = SubsetCubes(method=METHOD, inputs=inputs, outputs=to_come, subset=subset, parameters=config, cases=())
        publish_record(output, key, record)
    outputs = (with_version(output, produced),)
    record = record.model_copy(update={"outputs": outputs, "cases": tuple(cases), "spacing_mm": spacing_mm})
    publish_record(output, key, record)
    log.info("subset %d: %d cubes of %d cases", subset, number, len(case_ids))
    return record, True


def remove_other_sets(output: Storage, config: CubesConfig) -> list[str]:
    """Remove sets of cubes of another number or size that were made here: training takes the one set that is there.

    Returns the names of the removed files; those without a record were not made here and stay.
    """
    current = {cubes_key(config, subset) for subset in SUBSETS}
    others = [name for name in record_names(output) if _CUBES.fullmatch(name) and name not in current]
    for name in others:
        output.remove(name)
        remove_record(output, name)
    return others


def check_prepared(data: Storage, subsets: Iterable[int] = SUBSETS) -> dict[int, int]:
    """The number of prepared cases of each subset.

    Raises:
        InputError: there is no such subset, or none of them has a prepared case.
        CaseError: a prepared case is incomplete.
    """
    counts = {subset: len(prepared_cases(data, subset)) for subset in checked_subsets(subsets)}
    if not any(counts.values()):
        raise InputError(f"{data.uri}: no prepared case in the folders subset0 to subset5; prepare cases first")
    return counts


def prepared_cases(data: Storage, subset: int) -> list[str]:
    """Ids of the prepared cases of a subset, sorted; CaseError if one's four files are not all there."""
    present = {entry.key for entry in data.list(f"subset{subset}")}
    named = {key.removesuffix(_SUFFIXES[0]) for key in present if key.endswith(_SUFFIXES[0])}
    masks = {name + MASK_SUFFIX for name in named}  # that of a case a_0000 has the name of the T2W of a case a
    case_ids = sorted(PurePath(name).name for name in named if name + _SUFFIXES[0] not in masks)
    expected = {key: case_id for case_id in case_ids for key in prepared_keys(case_id, subset)}
    for key in sorted(expected.keys() - present):
        raise CaseError(expected[key], data.where(key), "missing: prepare the case again")
    for key in sorted(present - expected.keys()):
        if key.endswith(_SUFFIXES):
            case_id = PurePath(key).name.rpartition("_")[0]
            missing = data.where(prepared_keys(case_id, subset)[0])
            raise CaseError(case_id, missing, f"missing, though {key} is there: prepare the case again")
    return case_ids


def cube_starts(case_id: str, size: Triple, config: CubesConfig) -> npt.NDArray[np.int64]:
    """Uniform random starts of a case's cubes, the last possible start included.

    Args:
        case_id: the case; with the seed, it alone decides the draws.
        size: x, y, z size of the volume, at least that of a cube.

    Returns:
        Array (cubes, 3) of x, y, z starts.
    """
    digest = hashlib.sha256(case_id.encode()).digest()
    draws = np.random.default_rng([config.seed, int.from_bytes(digest)])
    last_start = np.subtract(size, config.size)
    return draws.integers(0, last_start, size=(config.cubes_per_case, 3), endpoint=True)


def scaled_volume(
    images_ZYX: tuple[npt.NDArray[Any], ...], mask_ZYX: npt.NDArray[Any], scaling: IntensityScaling = "maximum"
) -> npt.NDArray[np.float32]:
    """The four channels of a case, scaled, with axes (channel, x, y, z).

    T2W and DWI are scaled to 0..1 by their own minimum and maximum, or by percentiles and clipped, ADC is clipped to
    0..3000 and divided by 3000, the mask stays 0, 1, 2.
    """
    check_choice("intensity_scaling", scaling, IntensityScaling)
    t2w, adc, dwi = (image.astype(np.float32, copy=False) for image in images_ZYX)
    channels = [
        _to_unit_range(t2w, scaling),
        np.clip(adc, 0, HIGHEST_ADC) / np.float32(HIGHEST_ADC),
        _to_unit_range(dwi, scaling),
        mask_ZYX,
    ]
    return np.stack([channel.astype(np.float32, copy=False).transpose(2, 1, 0) for channel in channels])


def padded(volume_CXYZ: npt.NDArray[np.float32], size: Triple) -> npt.NDArray[np.float32]:
    """The volume, zero-padded on both sides to at least ``size``; an odd voxel goes to the end."""
    lacking = [max(0, wanted - there) for wanted, there in zip(size, volume_CXYZ.shape[1:], strict=True)]
    return np.pad(volume_CXYZ, [(0, 0), *((lack // 2, lack - lack // 2) for lack in lacking)])


def open_cubes(path: Path) -> npt.NDArray[Any]:
    """A file of cubes as a read-only memory map, axes (cube, channel, x, y, z); CubesError if it is none."""
    try:
        cubes: npt.NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # NumPy's parser of the header raises what Python's own parser does
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CubesError(f"{path}: not a readable file of cubes: {reason}") from error
    if cubes.ndim != 5 or cubes.shape[1] != CHANNEL_COUNT:
        raise CubesError(f"{path}: has the shape {cubes.shape}; expected (cubes, 4, x, y, z)")
    if cubes.dtype not in (np.float16, np.float32, np.float64):
        raise CubesError(f"{path}: holds {cubes.dtype}; expected float16, float32 or float64")
    return cubes


def find_cubes(cubes: Storage) -> dict[int, str]:
    """The files of cubes in a folder, by subset; CubesError if one is missing, or several sets are there."""
    sets: dict[str, dict[int, str]] = {}
    for entry in cubes.list():
        if named := _CUBES.fullmatch(entry.key):
            sets.setdefault(named[1], {})[int(named[5])] = entry.key
    if not sets:
        raise CubesError(
            f"{cubes.uri}: no file bat_<N>_s_<X>x<Y>x<Z>_<subset>.npy; generate cubes first (zssmnet cubes)"
        )
    if len(sets) > 1:
        raise CubesError(
            f"{cubes.uri}: holds several sets of cubes ({shortened(sorted(sets))}); keep one of them there"
        )
    ((family, by_subset),) = sets.items()
    if missing := [subset for subset in SUBSETS if subset not in by_subset]:
        raise CubesError(f"{cubes.uri}: {family}_{missing[0]}.npy is missing; generate the cubes of all six subsets")
    return by_subset


def _write_cubes(
    path: Path,
    subset: int,
    case_ids: list[str],
    data: Storage,
    config: CubesConfig,
    on_case: Callable[[str], None],
) -> list[CaseCubes]:
    shape = (len(case_ids) * config.cubes_per_case, CHANNEL_COUNT, *config.size)
    cases = []
    with path.open("wb") as stream:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(config.dtype)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        for case_id in case_ids:
            volume = padded(_read_prepared(case_id, subset, data, config.intensity_scaling), config.size)
            starts = cube_starts(case_id, volume.shape[1:], config)
            for start in starts:
                window = tuple(slice(low, low + size) for low, size in zip(start, config.size, strict=True))
                stream.write(np.ascontiguousarray(volume[(slice(None), *window)], config.dtype).data)
            cases.append(CaseCubes(case_id, tuple((int(x), int(y), int(z)) for x, y, z in starts)))
            on_case(case_id)
    return cases


def _spacing(data: Storage, case_ids: list[str]) -> Spacing | None:
    """The spacing that the cases with a record were prepared for; InputError for several: a preparation did not end."""
    records = [record for case_id in case_ids if (record := read_record(data, case_id, PreparedCase))]
    found = {record.parameters.spacing_mm: record.case_id for record in records}
    if len(found) > 1:
        known = " and ".join(f"{case_id} at {spacing}" for spacing, case_id in found.items())
        raise InputError(f"{data.uri}: cases of several spacings in mm: {known}; let 'zssmnet prepare' run to its end")
    return next(iter(found), None)


def _read_prepared(case_id: str, subset: int, data: Storage, scaling: IntensityScaling) -> npt.NDArray[np.float32]:
    volumes = []
    for key in prepared_keys(case_id, subset):
        try:
            volumes.append(read_image(data.local(key)))
        except UnreadableFileError as error:
            raise CaseError(case_id, data.where(key), f"{error.reason}; prepare the case again") from error
        size, expected = volumes[-1].GetSize(), volumes[0].GetSize()
        if size != expected:
            raise CaseError(case_id, data.where(key), f"has the size {size}, not {expected}")
        if len(volumes) < CHANNEL_COUNT:  # the mask comes last
            check_values(case_id, data.where(key), volumes[-1], "the image")
    *images, mask = map(array_of, volumes)
    return scaled_volume(tuple(images), mask, scaling)


def _to_unit_range(image: npt.NDArray[np.float32], scaling: IntensityScaling) -> npt.NDArray[np.float32]:
    if scaling == "percentile":
        low, high = np.percentile(image, PERCENTILES).astype(np.float32)
        if low < high:  # else hardly more than one value
            image = image.clip(low, high)
    low, high = image.min(), image.max()
    scaled: npt.NDArray[np.float32] = (image - low) / (high - low)
    return scaled
