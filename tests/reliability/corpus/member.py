"""What a member of the corpus is."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.zssmnet.examinations import Archive

IMAGES, MASKS, ARCHIVE, SPLITS, CUBES, CHECKPOINTS, SETTINGS = (
    f"bad input, {what}" for what in ("images", "masks", "archive", "splits.json", "cubes", "checkpoints", "settings")
)


@dataclass(frozen=True)
class BrokenCase:
    """A case that must be left out.

    Attributes:
        id: the case's id, which says what is wrong with it.
        area, fault: where it is counted.
        says: what the reason must hold, as a regular expression.
        make: given an archive that holds the good case, breaks it.
    """

    id: str
    area: str
    fault: str
    says: str
    make: Callable[[Archive, str], object]


@dataclass(frozen=True)
class GoodCase:
    """A case that looks odd, but must be prepared right; see `BrokenCase`."""

    id: str
    area: str
    fault: str
    make: Callable[[Archive, str], object]


@dataclass(frozen=True)
class BrokenFile:
    """A file that must end a whole command.

    Attributes:
        name: what is wrong with it.
        fault: where it is counted.
        says: what the line must hold, as a regular expression.
        make: writes it, or breaks the good one that is there.
    """

    name: str
    fault: str
    says: str
    make: Callable[[Path], object]
