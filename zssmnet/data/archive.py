"""What a case is, and finding cases in an nnU-Net raw archive, in PI-CAI's MHA archive or in a BIDS folder.

A case is three images (T2W, ADC, DWI: high b-value) and a zonal mask on T2W's grid.
"""

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from zssmnet.config import PICAI_PATIENT as PICAI_PATIENT
from zssmnet.config import ArchiveFormat as ArchiveFormat
from zssmnet.config import check_choice
from zssmnet.errors import ArchiveError, CaseError, InputError
from zssmnet.storage import Storage
from zssmnet.storage.keys import checked_key, printable

log = logging.getLogger(__name__)

CHANNELS = ("T2W", "ADC", "DWI")
IMAGE_SUFFIXES: dict[ArchiveFormat, tuple[str, str, str]] = {
    "nnunet": ("_0000.nii.gz", "_0001.nii.gz", "_0002.nii.gz"),
    "picai": ("_t2w.mha", "_adc.mha", "_hbv.mha"),
    "bids": ("_T2w.nii.gz", "_ADC.nii.gz", "_dwi.nii.gz"),
}
"""File names of a case's T2W, ADC and DWI after its id, in each kind of archive."""
MASK_SUFFIX = ".nii.gz"
DOUBTFUL = "doubtful"
"""Folder of masks that are not used unless a person moves them out of it, or names it as the folder of masks."""
_EXPECTED = (
    "expected imagesTr/<case>_0000.nii.gz (nnU-Net raw; such as imagesTr/11373_1001396_0000.nii.gz), "
    "<patient>/<patient>_<study>_t2w.mha (PI-CAI; such as 11373/11373_1001396_t2w.mha) "
    "or sub-<label>/anat/sub-<label>_T2w.nii.gz (BIDS)"
)
_BIDS = re.compile(
    r"(?:^|/)(?P<subject>sub-[^_/]+)/(?:(?P<session>ses-[^_/]+)/)?(?:anat|dwi)/(?P=subject)_(?:[^/]+_)?(?:T2w|ADC|dwi)\.nii\.gz$"
)
_NOT_BIDS = re.compile(r"(^|/)(derivatives|sourcedata)/")
_BIDS_SESSION = re.compile(r"(?P<patient>sub-[^_]+)_ses-[^_]+$")
_LONGEST_ENDING = 12
_SUBSET = re.compile(r"subset[0-5]")
_RECORD = re.compile(r"(^|/)records/[^/]+\.json$")
"""What a folder of prepared cases has beside the folders of its subsets."""


@dataclass(frozen=True)
class Case:
    """One examination: where its files are."""

    id: str  # of any form; ``<patient>_<study>`` in PI-CAI
    format: ArchiveFormat  # the archive it comes from; images of ``picai`` and ``bids`` lie each on a grid of its own
    images: tuple[str, str, str]  # keys of T2W, ADC, DWI below the images' root; "" of one not needed and not there
    mask: str  # key of the zonal mask below the masks' root; "" where none is looked for


@dataclass(frozen=True)
class Inventory:
    """What an archive holds."""

    cases: tuple[Case, ...]  # whole by their file names, sorted by id
    faults: tuple[CaseError, ...]  # one for each case that lacks a file, has one twice, or an id that cannot name files


def take_inventory(
    images: Storage, masks: Storage | None, archive_format: ArchiveFormat | None = None, needed: int = len(CHANNELS)
) -> Inventory:
    """Find all cases and pair them with their masks.

    Args:
        images: an nnU-Net raw archive (its ``imagesTr`` or the folder above), PI-CAI's MHA archive or a BIDS folder.
        masks: folder of ``<case>.nii.gz``; None: cases need no mask.
        archive_format: None detects it automatically, by the names of the files.
        needed: channels that a case must have, from T2W on.

    Raises:
        ArchiveError: no archive there, two kinds in one folder, no case in it, or no mask.
        ConfigError: no such format.
    """
    check_choice("archive_format", archive_format, ArchiveFormat)
    image_keys = _keys(images)
    archive_format = archive_format or _recognise(image_keys, images)
    found = _channels_by_case(image_keys, archive_format, images)
    mask_keys = masks_by_case(masks) if masks else {}
    cases: list[Case] = []
    faults: list[CaseError] = []
    for case_id, channels in sorted(found.items()):
        try:
            _check_id(case_id, channels[min(channels)][0], found)
            cases.append(_paired(case_id, archive_format, channels, needed, masks, mask_keys))
        except CaseError as fault:
            if not case_id.startswith("."):  # a hidden file is a case only if all of the case is there
                faults.append(fault)
    if archive_format == "bids":
        for case in cases:
            log.info("%s: %s", case.id, ", ".join(map("{} {}".format, CHANNELS, map(printable, case.images))))
    if masks and (without := sorted(set(mask_keys) - set(found))):
        log.warning("%s: %d masks without images, not used: %s", masks.uri, len(without), shortened(without))
    return Inventory(tuple(cases), tuple(faults))


