"""What a case gave to training, as one digest: so that a later run knows which cases a model has seen, and as what."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from zssmnet.preparation.cubes import SubsetCubes
from zssmnet.preparation.prepare import PreparedCase, prepared_keys


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


def _digest(sha256s: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sha256s).encode()).hexdigest()
