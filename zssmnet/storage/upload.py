"""Copying a folder to another storage: only what is new there, and the marker of new data last.

What was sent is noted beside the local copies of S3's files. So a file that has changed here replaces the one that was
sent, but none that somebody else has put there.
"""

import hashlib
import os
import shutil
from collections.abc import Callable
from contextlib import suppress

from pydantic import TypeAdapter

from zssmnet.errors import InputError, StorageError
from zssmnet.storage import Entry, LocalStorage, Storage, sha256_of
from zssmnet.storage.environment import variable
from zssmnet.storage.interface import storage_errors
from zssmnet.storage.ownership import check_ours

MARKER = "NEW_DATA"
"""The file that starts a retraining when it is written."""
_NOTE = TypeAdapter(dict[str, tuple[str, str]])
"""Versions of each file here and there, by key."""


def send(
    source: Storage, target: Storage, force: bool = False, advance: Callable[[], object] = lambda: None
) -> tuple[list[Entry], int]:
    """Copy all files of ``source`` that are not in ``target``; the files of ``source``, and how many were sent.

    Raises:
        InputError: no files there, or a link that leads nowhere, ``target`` lies in ``source``, or other content in
            ``target`` that was not sent from here, unless ``force``.
        StorageError: a file cannot be read or written.
    """
    entries = sorted(source.list(), key=lambda entry: (entry.key.rpartition("/")[2] == MARKER, entry.key))
    if not entries:
        raise InputError(f"{source.uri}: no files there")
    if odd := set(source.keys() if isinstance(source, LocalStorage) else ()) - {entry.key for entry in entries}:
        raise InputError(f"{source.where(min(odd))}: is a dead link, or no file; mend it, or move it away")
    if _place(target).startswith(_place(source)):  # each time more copies of copies would be sent
        raise InputError(f"{target.uri}: lies in {source.uri}, which is to be copied; name a place outside of it")
    target.sweep()
    notes = LocalStorage(variable("ZSSMNET_CACHE")).child("uploads")
    note = f"{hashlib.sha256(target.uri.encode()).hexdigest()}.json"
    noted: dict[str, tuple[str, str]] = {}
    with suppress(StorageError, ValueError):
        noted = _NOTE.validate_json(notes.read(note))
    there = {entry.key: entry for entry in target.list()}
    to_send: list[Entry] = []
    for entry in entries:
        found, known = there.get(entry.key), noted.get(entry.key, ("", ""))
        if found and (entry.version, found.version) != known and not _is_same(source, target, entry, found):
            check_ours(target, entry.key, lambda file: False, force or found.version == known[1])
            found = None
        if found is None or (to_send and entry.key.rpartition("/")[2] == MARKER):
            to_send.append(entry)
    done = {entry.key for entry in entries} - {entry.key for entry in to_send}
    try:
        for entry in to_send:
            file = source.local(entry.key)
            with storage_errors(file, "read"):
                file.open("rb").close()  # else the target would be blamed
            with target.publishing(entry.key) as path:
                shutil.copyfile(file, path)
            done.add(entry.key)
            advance()
    finally:
        with suppress(StorageError):  # then the next call compares the content
            versions = {entry.key: entry.version for entry in target.list()}
            same = {one.key: (one.version, versions[one.key]) for one in entries if one.key in done & versions.keys()}
            notes.publish_bytes(note, _NOTE.dump_json(noted | same))
    return entries, len(to_send)


def _is_same(source: Storage, target: Storage, entry: Entry, found: Entry) -> bool:
    """Whether two files have the same content."""
    return entry.size == found.size and sha256_of(source.local(entry.key)) == sha256_of(target.local(entry.key))


def _place(storage: Storage) -> str:
    """Where a storage lies, links followed, with a slash behind it."""
    uri = os.path.realpath(storage.uri) if isinstance(storage, LocalStorage) else storage.uri
    return f"{uri.rstrip('/')}/"
