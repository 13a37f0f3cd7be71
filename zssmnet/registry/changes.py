"""Changes of an archive since it was prepared, and since the published model was trained."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from zssmnet.config import PreparationConfig
from zssmnet.data.archive import Case
from zssmnet.errors import CaseError
from zssmnet.preparation.prepare import PreparedCase, up_to_date_record
from zssmnet.registry.lineage import CaseData, data_of_case
from zssmnet.storage import Storage
from zssmnet.storage.interface import Listed
from zssmnet.storage.records import record_names, refresh_record

_CASES_AT_ONCE = 16
"""Cases examined in parallel: in a bucket, that is mostly waiting."""


@dataclass(frozen=True)
class Changes:
    """Changes of an archive.

    Attributes:
        to_prepare: cases that are not prepared yet, or whose files, subset or parameters are not those of their record.
        up_to_date: records of prepared cases that are still valid.
        gone: ids of cases that an earlier run prepared, which are not among the cases with a subset any more.
        new: ids of cases that neither the published model nor the last challenger saw.
        changed: ids of cases that they saw with another content, or in another subset.
    """

    to_prepare: tuple[Case, ...]
    up_to_date: tuple[PreparedCase, ...]
    gone: tuple[str, ...]
    new: tuple[str, ...]
    changed: tuple[str, ...]


def find_changes(
    cases: Sequence[Case],
    subset_of: Mapping[str, int],
    images: Storage,
    masks: Storage,
    data: Storage,
    weights: Storage | None,
    config: PreparationConfig,
) -> Changes:
    """The changes of an archive. Fingerprints decide, not dates; a file is read only where its version has changed.

    Args:
        cases: the archive's cases; ``new`` and ``changed`` come in their order.
        subset_of: subset of each case; cases without one are left out.
        weights: the folder of weights; None if nothing was trained, so that every case is new.

    Raises:
        StorageError: a folder or bucket that cannot be read.
    """
    wanted = [case for case in cases if case.id in subset_of]
    images, masks, data = (Listed(storage) for storage in (images, masks, data))

    def known(case: Case) -> PreparedCase | None:
        try:
            return up_to_date_record(case, subset_of[case.id], images, masks, data, config)
        except CaseError:  # preparing it reports why
            return None

    with ThreadPoolExecutor(_CASES_AT_ONCE) as pool:
        records = list(pool.map(known, wanted))
    seen = frozenset[CaseData]()
    if weights:
        from zssmnet.registry.challenge import seen_data  # imports PyTorch, which preparing alone does not need

        seen = seen_data(weights)
    seen_ids, ids = {one.case_id for one in seen}, {case.id for case in wanted}
    found = list(zip(wanted, records, strict=True))
    unseen = [case.id for case, record in found if record is None or data_of_case(record) not in seen]
    return Changes(
        to_prepare=tuple(case for case, record in found if record is None),
        up_to_date=tuple(record for record in records if record),
        gone=tuple(name for name in record_names(data) if name not in ids),
        new=tuple(one for one in unseen if one not in seen_ids),
        changed=tuple(one for one in unseen if one in seen_ids),
    )


def refresh_records(data: Storage, records: Iterable[PreparedCase]) -> None:
    """Publish records that are up to date with the present versions of their files (`refresh_record`).

    `find_changes` writes nothing: the stage that prepares calls this with its ``up_to_date``, so that after a root was
    copied its files are hashed once.
    """
    listed = Listed(data)
    with ThreadPoolExecutor(_CASES_AT_ONCE) as pool:
        list(pool.map(lambda record: refresh_record(listed, record.case_id, record), records))