def patient_of(case_id: str, pattern: str = PICAI_PATIENT) -> str:
    """The patient that ``pattern`` finds in an id; where it does not match, the case is a patient of its own.

    The default takes the part before ``_`` of PI-CAI's ``<patient>_<study>``, or BIDS' subject. See `patient_in`.
    """
    return patient_in(case_id, pattern) or case_id


def patient_in(case_id: str, pattern: str) -> str | None:
    """The group ``patient`` of a regular expression in an id, or None; InputError if it has none, or is none."""
    try:
        compiled = re.compile(pattern)
    except (re.error, TypeError) as error:
        raise InputError(f"{pattern!r} is no regular expression: {error}") from error
    if "patient" not in compiled.groupindex:
        raise InputError(f"{pattern!r} has no group (?P<patient>...), which names a case's patient")
    match = compiled.match(case_id) or (_BIDS_SESSION.match(case_id) if pattern == PICAI_PATIENT else None)
    return (match and match["patient"]) or None


def shortened(names: Iterable[str], most: int = 5) -> str:
    """``names`` joined for a message, the first few of them."""
    names = [printable(name) for name in names]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def in_one_form(name: str) -> str:
    """A name in Unicode's composed form: names that passed through macOS are decomposed and look the same."""
    return unicodedata.normalize("NFC", name)


def _name(key: str) -> str:
    return in_one_form(Path(key).name)


def _case_and_channel(key: str, archive_format: ArchiveFormat) -> tuple[str, int] | None:
    """The case and the channel that a file belongs to by its name; None if it is no image."""
    name = _name(key)
    for channel, suffix in enumerate(IMAGE_SUFFIXES[archive_format]):
        if name.endswith(suffix):
            if archive_format != "bids":
                return name.removesuffix(suffix), channel
            match = None if _NOT_BIDS.search(key) else _BIDS.search(in_one_form(key))
            return match and ("_".join(filter(None, match.group("subject", "session"))), channel)
    return None


def _keys(storage: Storage) -> list[str]:
    """Keys of an input folder without what macOS adds, what is in hidden folders, and what this program made there."""
    keys = [entry.key for entry in storage.list()]
    with_records = {PurePosixPath(key).parent.parent for key in keys if _RECORD.search(key)}

    def is_prepared(folder: PurePosixPath) -> bool:
        is_subset = _SUBSET.fullmatch(folder.name) is not None
        return is_subset and (folder.parent in with_records or folder.parent.parts[-2:] == ("SSL", "data"))

    return [key for key in keys if not (_is_foreign(key) or is_prepared(PurePosixPath(key).parent))]


def _is_foreign(key: str) -> bool:
    *folders, name = key.split("/")
    return name.startswith("._") or any(folder == "__MACOSX" or folder.startswith(".") for folder in folders)


def _seen(storage: Storage) -> str:
    """What is in a folder in which nothing of use was found: endings, counted, and an example."""
    keys = [entry.key for entry in storage.list()]
    if not keys:
        return "it is empty, or is not there"
    endings = Counter("*" + "".join(PurePosixPath(key).suffixes[-2:])[-_LONGEST_ENDING:] for key in keys)
    counts = ", ".join(f"{count} {printable(ending)}" for ending, count in endings.most_common(4))
    hints = {
        "; all of them are hidden": all(map(_is_foreign, keys)),
        "; files that an earlier run prepared are ignored": any(map(_RECORD.search, keys)),
        "; compress *.nii with gzip": any(key.endswith(".nii") for key in keys),
        "; DICOM files have to be converted first": any(key.lower().endswith((".dcm", ".ima")) for key in keys),
    }
    hint = next((hint for hint, applies in hints.items() if applies), "")
    return f"there are {len(keys)} files ({counts}), such as {shortened(sorted(keys), 2)}{hint}"


