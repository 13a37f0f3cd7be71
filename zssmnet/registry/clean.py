"""Cleaning a folder of weights: what runs left in ``training/``, and old versions, with their sizes."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from zssmnet.registry.versions import PUBLICATION_S, find_version, stable_model
from zssmnet.storage import Storage
from zssmnet.storage.lock import LOCKS, locked
from zssmnet.storage.records import VERSIONS

TRAINING = "training"
"""Folder of the runs' checkpoints and logs, ``training/<run id>/``."""


@dataclass(frozen=True)
class Removable:
    """A folder that can be removed.

    Attributes:
        kind: ``published``: checkpoints and logs of a run whose model is a version; removed, the same run with more
            epochs starts anew. ``unpublished``: those of a run that was interrupted, or of a challenger that lost;
            removed, an interrupted run starts anew. ``version``: a model with its record.
        run_id: the run.
        folder: below the weights' folder.
        size: bytes of all its files.
        files: number of its files.
    """

    kind: Literal["published", "unpublished", "version"]
    run_id: str
    folder: str
    size: int
    files: int


def removable(weights: Storage) -> list[Removable]:
    """What can be removed: never the stable model, its version, and the version that it replaced.

    Raises:
        StorageError: the folder cannot be read.
    """
    found = []
    for run_id, (size, files) in _folders(weights, TRAINING).items():
        kind: Literal["published", "unpublished"] = "published" if find_version(weights, run_id) else "unpublished"
        found.append(Removable(kind, run_id, f"{TRAINING}/{run_id}", size, files))
    if stable := stable_model(weights):
        for run_id, (size, files) in _folders(weights, VERSIONS).items():
            if run_id not in (stable.run_id, stable.replaces):
                found.append(Removable("version", run_id, f"{VERSIONS}/{run_id}", size, files))
    return found


def remove(weights: Storage, items: Iterable[Removable]) -> list[Removable]:
    """Remove folders that `removable` has found, as far as they still can be removed.

    Returns:
        What was removed.

    Raises:
        LockedError: a run works in one of them, or publishes a model.
        StorageError: a file cannot be removed.
    """
    removed = []
    with locked(weights, PUBLICATION_S):  # a model that is being published might become the stable one
        present = {one.folder: one for one in removable(weights)}
        for item in (present[one.folder] for one in items if one.folder in present):
            folder = weights.child(item.folder)
            with locked(folder):
                for entry in folder.list():
                    if not entry.key.startswith(f"{LOCKS}/"):
                        folder.remove(entry.key)
            removed.append(item)
    return removed


def _folders(weights: Storage, prefix: str) -> dict[str, tuple[int, int]]:
    """Bytes and number of files of each folder below a folder."""
    sizes: dict[str, tuple[int, int]] = {}
    for entry in weights.list(prefix):
        name = entry.key.removeprefix(f"{prefix}/").partition("/")[0]
        size, files = sizes.get(name, (0, 0))
        sizes[name] = (size + entry.size, files + 1)
    return sizes
