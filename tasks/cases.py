"""Tasks on cases: finding them, deciding on their subsets, preparing one."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.utilities.annotations import quote

from tasks.folders import check_visible
from tasks.run_control import flow_has_ended
from zssmnet.config import PreparationConfig
from zssmnet.data.archive import ArchiveFormat, Case, Inventory, shortened, take_inventory
from zssmnet.data.splits import SplitMode, choose_subsets
from zssmnet.errors import CaseError
from zssmnet.preparation.prepare import PreparedCase, publish_prepared, remove_stale
from zssmnet.registry.changes import Changes
from zssmnet.registry.changes import find_changes as changes_of
from zssmnet.storage import open_storage

log = logging.getLogger("zssmnet.tasks")
T = TypeVar("T")

Prepared = tuple[PreparedCase, bool]
"""The record of a prepared case, and whether it was prepared just now."""


def as_is(value: T) -> T:
    """A task's parameter in which Prefect looks for no results of other tasks: in a large archive's, for seconds."""
    return cast(T, quote(value))


@task(task_run_name="inventory", cache_policy=NO_CACHE, persist_result=False)
def inventory(images_path: str, zonal_mask_path: str, archive_format: ArchiveFormat | None) -> Inventory:
    """Find the cases of an archive and their masks."""
    found = take_inventory(open_storage(images_path), open_storage(zonal_mask_path), archive_format)
    log.info("%s: %d cases with images and mask, %d without", images_path, len(found.cases), len(found.faults))
    return found


@task(task_run_name="subsets", cache_policy=NO_CACHE, persist_result=False)
def subsets(
    case_ids: Sequence[str], splits_path: str | None, split_mode: SplitMode | None, patient_pattern: str
) -> dict[str, int]:
    """Decide on the subset of each case, and log which cases the archive or the splits alone have."""
    return choose_subsets(case_ids, splits_path, split_mode, patient_pattern)


@task(task_run_name="find changes", cache_policy=NO_CACHE, persist_result=False)
def find_changes(
    cases: Sequence[Case],
    subset_of: Mapping[str, int],
    images_path: str,
    zonal_mask_path: str,
    data_path: str,
    weights_path: str | None,
    config: PreparationConfig,
) -> Changes:
    """Find, by fingerprints, which cases are to be prepared; given weights, also which are new to the model."""
    images, masks, data = (open_storage(uri) for uri in (images_path, zonal_mask_path, data_path))
    weights = open_storage(weights_path) if weights_path else None
    changes = changes_of(cases, subset_of, images, masks, data, weights, config)
    log.info("%d cases are up to date, %d to prepare", len(changes.up_to_date), len(changes.to_prepare))
    return changes


def _named_after_cases(parameters: dict[str, Any]) -> str:
    return f"prepare-{shortened((case.id for case in parameters['cases']), 1)}"


@task(task_run_name=_named_after_cases, cache_policy=NO_CACHE, persist_result=False)  # type: ignore[arg-type]  # a method
def prepare(
    cases: Sequence[Case],
    subsets: Sequence[int],
    images_path: str,
    zonal_mask_path: str,
    output_path: str,
    config: PreparationConfig,
) -> list[Prepared | CaseError]:
    """Prepare cases one after the other; one that cannot be used is returned as its error, not raised.

    A task that is done again finds those cases done that it has published. When the flow ends, by an interrupt or an
    error, no further case is begun.
    """
    images, masks, output = (open_storage(uri) for uri in (images_path, zonal_mask_path, output_path))
    check_visible(images, masks)
    done: list[Prepared | CaseError] = []
    for case, subset in zip(cases, subsets, strict=True):
        if flow_has_ended():
            break
        try:
            done.append(publish_prepared(case, subset, images, masks, output, config))
        except CaseError as fault:
            log.warning("%s is left out: %s: %s", fault.case_id, fault.file, fault.reason)
            done.append(fault)
    return done


@task(task_run_name="tidy", cache_policy=NO_CACHE, persist_result=False)
def tidy(output_path: str, keep: Sequence[str]) -> list[str]:
    """Remove what earlier runs prepared of cases that are no longer there, and what killed runs left half-written."""
    output = open_storage(output_path)
    removed = remove_stale(output, set(keep))
    if removed:
        log.warning(
            "%d cases of earlier runs are no longer there and are removed: %s", len(removed), shortened(removed)
        )
    output.sweep()
    return removed