def _recognise(keys: list[str], images: Storage) -> ArchiveFormat:
    kinds: list[ArchiveFormat] = [kind for kind in IMAGE_SUFFIXES if any(_case_and_channel(key, kind) for key in keys)]
    if len(kinds) == 1:
        return kinds[0]
    if kinds:
        both, choice = " and ".join(f"*{IMAGE_SUFFIXES[kind][0]}" for kind in kinds), " or ".join(kinds)
        raise ArchiveError(f"{images.uri}: holds both {both}; choose one with --archive-format {choice}")
    if not images.list():
        raise ArchiveError(f"{images.uri}: no such folder, or an empty one; name the folder of the images")
    raise ArchiveError(f"{images.uri}: no case found; {_EXPECTED}; {_seen(images)}")


def _channels_by_case(
    keys: list[str], archive_format: ArchiveFormat, images: Storage
) -> dict[str, dict[int, list[str]]]:
    if archive_format == "nnunet":  # imagesTr, if there is one; never unlabelled test images, beside it in imagesTs
        inside = [key for key in keys if "imagesTr" in Path(key).parts]
        keys = inside or [key for key in keys if "imagesTs" not in Path(key).parts]
    found: dict[str, dict[int, list[str]]] = {}
    for key in keys:
        if image := _case_and_channel(key, archive_format):
            found.setdefault(image[0], {}).setdefault(image[1], []).append(key)
    if not found:
        expected = " or ".join(IMAGE_SUFFIXES[archive_format])
        raise ArchiveError(
            f"{images.uri}: no case of the format {archive_format!r} found (no file *{expected}); {_seen(images)}"
        )
    return found


def masks_by_case(masks: Storage) -> dict[str, list[str]]:
    """Keys of the files that are called like a case's mask, by the case's id; ArchiveError if there is none."""
    found: dict[str, list[str]] = {}
    for key in _keys(masks):
        if _name(key).endswith(MASK_SUFFIX) and DOUBTFUL not in key.split("/")[:-1]:
            found.setdefault(_name(key).removesuffix(MASK_SUFFIX), []).append(key)
    if not found:
        raise ArchiveError(
            f"{masks.uri}: no zonal mask <case>{MASK_SUFFIX} found (such as 11373_1001396{MASK_SUFFIX}); "
            f"name the folder of the masks; {_seen(masks)}"
        )
    return found


def _check_id(case_id: str, file: str, others: Container[str]) -> None:
    """Whether prepared files can be named after the case."""
    if not case_id:
        raise CaseError(case_id, printable(file), "its name has nothing before the channel, so the case has no id")
    for suffix in IMAGE_SUFFIXES["nnunet"]:
        _check_key(case_id, case_id + suffix)
        ending = suffix.removesuffix(MASK_SUFFIX)
        if case_id.endswith(ending) and (other := case_id.removesuffix(ending)) in others:
            reason = f"the case's mask {case_id}{MASK_SUFFIX} has the name of an image of case {other}; rename one"
            raise CaseError(case_id, file, reason)


def _check_key(case_id: str, key: str) -> None:
    try:
        checked_key(key)
    except InputError as error:
        raise CaseError(printable(case_id), printable(key), str(error)) from error


def _paired(
    case_id: str,
    archive_format: ArchiveFormat,
    channels: dict[int, list[str]],
    needed: int,
    masks: Storage | None,
    mask_keys: dict[str, list[str]],
) -> Case:
    for channel, name in enumerate(CHANNELS[:needed]):
        if channel not in channels:
            file = f"{case_id}{IMAGE_SUFFIXES[archive_format][channel]}"
            raise CaseError(case_id, file, f"missing: the case has no {name} image")
    t2w, adc, dwi = (
        only_key(case_id, channels[number]) if number in channels else "" for number in range(len(CHANNELS))
    )
    if masks is None:
        return Case(case_id, archive_format, (t2w, adc, dwi), "")
    if case_id not in mask_keys:
        raise CaseError(case_id, masks.where(case_id + MASK_SUFFIX), "missing: the case has no zonal mask")
    mask = only_key(case_id, mask_keys[case_id])
    own = Path(mask).name.removesuffix(MASK_SUFFIX)
    is_decomposed = all(Path(key).name.startswith(own) for key in (t2w, adc, dwi) if key)  # so the files are called
    return Case(own if is_decomposed else case_id, archive_format, (t2w, adc, dwi), mask)


def only_key(case_id: str, keys: Sequence[str]) -> str:
    """The key of a file that must not be there twice."""
    if len(keys) > 1:
        raise CaseError(
            case_id, printable(keys[1]), f"the id is there twice, in {printable(keys[0])} as well; rename one"
        )
    _check_key(case_id, keys[0])
    return keys[0]


def duplicated(names: Iterable[str]) -> list[str]:
    """Names that occur more than once, sorted."""
    return sorted(name for name, count in Counter(names).items() if count > 1)
