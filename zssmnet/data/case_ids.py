"""New ids of imported cases: keyed hashes of the old ones, or from a table."""

import csv
import hashlib
import hmac
import io
import re
from collections.abc import Callable

from zssmnet.data.dicom_series import Study
from zssmnet.errors import DicomError

CaseIds = Callable[[Study], str | None]
"""The id of a study's case, ``<patient>_<study>``; None if the study is not wanted."""
SHORTEST_KEY = 16
_DIGITS = 12
_FIELDS = ("patient_id", "study", "case_id")
_CASE_ID = re.compile(r"[A-Za-z0-9-]+_[A-Za-z0-9-]+")


def hashed_ids(key: bytes) -> CaseIds:
    """Ids by HMAC-SHA256 of PatientID and StudyInstanceUID: the same key gives the same ids, later too.

    Args:
        key: secret, at least 16 bytes; who has it can find out whether a known patient is in the archive.

    Raises:
        DicomError: the key is too short.
    """
    if len(key) < SHORTEST_KEY:
        raise DicomError(
            f"the key has {len(key)} bytes, {SHORTEST_KEY} or more are needed: openssl rand -hex 32 > KEY_FILE"
        )

    def number(kind: str, value: str) -> str:
        digest = hmac.digest(key, f"{kind}:{value}".encode(), hashlib.sha256)
        return str(10 ** (_DIGITS - 1) + int.from_bytes(digest) % (9 * 10 ** (_DIGITS - 1)))

    def case_id(study: Study) -> str:
        # without a PatientID, the study is a patient of its own
        patient = ("patient", study.patient) if study.patient else ("study as patient", study.uid)
        return f"{number(*patient)}_{number('study', study.uid)}"

    return case_id


def table_of_ids(text: bytes, source: str) -> CaseIds:
    """Ids from a CSV table with the columns ``patient_id``, ``study`` and ``case_id``.

    ``study`` is a StudyInstanceUID, a date (YYYYMMDD), or empty for the patient's only study. Studies that the table
    does not name are left out.

    Raises:
        DicomError: other columns, an id that is not ``<patient>_<study>``, or one that is there twice.
    """
    try:
        reader = csv.DictReader(io.StringIO(text.decode("utf-8-sig")))
        lines = [{key: (value or "").strip() for key, value in line.items() if key} for line in reader]
    except (UnicodeDecodeError, csv.Error, AttributeError) as error:
        raise DicomError(f"{source}: not a CSV table in UTF-8: {error}") from error
    if missing := set(_FIELDS) - set(reader.fieldnames or ()):
        raise DicomError(f"{source}: has no column {', '.join(sorted(missing))}; expected {','.join(_FIELDS)}")
    table: dict[tuple[str, str], str] = {}
    for number, line in enumerate(lines, start=2):
        case_id = line["case_id"]
        if not _CASE_ID.fullmatch(case_id):
            raise DicomError(f"{source}: line {number}: {case_id!r} is no id like 10001_1000001 (<patient>_<study>)")
        if case_id in table.values() or (line["patient_id"], line["study"]) in table:
            raise DicomError(f"{source}: line {number}: case {case_id}, or its patient and study, is there twice")
        table[line["patient_id"], line["study"]] = case_id

    def look_up(study: Study) -> str | None:
        keys = ((study.patient, name) for name in (study.uid, study.date, ""))
        return next((table[key] for key in keys if key in table), None)

    return look_up
