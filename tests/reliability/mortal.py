"""A command that kills itself with SIGKILL at chosen changes of its files.

    python -m tests.reliability.mortal LOG DEATHS -- run --images_path ...

Each change is a line of LOG: its key, how often this process has changed that key, how many moments it has, and the
time; a line without time is the process's death. DEATHS is a JSON list of deaths: the process dies, with all its
children, at the first that it comes to. The words after ``--`` are those of ``zssmnet``, or
``retrain IMAGES MASKS ROOT SETTINGS.toml``.
"""

import json
import os
import re
import signal
import sys
import threading
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import zssmnet
from flows import cli
from tasks.announcement import ANNOUNCED
from zssmnet.config import ChallengerConfig
from zssmnet.storage import LocalStorage, Storage
from zssmnet.storage.records import record_key

BEFORE, HALF_WRITTEN, WRITTEN, VISIBLE = "before", "half-written", "written", "visible"
PUBLISHING = (BEFORE, HALF_WRITTEN, WRITTEN, VISIBLE)
REMOVING = (BEFORE, VISIBLE)
Death = tuple[str, int, str]
"""A key below SSL, the how manieth change of it in one process, and the moment within that change."""


class Fate:
    """Notes the changes, and ends the process when its time has come."""

    def __init__(self, log: Path, deaths: list[Death]) -> None:
        self._log = log
        self._deaths = {tuple(death) for death in deaths}
        self._changes: Counter[str] = Counter()
        self._lock = threading.Lock()

    def change(self, address: str, moments: tuple[str, ...]) -> Callable[[str], bool]:
        """Note a change that is about to begin; tells for each moment of it whether it is the last.

        Locks, and what was sent to the server, are not noted: they are no change of what is published.
        """
        if address.endswith(f"/{record_key(ANNOUNCED)}"):
            return lambda moment: False
        key = re.sub(r"events\.out\..*", "events", address.rpartition("/SSL/")[2])
        with self._lock:
            self._changes[key] += 1
            number = self._changes[key]
            self._note(key, number, len(moments), time.monotonic())
        return lambda moment: (key, number, moment) in self._deaths and self._note(key, number, moment)

    def _note(self, *words: object) -> bool:
        with self._log.open("a") as log:
            log.write(json.dumps(words) + "\n")
        return True


def die() -> None:
    """Kill this process and all that it has started."""
    os.killpg(0, signal.SIGKILL)
    threading.Event().wait()


def make_mortal(kind: type[Storage], fate: Fate) -> None:
    """Let a kind of storage meet its fate."""
    publishing, remove = kind.publishing, kind.remove

    @contextmanager
    def mortal_publishing(self: Storage, key: str) -> Iterator[Path]:
        is_last = fate.change(self.where(key), PUBLISHING)
        if is_last(BEFORE):
            die()
        with publishing(self, key) as path:
            yield path
            if is_last(HALF_WRITTEN):
                os.truncate(path, path.stat().st_size // 2)
                die()
            if is_last(WRITTEN):
                die()
        if is_last(VISIBLE):
            die()

    def mortal_remove(self: Storage, key: str) -> None:
        is_last = fate.change(self.where(key), REMOVING)
        if is_last(BEFORE):
            die()
        remove(self, key)
        if is_last(VISIBLE):
            die()

    changed: dict[str, Callable[..., AbstractContextManager[Path] | None]]
    changed = {"publishing": mortal_publishing, "remove": mortal_remove}
    for name, method in changed.items():
        setattr(kind, name, method)


def retrain(images: str, masks: str, root: str, settings: str) -> None:
    """Retrain for a single new case."""
    from flows.settings import Settings

    chosen: Any = Settings.model_validate(tomllib.loads(Path(settings).read_text()))
    how = {
        "min_new_cases": 1,
        "cubes": chosen.cubes,
        "pretraining": ChallengerConfig.model_validate(chosen.pretraining.model_dump()),
    }
    if "PREFECT_API_URL" in os.environ:
        from flows.of_stages import retrain_on_new_data

        retrain_on_new_data(images, masks, root, **how)
    else:
        zssmnet.retrain(images, masks, root, **how)


def main() -> None:
    log, deaths, _, command, *words = sys.argv[1:]
    fate = Fate(Path(log), json.loads(deaths))
    make_mortal(LocalStorage, fate)
    if any("s3://" in word for word in words):
        from zssmnet.storage.s3 import S3Storage

        make_mortal(S3Storage, fate)
    if command == "retrain":
        retrain(*words)
    else:
        cli.main([command, *words])


if __name__ == "__main__":
    main()
