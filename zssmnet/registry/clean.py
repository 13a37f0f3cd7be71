"""Cleaning a folder of weights: what runs left in ``training/``, and old versions, with their sizes.

The stable model, its version, the version that it replaced (to which `roll_back` goes back) and whatever a run has
locked are never removed.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from zssmnet.errors import LockedError
from zssmnet.registry.versions import PUBLICATION_S, find_version, stable_model
from zssmnet.storage import Storage
from zssmnet.storage.lock import LOCKS, is_locked, locked
from zssmnet.storage.records import RECORDS, VERSIONS

log = logging.getLogger(__name__)

TRAINING = "training"
"""Folder of the runs' checkpoints and logs, ``training/<run id>/``."""
Kind = Literal["published", "unpublished", "version"]


@dataclass(frozen=True)
class Removable:
    """A folder that can be removed.

    Attributes:
        kind: ``published``: checkpoints and logs of a run whose model is a version; removed, the same run with more
            epochs starts anew. ``unpublished``: those of a run that was interrupted, or of a challenger that lost;
            removed, an interrupted run starts anew. ``version``: a model with its record.
    """

    kind: Kind
    run_id: str
    folder: str
    size: int


def removable(weights: Storage) -> list[Removable]:
    """Removable parts of a folder of weights: runs, then versions, each sorted by run id.

    Where it is not known what the model under the stable name is, all versions stay.

    Raises:
        StorageError: the folder cannot be read.
    """
    stable = stable_model(weights)
    found = []
    for folder in (TRAINING, VERSIONS) if stable else (TRAINING,):
        for run_id, size in _sizes_by_run(weights, folder).items():
            kind: Kind = "version"
            if folder == TRAINING:
                kind = "published" if find_version(weights, run_id) else "unpublished"
            elif stable and run_id in (stable.run_id, stable.replaces):
                continue
            found.append(Removable(kind, run_id, f"{folder}/{run_id}", size))
    return [one for one in found if not is_locked(weights.child(one.folder))]


def remove(weights: Storage, items: Iterable[Removable]) -> list[Removable]:
    """Remove what `removable` has found, as far as it can still be removed; no model is published meanwhile.

    Killed in between, it is continued by the next call: records go before the files that they describe.

    Raises:
        LockedError: another run is publishing a model.
        StorageError: a file cannot be removed.
    """
    removed = []
    with locked(weights, PUBLICATION_S):
        present = {one.folder for one in removable(weights)}
        for item in (one for one in items if one.folder in present):
            folder = weights.child(item.folder)
            try:
                with locked(folder, timeout_s=0):
                    folder.sweep()
                    keys = [entry.key for entry in folder.list() if not entry.key.startswith(f"{LOCKS}/")]
                    for key in sorted(keys, key=lambda key: not key.startswith(f"{RECORDS}/")):
                        folder.remove(key)
            except LockedError as error:
                log.warning("%s", error)
            else:
                removed.append(item)
    return removed


def _sizes_by_run(weights: Storage, folder: str) -> dict[str, int]:
    """Bytes of the files below ``folder/<run id>/``, by run id; files that lie in no such folder are left out."""
    runs: dict[str, int] = {}
    for entry in weights.list(folder):
        run_id, _, name = entry.key.removeprefix(f"{folder}/").partition("/")
        if name and not name.startswith(f"{LOCKS}/"):
            runs[run_id] = runs.get(run_id, 0) + entry.size
    return runs
