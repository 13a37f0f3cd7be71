"""What of the weights' folder is no longer needed: workplaces of finished trainings, and old versions."""

from collections.abc import Sequence
from dataclasses import dataclass

from zssmnet.registry.challenge import JUDGEMENT, Judgement
from zssmnet.registry.versions import PUBLICATION_S, list_versions, stable_model
from zssmnet.storage import Storage
from zssmnet.storage.lock import LOCKS, locked
from zssmnet.storage.records import VERSIONS, read_record

_TRAINING = "training"


@dataclass(frozen=True)
class Removable:
    """A folder that can go.

    Attributes:
        folder: below the weights' folder.
        size: bytes.
        files: number of its files.
        reason: what it is, and what is lost with it.
    """

    folder: str
    size: int
    files: int
    reason: str


def removable(weights: Storage, unfinished: bool = False) -> list[Removable]:
    """What can go: the stable model, the version that it replaced and all records of what it was made from stay.

    Args:
        weights: the weights' folder.
        unfinished: also checkpoints of trainings that have published nothing, which would begin anew.

    Raises:
        StorageError: the folder cannot be read.
    """
    versions, stable = {one.run_id: one for one in list_versions(weights)}, stable_model(weights)
    judgement = read_record(weights, JUDGEMENT, Judgement)
    found = []
    for run_id, (size, files) in _folders(weights, _TRAINING).items():
        if run_id in versions or (stable and stable.run_id == run_id):
            reason = "checkpoints of a published model, to train it further"
        elif judgement and judgement.run_id == run_id:
            reason = "checkpoints of a challenger that was not better"
        elif unfinished:
            reason = "checkpoints of a training that has published nothing"
        else:
            continue
        found.append(Removable(f"{_TRAINING}/{run_id}", size, files, reason))
    kept = {stable.run_id, stable.replaces} if stable else versions.keys()
    for run_id, (size, files) in _folders(weights, VERSIONS).items():
        if run_id not in kept:
            version = versions.get(run_id)
            reason = f"an old version, validation loss {version.best_validation_loss:.5f}" if version else "no version"
            found.append(Removable(f"{VERSIONS}/{run_id}", size, files, reason))
    return found


def remove(weights: Storage, items: Sequence[Removable]) -> None:
    """Remove folders that `removable` has found, as far as they still can go.

    Raises:
        LockedError: a run works in one of them, or publishes a model.
        StorageError: a file cannot be removed.
    """
    with locked(weights, PUBLICATION_S):  # a model that is being published might become the stable one
        folders = {one.folder for one in removable(weights, unfinished=True)}
        for item in items:
            if item.folder in folders:
                folder = weights.child(item.folder)
                with locked(folder):
                    for entry in folder.list():
                        if not entry.key.startswith(f"{LOCKS}/"):
                            folder.remove(entry.key)


def _folders(weights: Storage, prefix: str) -> dict[str, tuple[int, int]]:
    """Bytes and number of files of each folder below a folder."""
    sizes: dict[str, tuple[int, int]] = {}
    for entry in weights.list(prefix):
        name = entry.key.removeprefix(f"{prefix}/").partition("/")[0]
        size, files = sizes.get(name, (0, 0))
        sizes[name] = (size + entry.size, files + 1)
    return sizes
