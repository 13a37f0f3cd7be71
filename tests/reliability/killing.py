"""Commands that are killed, and the files that they leave: whole at every moment, in the end those of an undisturbed
command.
"""

import hashlib
import io
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from tasks.announcement import ANNOUNCED
from tests.commands import Command, Commands
from tests.reliability.ledger import Ledger
from tests.reliability.mortal import PUBLISHING, REMOVING, Death
from zssmnet.errors import VerificationError
from zssmnet.storage import open_storage
from zssmnet.storage.lock import LOCK_FILE, LOCKS, is_locked
from zssmnet.storage.records import record_key
from zssmnet.storage.verification import Finding, verify_root

PATIENCE_S = 900
STAGES = ("preparation", "cubes", "training", "publication")
CHOSEN, AT_RANDOM = "killed at a chosen change", "killed at a random moment"
HARMLESS = {"unfinished", "missing", "foreign", "outdated"}
"""What may be found after a kill: work that is not done, but no file that is not what its record tells."""


class Place:
    """A working root, the commands that work on it, and their temporary folders.

    Args:
        root: a folder, or s3://bucket/prefix.
        scratch: a local folder for all else.
        commands: starts them.
    """

    def __init__(self, root: str, scratch: Path, commands: Commands) -> None:
        self.root = root
        self._commands = commands
        self.kind = "on S3" if root.startswith("s3://") else "on a folder"
        self._scratch = scratch
        self._log = scratch / "changes.log"
        (scratch / "tmp").mkdir(parents=True)
        self._environment = {"TMPDIR": str(scratch / "tmp"), "ZSSMNET_CACHE": str(scratch / "cache")}

    def start(self, command: Sequence[str], deaths: Iterable[Death] = ()) -> Command:
        """Start a command, mortal at some changes."""
        words = [str(self._log), json.dumps([*deaths]), "--", *command]
        return self._commands.start("tests.reliability.mortal", words, self._environment)

    def finish(self, command: Sequence[str]) -> None:
        """Run a command to its end."""
        assert self._was_killed(self.start(command)) is False

    def die(self, command: Sequence[str], deaths: Iterable[Death]) -> Death | None:
        """Run a command until it dies one of these deaths: which, or None if it came to its end."""
        if not self._was_killed(self.start(command, deaths)):
            return None
        # another thread may have begun a change after it
        key, number, moment = [line for line in self._lines() if len(line) == 3][-1]
        return key, number, moment

    def kill(self, command: Sequence[str], stage: str, delay_s: float) -> str | None:
        """Run a command and kill it so long after its first change of a stage: the stage in which that was, or None if
        it came to its end before.
        """
        begun = len(self._lines())
        process = self.start(command)
        deadline = time.monotonic() + PATIENCE_S
        while process.poll() is None and time.monotonic() < deadline:
            if any(stage_of(line[0]) == stage for line in self._lines()[begun:]):
                time.sleep(delay_s)
                break
            time.sleep(0.02)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        return stage_of(self._lines()[-1][0]) if self._was_killed(process) else None

    def _was_killed(self, process: Command) -> bool:
        _, log = process.communicate(timeout=PATIENCE_S)
        assert process.returncode in (0, -signal.SIGKILL), log[-4000:]
        return process.returncode != 0

    def _lines(self) -> list[list[Any]]:
        if not self._log.exists():
            return []
        return [json.loads(line) for line in self._log.read_text().split("\n")[:-1]]

    def deaths(self) -> list[Death]:
        """All deaths that the last command could have died, in the order of its changes."""
        moments = {len(PUBLISHING): PUBLISHING, len(REMOVING): REMOVING}
        return [(key, number, moment) for key, number, count, _ in self._lines() for moment in moments[count]]

    def lengths_s(self) -> dict[str, float]:
        """How long the stages of an undisturbed command took, from the first change to the last."""
        times: dict[str, list[float]] = {stage: [] for stage in STAGES}
        for key, _, _, moment in self._lines():
            times[stage_of(key)].append(moment)
        return {stage: max(moments) - min(moments) for stage, moments in times.items() if moments}

    def digests(self) -> dict[str, str]:
        """SHA-256 of all files."""
        return digests(self.root)

    def assert_whole(self, *expected: Mapping[str, str]) -> None:
        """Nothing is half-written or wrong."""
        assert_whole(self.root, *expected)

    def assert_finished(self, expected: Mapping[str, str]) -> None:
        """The files are those of an undisturbed command, bit for bit, and nothing else is left anywhere.

        After a command that does one stage alone, or that rolls back, others may be outdated.
        """
        assert self.digests() == expected
        assert {finding.kind for finding in findings(self.root)} <= {"outdated"}
        assert not self.leftovers()

    def leftovers(self) -> list[Path]:
        """Half-written and temporary files, and locks but those of ended processes, which are removed when the folder
        is locked the next time. PyTorch keeps an empty folder, one for all processes.
        """
        keys = [entry.key for entry in open_storage(self.root).list()]
        folders = [key.removesuffix(f"/{LOCK_FILE}") for key in keys if key.endswith(f"/{LOCK_FILE}")]
        locks = [Path(folder) for folder in folders if is_locked(open_storage(self.root).child(folder))]
        places = [self._scratch / "tmp", self._scratch / "cache" / "partial"]
        left = [path for place in places if place.is_dir() for path in place.iterdir()]
        half_written = [] if self.kind == "on S3" else [*Path(self.root).rglob(".partial")]
        return locks + half_written + [path for path in left if not path.name.startswith("torchinductor")]


