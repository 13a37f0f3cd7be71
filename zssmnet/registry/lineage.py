"""Inputs of training: files of cubes, and the cases behind them, each as one digest.

So a later run knows which cases a model has seen, and as what.
"""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from zssmnet.config import IntensityScaling
from zssmnet.data.archive import shortened
from zssmnet.data.splits import SUBSETS, VALIDATION_SUBSET
from zssmnet.errors import CubesError
from zssmnet.preparation.cubes import Spacing, SubsetCubes, find_cubes
from zssmnet.preparation.prepare import PreparedCase, prepared_keys
from zssmnet.storage import Storage
from zssmnet.storage.records import Input, fingerprints, read_record, up_to_date

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CaseData:
    """A prepared case as a model saw it.

    Attributes:
        subset: 0 to 5; it decides whether the case is trained on or validated with.
        sha256: one digest over those of its four prepared files.
    """

    case_id: str
    subset: int
    sha256: str


def data_of_case(record: PreparedCase) -> CaseData:
    """The data of a prepared case."""
    return CaseData(record.case_id, record.subset, _digest(output.sha256 for output in record.outputs))


def data_of_cubes(record: SubsetCubes) -> tuple[CaseData, ...]:
    """The data of a subset's cases as they were when their cubes were cut, in the order of their cubes."""
    sha256s = {one.name: one.sha256 for one in record.inputs}
    return tuple(
        CaseData(
            case.case_id,
            record.subset,
            _digest(sha256s.get(key, "") for key in prepared_keys(case.case_id, record.subset)),
        )
        for case in record.cases
    )


@dataclass(frozen=True)
class TrainingInputs:
    """Contents of a folder of cubes.

    Attributes:
        files: fingerprints of its six files.
        data: the recorded cases behind them.
        spacing_mm: recorded spacing x, y, z.
        intensity_scaling: recorded scaling of T2W and DWI.
    """

    files: tuple[Input, ...]
    data: tuple[CaseData, ...]
    spacing_mm: Spacing | None
    intensity_scaling: IntensityScaling = "maximum"


def training_inputs(cubes: Storage, earlier: Sequence[Input] = ()) -> TrainingInputs:
    """Fingerprint the files of cubes; those with a record, or an earlier fingerprint, of their version are not read.

    Where a file of cubes does not match its record, nothing is known about the cases behind it.

    Raises:
        CubesError: there are no cubes, or not of all subsets, they were cut in several ways, or a case is both trained
            on and validated with.
    """
    by_subset = find_cubes(cubes)
    keys = [by_subset[subset] for subset in SUBSETS]
    known, data = list(earlier), list[CaseData]()
    spacings, scalings = dict[Spacing, str](), dict[IntensityScaling, str]()
    for key in keys:
        record = read_record(cubes, key, SubsetCubes)
        if present := up_to_date(cubes, record):
            (output,) = present.outputs
            known.append(Input(name=key, size=output.size, version=output.version, sha256=output.sha256))
            data.extend(data_of_cubes(present))
            scalings[present.parameters.intensity_scaling] = key
            if present.spacing_mm:
                spacings[present.spacing_mm] = key
        elif record:
            log.warning(
                "%s: does not match its record; 'zssmnet cubes' cuts the cubes of the prepared cases anew",
                cubes.where(key),
            )
    for found in (spacings, scalings):
        if len(found) > 1:
            ways = " and ".join(f"{key}: {way}" for way, key in found.items())
            raise CubesError(f"{cubes.uri}: cubes were cut in several ways ({ways}); cut all with 'zssmnet cubes'")
    _check_sides(cubes, data)
    files, scaling = fingerprints([(cubes, key) for key in keys], known), next(iter(scalings), None)
    return TrainingInputs(files, tuple(data), next(iter(spacings), None), scaling or "maximum")


def _digest(sha256s: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sha256s).encode()).hexdigest()


def _check_sides(cubes: Storage, data: Sequence[CaseData]) -> None:
    """No case is both trained on and validated with: the validation loss would measure memory."""
    validated = [one for one in data if one.subset == VALIDATION_SUBSET]
    trained = [one for one in data if one.subset != VALIDATION_SUBSET]
    if both := sorted({one.case_id for one in trained} & {one.case_id for one in validated}):
        raise CubesError(
            f"{cubes.uri}: {len(both)} cases are both trained on and validated with: {shortened(both)}; "
            "generate the cubes of all six subsets anew"
        )
    known = {one.sha256: one.case_id for one in trained}
    if alike := [f"{one.case_id} is {known[one.sha256]}" for one in validated if one.sha256 in known]:
        log.warning(
            f"{cubes.uri}: {len(alike)} validation cases have the images of training cases ({shortened(alike)}): the "
            "validation loss is too good; remove one of each from the archive"
        )
