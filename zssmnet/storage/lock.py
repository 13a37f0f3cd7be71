"""A lock on a folder: of two runs over one root, one works there, and the other reports which run has the lock.

The lock is one small file, written, renewed, taken over and removed by `Storage.exchange` alone, so that of several
processes one succeeds. A heartbeat renews it. A lock without a heartbeat for a while has expired, and so has, at once,
that of a process which is known to have ended. No clocks are compared: what counts is how long the file has not
changed, as the waiting process has observed it.
"""

import itertools
import logging
import random
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import BaseModel, ValidationError

from zssmnet.errors import LockedError, StorageError
from zssmnet.storage.interface import Storage
from zssmnet.storage.keys import printable
from zssmnet.storage.process_id import Owner, this_process

log = logging.getLogger(__name__)

LOCKS = ".lock"
LOCK_FILE = f"{LOCKS}/owner.json"
_counter = itertools.count()
_ids_of_this_process: set[str] = set()


@dataclass(frozen=True)
class LockTiming:
    """Timing of locks, in seconds; the same for all that share a root.

    Attributes:
        heartbeat_s: between two heartbeats.
        expires_s: after the last heartbeat, until a lock has expired.
        poll_s: between two attempts to get a lock, at most.
    """

    heartbeat_s: float = 15.0
    expires_s: float = 120.0
    poll_s: float = 3.0


@dataclass(frozen=True)
class LockOptions:
    """Who locks folders, for others' messages ("run 'brave-lion'"), and how long to wait for a lock of another."""

    name: str = "a command"
    timeout_s: float = 0.0


_DEFAULT_OPTIONS = LockOptions()
_options: ContextVar[LockOptions] = ContextVar("lock options", default=_DEFAULT_OPTIONS)
_locks: "ContextVar[Mapping[str, Lock] | None]" = ContextVar("locks", default=None)


def lock_name() -> str:
    """Who locks folders here, as others' messages name it."""
    process = this_process()
    return f"{_options.get().name} (process {process.process} on {process.host})"


class LockOwner(BaseModel):
    """Content of the lock's file.

    Attributes:
        process: its process, see `Owner`.
        id: a number of this lock, unique in its process.
        heartbeat: a count, so that each heartbeat changes the file.
    """

    name: str
    since: str
    process: str
    id: str
    heartbeat: int = 0

    @property
    def has_gone(self) -> bool:
        """Whether it is known that nobody has this lock any more."""
        process = Owner.parse(self.process)
        if process == this_process():
            return self.id not in _ids_of_this_process
        return process is not None and process.has_gone