def digests(root: str) -> dict[str, str]:
    """SHA-256 of all files below a working root; see `files`."""
    return {key: digest(key, data) for key, data in files(root).items()}


def files(root: str) -> dict[str, bytes]:
    """Content of all files under their final names but the logs with their times, locks, and which model was
    announced to the server.
    """
    storage = open_storage(root)
    others = ("/tensorboard/", f"/{LOCKS}/", f"/{record_key(ANNOUNCED)}")
    keys = (entry.key for entry in storage.list())
    return {key: storage.read(key) for key in keys if not any(other in key for other in others)}


def assert_whole(root: str, *expected: Mapping[str, str]) -> None:
    """Whatever is visible is what was there before or what an undisturbed command publishes, or an earlier record or
    checkpoint, whole; and no record tells of a file that is not what it tells.
    """
    for key, data in files(root).items():
        if key.endswith((".checkpoint", "best.model")):
            assert "state_dict" in torch.load(io.BytesIO(data), weights_only=True), key
        elif "/records/" in key:
            assert "outputs" in json.loads(data), key
        else:
            assert digest(key, data) in {known.get(key) for known in expected}, f"{key} is half-written or wrong"
    assert {finding.kind for finding in findings(root)} <= HARMLESS, findings(root)


def findings(root: str) -> list[Finding]:
    """What `zssmnet verify` finds."""
    try:
        return verify_root(root)
    except VerificationError:  # no record yet
        return []


def digest(key: str, data: bytes) -> str:
    """SHA-256 of a file; of a record without what differs from run to run: versions of files, and who rolled back."""
    if "/records/" in key:
        record = json.loads(data)
        for one in (*record["inputs"], *record["outputs"]):
            one.pop("version", None)
        record.pop("by", None)
        data = json.dumps(record).encode()
    return hashlib.sha256(data).hexdigest()


def stage_of(key: str) -> str:
    """The stage that publishes a file below SSL."""
    folder, _, rest = key.partition("/")
    if folder == "data":
        return "preparation"
    if folder == "generated_cubes" or (folder == "reports" and "cases/" in rest):
        return "cubes"
    return "training" if rest.startswith("training/") else "publication"


def draw(deaths: Iterable[Death], count: int, drawn: random.Random) -> list[Death]:
    """So many deaths in each stage, without repetition, in random order; all of a stage that has fewer."""
    by_stage: dict[str, list[Death]] = {stage: [] for stage in STAGES}
    for death in dict.fromkeys(deaths):
        by_stage[stage_of(death[0])].append(death)
    chosen = [death for among in by_stage.values() for death in drawn.sample(among, min(count, len(among)))]
    return drawn.sample(chosen, len(chosen))


def die_often(
    place: Place,
    command: Sequence[str],
    deaths: Iterable[Death],
    known: Sequence[Mapping[str, str]],
    ledger: Ledger,
    area_of: Callable[[str], str] = stage_of,
) -> list[Death]:
    """Let a command die as often as it comes to one of the deaths, and at last come to its end.

    Args:
        place: where it works.
        command: its words.
        deaths: to die of; each once.
        known: digests of the files that may be there; the last of them are those that must be there in the end.
        ledger: where the deaths are counted.
        area_of: the area in the ledger for a file.

    Returns:
        Deaths that it did not come to.
    """
    left = list(deaths)
    with ExitStack() as counted:
        while (death := place.die(command, left)) is not None:
            left.remove(death)
            counted.enter_context(ledger.tried(f"{area_of(death[0])} {place.kind}", CHOSEN))
            place.assert_whole(*known)
            if place.digests() == known[-1]:  # the last change was made: nothing is left to do
                break
        if place.digests() != known[-1] or place.leftovers():
            place.finish(command)
        place.assert_finished(known[-1])
    return left
