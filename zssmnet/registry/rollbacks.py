"""Records of rollbacks: who made which version the stable model in place of which, and why."""

from typing_extensions import override

from zssmnet.storage import Storage
from zssmnet.storage.lock import lock_name
from zssmnet.storage.records import Name, Record, publish_record, read_records

METHOD = 1
_PREFIX = "rollback-"


class Rollback(Record):
    """A rollback.

    Attributes:
        number: 1, 2, 3, ... in order.
        version, replaced: run ids of the stable model since and before; None if that was not known.
        by: the run or command that did it.
        comment: of whoever wanted it.
    """

    number: int
    version: Name
    replaced: Name | None
    by: str
    comment: str

    @override
    def is_valid_for(self, name: str) -> bool:
        return name == rollback_name(self.number) and not self.outputs


def rollback_name(number: int) -> str:
    """The name of a rollback's record."""
    return f"{_PREFIX}{number:04}"


def record_rollback(weights: Storage, version: str, replaced: str | None, comment: str) -> None:
    """Publish the record of a rollback to come, in a locked folder; once, if it is repeated with the same comment."""
    last, comment = next(reversed(rollbacks(weights)), None), " ".join(comment.split())
    number = last.number if last else 0
    if last is None or (last.version, last.replaced, last.comment) != (version, replaced, comment):
        number += 1
    made = Rollback(
        method=METHOD,
        inputs=(),
        outputs=(),
        number=number,
        version=version,
        replaced=replaced,
        by=lock_name(),
        comment=comment,
    )
    publish_record(weights, rollback_name(number), made)


def rollbacks(weights: Storage) -> list[Rollback]:
    """All rollbacks of a folder of weights, in order."""
    return sorted((one for _, one in read_records(weights, Rollback, _PREFIX)), key=lambda one: one.number)