class Lock:
    """The lock of a folder."""

    def __init__(self, storage: Storage, timing: LockTiming) -> None:
        self._storage = storage
        self._timing = timing
        since = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
        self._owner = LockOwner(name=lock_name(), since=since, process=str(this_process()), id=str(next(_counter)))
        self._version: str | None = None
        self._renewed = 0.0
        self._is_lost = False
        self._renewing = threading.Lock()
        self._released = threading.Event()
        self._heartbeat = threading.Thread(target=self._send_heartbeats, name="heartbeat", daemon=True)

    def check(self) -> None:
        """Raise a LockedError if the lock was lost to another run, because this process sent no heartbeat."""
        if time.monotonic() - self._renewed > self._timing.expires_s:  # it was suspended, or the storage was away
            self._renew()
        if self._is_lost:
            raise LockedError(
                f"{self._storage.uri}: lock lost to another run, because this one sent no heartbeat for "
                f"{self._timing.expires_s:g} s (was it suspended?); start it again to continue"
            )

    def acquire(self, timeout_s: float) -> None:
        """Acquire the lock; LockedError if another run has not released it after ``timeout_s``."""
        _ids_of_this_process.add(self._owner.id)
        try:
            self._wait(timeout_s)
        except BaseException:
            self._forget()
            raise
        self._heartbeat.start()

    def release(self) -> None:
        """Release the lock."""
        self._released.set()
        self._heartbeat.join()
        self._forget()

    def _wait(self, timeout_s: float) -> None:
        """Write the lock's file as soon as nobody has it; LockedError if its owner is alive after the timeout."""
        deadline, unchanged_since = time.monotonic() + timeout_s, 0.0
        version: str | None = None
        reported = ""
        while True:
            entry = self._storage.stat(LOCK_FILE)
            before, version = version, entry.version if entry else None
            if before != version:
                unchanged_since = time.monotonic()
            owner = read_owner(self._storage) if entry else None
            process = owner and Owner.parse(owner.process)
            has_expired = time.monotonic() - unchanged_since > self._timing.expires_s
            if entry is None or has_expired or (owner and owner.has_gone):
                if entry:
                    log.warning("%s: taking over the lock of a run that ended without releasing it", self._storage.uri)
                if self._write(version):
                    return
            elif owner and ((process and process.is_here) or before not in (None, version)):  # known to be alive
                name = f"{owner.name} since {owner.since}"
                if reported != name:
                    log.warning("%s: is locked by %s", self._storage.uri, name)
                reported = name
                if time.monotonic() >= deadline:
                    raise LockedError(
                        f"{self._storage.uri}: is locked by {name}; wait until that has ended, or choose another "
                        "working root"
                    )
            time.sleep(random.uniform(0.1, 1) * self._timing.poll_s)

    def _write(self, version: str | None) -> bool:
        """Put this owner in place of a version of the file; whether this process has the lock."""
        content = self._owner.model_dump_json().encode()
        self._storage.exchange(LOCK_FILE, content, version)
        # What lies there decides: a write whose answer was lost is refused when it is sent again, and one that was
        # accepted may have been replaced where a storage does not keep its conditions.
        entry = self._storage.stat(LOCK_FILE)
        try:
            owner = _owner_in(self._storage.read(LOCK_FILE)) if entry else None
        except StorageError:
            if self._storage.stat(LOCK_FILE) == entry:
                raise
            return False  # another's, released or replaced in this moment
        if not (entry and owner) or (owner.process, owner.id) != (self._owner.process, self._owner.id):
            return False
        self._version, self._renewed = entry.version, time.monotonic()
        return True

    def _send_heartbeats(self) -> None:
        while not self._is_lost and not self._released.wait(self._timing.heartbeat_s):
            self._renew()

    def _renew(self) -> None:
        with self._renewing:
            self._owner = self._owner.model_copy(update={"heartbeat": self._owner.heartbeat + 1})
            try:
                if not self._write(self._version):
                    self._is_lost = True
                    log.error("%s: lock lost to another run", self._storage.uri)
            except StorageError as error:
                log.warning("could not renew lock, retrying: %s", error)

    def _forget(self) -> None:
        """Remove the file if it is this lock's."""
        _ids_of_this_process.discard(self._owner.id)
        try:
            if self._version:  # one that was lost has another version
                self._storage.exchange(LOCK_FILE, None, self._version)
        except StorageError as error:  # the next one finds out that its process has ended
            log.warning("could not release lock: %s", error)


def read_owner(storage: Storage) -> LockOwner | None:
    """Who has the lock of a folder; None if nobody has, or the file has no such content."""
    try:
        owner = _owner_in(storage.read(LOCK_FILE))
    except StorageError:  # released or being written in this moment
        return None
    return owner and owner.model_copy(update={"name": printable(owner.name), "since": printable(owner.since)})


def _owner_in(content: bytes) -> LockOwner | None:
    try:
        return LockOwner.model_validate_json(content)
    except ValidationError:  # foreign
        return None


def is_locked(storage: Storage) -> bool:
    """Whether a folder may be locked by a run, also by one elsewhere that has ended without releasing it."""
    owner = read_owner(storage)
    return storage.stat(LOCK_FILE) is not None and not (owner and owner.has_gone)


@contextmanager
def locked(storage: Storage, timeout_s: float | None = None, timing: LockTiming = LockTiming()) -> Iterator[Lock]:
    """Lock a folder against all other runs; a folder that the same context has locked may be entered again.

    Args:
        storage: the folder; it must be writable.
        timeout_s: how long to wait for another run; not given: by `lock_options`.

    Raises:
        LockedError: another run has the lock, or this one lost it meanwhile.
        StorageError: the folder cannot be written to.
    """
    locks = _locks.get() or {}
    if lock := locks.get(storage.uri):
        yield lock
        return
    lock = Lock(storage, timing)
    lock.acquire(_options.get().timeout_s if timeout_s is None else timeout_s)
    token = _locks.set({**locks, storage.uri: lock})
    try:
        yield lock
        lock.check()
    finally:
        _locks.reset(token)
        lock.release()


@contextmanager
def lock_options(options: LockOptions) -> Iterator[None]:
    """Set the owner's name and the timeout of the locks that are acquired inside."""
    token = _options.set(options)
    try:
        yield
    finally:
        _options.reset(token)
