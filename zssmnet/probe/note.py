"""A probe's verdict as a record beside the version that was probed, for whoever lists versions."""

from typing import Literal

from typing_extensions import override

from zssmnet.probe.result import ProbeResult, Verdict
from zssmnet.registry.versions import PretrainedModel, version_folder
from zssmnet.storage import Storage, folder_and_name
from zssmnet.storage.records import Record, publish_record, read_record

Task = Literal["lesions", "zones"]
METHOD = 1


class ProbeNote(Record):
    """Verdict of a task's last probe of a version."""

    task: Task
    verdict: str
    sentence: str
    endpoint: str

    @override
    def is_valid_for(self, name: str) -> bool:
        return name == f"probe-{self.task}"


def note_verdict(address: str, verdict: Verdict, result: ProbeResult) -> bool:
    """Publish a verdict beside the version of the weights in a file; False if it is no published version."""
    folder, name = folder_and_name(address)
    record = read_record(folder, name, PretrainedModel)
    if record is None:
        return False
    version = version_folder(folder, record.run_id)
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
    publish_record(version, f"probe-{note.task}", note)
    return True


def notes_of(weights: Storage, run_id: str) -> list[ProbeNote]:
    """The verdicts on a version of a folder of weights."""
    version = version_folder(weights, run_id)
    return [note for task in ("lesions", "zones") if (note := read_record(version, f"probe-{task}", ProbeNote))]
