"""The error tree, from `ZssmnetError` down. Every message names the case, the file, the value and the way out."""

import re

_CREDENTIALS = re.compile(r"(?<=//)(?:[^\s/@:]+:(?!\d+/)[^\s@]*|[^\s/@]+)@")
"""What stands before the host or bucket of an address; a secret key may hold slashes."""


def without_credentials(text: str) -> str:
    """The text with users, keys and passwords of addresses replaced by ``***``."""
    return _CREDENTIALS.sub("***@", text)


class ZssmnetError(Exception):
    """The root of all errors raised by this package; messages contain no credentials of addresses."""

    def __init__(self, message: str = "") -> None:
        super().__init__(without_credentials(message))


class InputError(ZssmnetError):
    """Input of the user that cannot be used: exit status 1 and one line, never a traceback."""


class ConfigError(InputError, ValueError):
    """Settings that cannot be used: an unknown name, a value out of range, an unreadable file."""


class ArchiveError(InputError):
    """No archive where one was named, or one whose kind is ambiguous."""


class CaseError(InputError):
    """One case that cannot be used.

    Attributes:
        case_id: the case.
        file: the file at fault, as the user knows it.
        reason: what is wrong with it, with the value.
    """

    def __init__(self, case_id: str, file: str, reason: str) -> None:
        super().__init__(f"case {case_id}: {file}: {reason}")
        self.case_id = case_id
        self.file = file
        self.reason = reason

    def __reduce__(self) -> tuple[type["CaseError"], tuple[str, str, str]]:
        return type(self), (self.case_id, self.file, self.reason)


class ImageError(InputError):
    """One image that cannot be used; becomes a CaseError where the case and the file are known."""


class SplitsError(InputError):
    """A splits.json that is not a list of five folds, or folds that contradict each other."""


class CubesError(InputError):
    """A file of cubes with a wrong shape, dtype or content."""


class DicomError(InputError):
    """DICOM files that make no volume, or ids that do not fit them; names a series by its number, never a patient."""


class CheckpointError(InputError):
    """A checkpoint or file of weights that is unreadable, foreign or does not fit."""


class VerificationError(InputError):
    """Files below a working root that differ from their records."""


class StorageError(ZssmnetError):
    """Storage that does not answer, is full, or may not be read or written."""


class UnreadableFileError(StorageError):
    """One file that is there, but cannot be read or is not whole.

    Attributes:
        file: its path.
        reason: what is wrong with it.
    """

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"{file}: {reason}")
        self.file = file
        self.reason = reason

    def __reduce__(self) -> tuple[type["UnreadableFileError"], tuple[str, str]]:
        return type(self), (self.file, self.reason)


class LockedError(StorageError):
    """A folder that another run has locked, or whose lock it has taken over."""


class TrainingError(ZssmnetError):
    """Training that cannot go on."""


class NonFiniteLossError(TrainingError):
    """The loss, or a weight, became NaN or infinite."""


class CollapsedError(TrainingError):
    """The network predicts the same constant for every input, and no step changes it any more."""


class OutOfMemoryError(TrainingError):
    """The batch does not fit into the device's memory."""


class ServiceError(ZssmnetError):
    """Another part of the service fails: a work pool without workers, a run elsewhere that failed."""
