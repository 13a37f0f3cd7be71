"""Which subset a case belongs to: 0 to 4 for training, 5 for validation.

Two modes. ``reference`` is the published program's, from the five folds of a splits.json. ``stable`` hashes the
patient's id, so that a patient is never on both sides and a new case never moves an old one.
"""

import hashlib
import json
import logging
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from zssmnet.config import PICAI_PATIENT, check_choice
from zssmnet.config import SplitMode as SplitMode
from zssmnet.data.archive import duplicated, in_one_form, patient_in, patient_of, shortened
from zssmnet.errors import ConfigError, CubesError, InputError, SplitsError
from zssmnet.storage import Address, read_file

log = logging.getLogger(__name__)

TRAINING_SUBSETS = range(5)
VALIDATION_SUBSET = 5
SUBSETS = range(6)
_TRAINING_SHARE = 0.8
_REFERENCE_SEED = 1


def checked_subsets(subsets: object) -> tuple[int, ...]:
    """Numbers of subsets, sorted; CubesError if there is none, or one that is no subset."""
    wanted = tuple(subsets) if isinstance(subsets, Iterable) else ()
    if not wanted or any(one not in SUBSETS for one in wanted):
        raise CubesError(f"subsets = {subsets!r}: name one or more of the subsets {SUBSETS[0]} to {SUBSETS[-1]}")
    return tuple(sorted(set(map(int, wanted))))


def reference_subsets(folds_val: Sequence[Sequence[str]]) -> list[list[str]]:
    """The published program's six subsets, each a list of case ids in its order.

    Each fold's ``val`` list is shuffled and cut at ``int(0.8 * n)``: the first part is the fold's training subset,
    the remainders of all folds together are the validation subset.
    """
    shuffler = random.Random(_REFERENCE_SEED)
    training: list[list[str]] = []
    validation: list[str] = []
    for fold in folds_val:
        cases = list(fold)
        shuffler.shuffle(cases)
        cut = int(_TRAINING_SHARE * len(cases))
        training.append(cases[:cut])
        validation.extend(cases[cut:])
    return [*training, validation]


def stable_subset(case_id: str, patient_pattern: str = PICAI_PATIENT) -> int:
    """The subset of one case, by a hash of its patient alone: about 80 % training, in five equal subsets."""
    digest = hashlib.sha256(in_one_form(patient_of(case_id, patient_pattern)).encode()).digest()
    share, subset = int.from_bytes(digest[:8]) / 2**64, int.from_bytes(digest[8:16]) % len(TRAINING_SUBSETS)
    return subset if share < _TRAINING_SHARE else VALIDATION_SUBSET


def read_folds(text: bytes, source: str) -> list[list[str]]:
    """The five ``val`` lists of a splits.json; SplitsError: not JSON, not that form, or lists that overlap.

    Args:
        text: the file's content: a list of 5 objects ``{"train": [...], "val": [...]}``.
    """
    try:
        folds = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SplitsError(f"{source}: not a JSON file: {error}") from error
    if not isinstance(folds, list) or len(folds) != len(TRAINING_SUBSETS):
        found = f"a list of {len(folds)}" if isinstance(folds, list) else f"a {type(folds).__name__}"
        raise SplitsError(f'{source}: {found}; expected a list of 5 objects {{"train": [...], "val": [...]}}')
    vals: list[Any] = [fold.get("val") if isinstance(fold, dict) else None for fold in folds]
    for number, val in enumerate(vals):
        if not isinstance(val, list) or not all(isinstance(case, str) for case in val):
            raise SplitsError(f'{source}: fold {number}: expected an object with "val", a list of case ids (texts)')
    if twice := duplicated(case for val in vals for case in val):
        raise SplitsError(f"{source}: the val lists overlap; given more than once: {shortened(twice)}")
    if not any(vals):
        raise SplitsError(f"{source}: all val lists are empty")
    return vals


def choose_subsets(
    case_ids: Sequence[str],
    splits_path: Address | None = None,
    split_mode: SplitMode | None = None,
    patient_pattern: str = PICAI_PATIENT,
) -> dict[str, int]:
    """Choose the subset of each case, and log which cases the archive or the splits alone have.

    Args:
        splits_path: file or ``s3://`` address of a splits.json, for the reference split alone.
        split_mode: None: ``reference`` with a splits.json, else ``stable``.
        patient_pattern: see `patient_of`; for the stable split, and to find patients on both sides of another.

    Returns:
        Case id to subset, in the order of ``case_ids``; cases that the splits do not name are left out.

    Raises:
        SplitsError: a splits.json that cannot be used, ``reference`` without one, or ``stable`` with one.
        ConfigError: no such mode, or a pattern other than PI-CAI's that finds a patient in none of the ids.
        InputError: no case has a subset.
        StorageError: the splits.json cannot be read.
    """
    check_choice("split_mode", split_mode, SplitMode)
    mode = split_mode or ("stable" if splits_path is None else "reference")
    if mode == "stable" and splits_path is not None:
        raise SplitsError(f"{splits_path}: the stable split takes no splits.json; leave one of the two out")
    if splits_path is not None:
        subsets = reference_subsets(read_folds(read_file(splits_path), str(splits_path)))
        named = {in_one_form(case_id): number for number, subset in enumerate(subsets) for case_id in subset}
        subset_of = {case_id: named[name] for case_id in case_ids if (name := in_one_form(case_id)) in named}
        if unnamed := sorted(set(case_ids) - set(subset_of)):
            log.warning("%d cases are not in %s and are left out: %s", len(unnamed), splits_path, shortened(unnamed))
        if absent := sorted(set(named) - set(map(in_one_form, case_ids))):
            log.warning("%d cases of %s cannot be found: %s", len(absent), splits_path, shortened(absent))
        sides = {(patient_of(one, patient_pattern), number in TRAINING_SUBSETS) for one, number in subset_of.items()}
        if both := duplicated(patient for patient, _ in sides):
            text = "%d patients are in training and in validation; without a splits.json none would be: %s"
            log.warning(text, len(both), shortened(both))
    elif mode == "reference":
        raise SplitsError("the reference split needs a splits.json; give one with --splits-path, or choose 'stable'")
    else:
        _check_pattern(case_ids, patient_pattern)
        subset_of = {case_id: stable_subset(case_id, patient_pattern) for case_id in case_ids}
    sizes = Counter(subset_of.values())
    training = " + ".join(str(sizes[subset]) for subset in TRAINING_SUBSETS)
    log.info("%s split: %s cases for training, %d for validation", mode, training, sizes[VALIDATION_SUBSET])
    if not subset_of:
        raise InputError("no case is left: the archive and the splits have none in common")
    return subset_of


def _check_pattern(case_ids: Sequence[str], pattern: str) -> None:
    """Where no patient is found in an id, its case is a patient of its own, perhaps on both sides of the split."""
    unmatched = [case_id for case_id in case_ids if patient_in(case_id, pattern) is None]
    if 0 < len(unmatched) < len(case_ids):
        text = "%d of %d case ids have no patient by the pattern %r and count as patients of their own: %s"
        log.warning(text, len(unmatched), len(case_ids), pattern, shortened(unmatched))
    elif unmatched and pattern != PICAI_PATIENT:
        raise ConfigError(
            f"the pattern {pattern!r} finds a patient in none of {len(case_ids)} case ids (such as "
            f"{shortened(unmatched, 3)}); correct --patient-pattern"
        )
