"""A probe's verdict as a record beside the version that was probed, so that whoever lists versions sees it."""

from pathlib import PurePosixPath
from typing import Literal

from typing_extensions import override

from zssmnet.probe.contenders import place_of
from zssmnet.probe.result import ProbeResult, Verdict
from zssmnet.registry.versions import PretrainedModel, version_key
from zssmnet.storage import Storage
from zssmnet.storage.records import Record, publish_record, read_record

Task = Literal["lesions", "zones"]
TASKS: tuple[Task, ...] = ("lesions", "zones")
METHOD = 1


class ProbeNote(Record):
    """What the last probe of a task found of a version."""

    task: Task
    verdict: str
    sentence: str
    endpoint: str

    @override
    def is_valid_for(self, name: str) -> bool:
        return name == _name(self.task)


def note_verdict(address: str, verdict: Verdict, result: ProbeResult) -> bool:
    """Publish a verdict beside the version of the weights in a file; False if it is no published version."""
    folder, name = place_of(address)
    record = read_record(folder, name, PretrainedModel)
    if record is None:
        return False
    version = folder.child(str(PurePosixPath(version_key(record.run_id)).parent))
    if not version.stat(name):
        version = folder  # the file itself lies in its version's folder
        if folder.uri.rstrip("/").rpartition("/")[2] != record.run_id:
            return False
    note = ProbeNote(
        method=METHOD,
        inputs=(),
        outputs=(),
        task=result.config.task,
        verdict=verdict.verdict,
        sentence=verdict.sentence,
        endpoint=result.endpoint,
    )
    publish_record(version, _name(note.task), note)
    return True


def notes_of(weights: Storage, run_id: str) -> list[ProbeNote]:
    """The verdicts on a version of a folder of weights."""
    version = weights.child(str(PurePosixPath(version_key(run_id)).parent))
    return [note for task in TASKS if (note := read_record(version, _name(task), ProbeNote))]


def _name(task: Task) -> str:
    return f"probe-{task}"
