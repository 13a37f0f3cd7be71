"""Who works in a folder: of two runs over one root, the second finds out who holds it.

Who wants a folder writes a file of its own into ``.held/`` below it, and then lists ``.held/``: who finds nobody else
there holds the folder. Of two that come in the same moment at least one sees the other, and who sees another withdraws
its file and tries again. All that this needs is that a listing shows what was written before it, as disks and S3 do.

While the folder is held its file is written anew every few seconds, a sign of life. Without one for a while, and at
once where it is known that its process has ended, the next one takes the folder over. No clocks are compared: what
counts is how long the file has not changed, as the one who looks has seen it.
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
from zssmnet.storage.interface import Entry, Storage
from zssmnet.storage.keys import printable
from zssmnet.storage.process_id import Owner, this_process

log = logging.getLogger(__name__)

LOCKS = ".held"
_counter = itertools.count()
_files_of_this_process: set[str] = set()


@dataclass(frozen=True)
class LockTiming:
    """How quickly things go, in seconds.

    Attributes:
        heartbeat_s: between two signs of life.
        expires_s: without a sign of life until the holder is taken to have gone.
        poll_s: between two looks of one that waits for a holder, at most.
        retry_s: until one that met another that asks, too, tries again, at most.
    """

    heartbeat_s: float = 15.0
    expires_s: float = 120.0
    poll_s: float = 3.0
    retry_s: float = 0.5


@dataclass(frozen=True)
class LockOptions:
    """As whom folders are held, and how long those are waited for that others hold.

    Attributes:
        name: who holds it, for those that come later: "run 'brave-lion'".
        timeout_s: how long to wait for another before giving up.
    """

    name: str = "a command"
    timeout_s: float = 0.0


_options: ContextVar[LockOptions | None] = ContextVar("lock options", default=None)
_locks: "ContextVar[Mapping[str, Lock] | None]" = ContextVar("locks", default=None)


class Claim(BaseModel):
    """What a file in ``.held/`` says.

    Attributes:
        name: who has written it.
        since: when, for people.
        holds: whether it holds the folder, or only asks for it.
        beat: a count, so that each sign of life is a change.
    """

    name: str
    since: str
    holds: bool = False
    beat: int = 0


class Lock:
    """A folder that is held."""

    def __init__(self, storage: Storage, timing: LockTiming) -> None:
        owner = this_process()
        name = _current_options().name
        self._storage = storage
        self._timing = timing
        self._key = f"{LOCKS}/{owner}-{next(_counter)}.json"
        self._claim = Claim(
            name=f"{name} (process {owner.process} on {owner.host})",
            since=f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
        )
        self._given_back = threading.Event()
        self._lost = False
        self._signs_of_life = threading.Thread(target=self._give_signs_of_life, name="signs of life", daemon=True)

    def check(self) -> None:
        """Whether the folder is still held.

        Raises:
            LockedError: another has taken it over, because this process gave no sign of life.
        """
        if self._lost:
            raise LockedError(
                f"{self._storage.uri}: another run has taken it over, because this one gave no sign of life for "
                f"{self._timing.expires_s:g} s (was it suspended?); start it again to continue"
            )

    def acquire(self, timeout_s: float) -> None:
        """Get hold of the folder, waiting for others if need be.

        Raises:
            LockedError: another holds it, and has not ended after ``timeout_s``.
        """
        try:
            self._wait(timeout_s)
            self._claim = self._claim.model_copy(update={"holds": True})
            self._write()
        except BaseException:
            self._withdraw()
            raise
        self._signs_of_life.start()

    def release(self) -> None:
        """Let others have the folder."""
        self._given_back.set()
        self._signs_of_life.join()
        self._withdraw()

    def _wait(self, timeout_s: float) -> None:
        others = _Others(self._storage, self._key, self._timing)
        deadline = time.monotonic() + timeout_s
        while not self._is_alone(others):
            holder = others.living_holder()
            if holder and time.monotonic() >= deadline:
                raise LockedError(
                    f"{self._storage.uri}: is locked by {holder.name} since {holder.since}; wait until that has "
                    "ended, or choose another working root"
                )
            time.sleep(random.uniform(0.1, 1) * (self._timing.poll_s if holder else self._timing.retry_s))

    def _is_alone(self, others: "_Others") -> bool:
        self._write()
        if not others.look():
            return True
        self._withdraw()
        return False

    def _give_signs_of_life(self) -> None:
        while not self._given_back.wait(self._timing.heartbeat_s):
            try:
                if self._storage.stat(self._key) is None:
                    self._lost = True
                    log.error("%s: another run has taken it over", self._storage.uri)
                    return
                self._claim = self._claim.model_copy(update={"beat": self._claim.beat + 1})
                self._write()
            except StorageError as error:
                log.warning("no sign of life could be given, it is tried again: %s", error)

    def _write(self) -> None:
        _files_of_this_process.add(self._key)
        self._storage.publish_bytes(self._key, self._claim.model_dump_json().encode())

    def _withdraw(self) -> None:
        _files_of_this_process.discard(self._key)
        try:
            self._storage.remove(self._key)
        except StorageError as error:  # the next one finds out that nobody stands behind it
            log.warning("%s", error)


class _Others:
    """Who else has a file in ``.held/``, as seen by one who looks again and again."""

    def __init__(self, storage: Storage, own_key: str, timing: LockTiming) -> None:
        self._storage = storage
        self._own_key = own_key
        self._timing = timing
        self._present: list[str] = []
        self._versions: dict[str, tuple[str, float]] = {}
        self._alive: set[str] = set()
        self._told = ""

    def look(self) -> list[str]:
        """Keys of those that may still be there; what others left behind is removed."""
        self._present = []
        for entry in self._storage.list(LOCKS):
            if entry.key == self._own_key:
                continue
            if self._has_gone(entry):
                log.warning("%s: taken over from a run that has ended without a word", self._storage.uri)
                self._storage.remove(entry.key)
            else:
                self._present.append(entry.key)
        return self._present

    def living_holder(self) -> Claim | None:
        """One that holds the folder and is known to live; said in the log if it is not the same as before."""
        for key in self._present:
            claim = self._read(key) if key in self._alive else None
            if claim and claim.holds:
                if claim.name != self._told:
                    self._told = claim.name
                    log.warning("%s: is locked by %s since %s", self._storage.uri, claim.name, claim.since)
                return claim
        return None

    def _has_gone(self, entry: Entry) -> bool:
        owner = Owner.parse(entry.key.rpartition("/")[2].removesuffix(".json").rpartition("-")[0])
        if owner == this_process():
            self._alive.add(entry.key)
            return entry.key not in _files_of_this_process
        if owner and owner.has_gone:
            return True
        now = time.monotonic()
        version, since = self._versions.get(entry.key, ("", now))
        if version != entry.version:
            self._versions[entry.key] = entry.version, now
        if (owner and owner.is_here) or (version and version != entry.version):
            self._alive.add(entry.key)
        return version == entry.version and now - since > self._timing.expires_s

    def _read(self, key: str) -> Claim | None:
        try:
            claim = Claim.model_validate_json(self._storage.read(key))
            return claim.model_copy(update={"name": printable(claim.name), "since": printable(claim.since)})
        except (StorageError, ValidationError):  # it was withdrawn in this moment
            return None


@contextmanager
def locked(storage: Storage, timeout_s: float | None = None, timing: LockTiming = LockTiming()) -> Iterator[Lock]:
    """Hold a folder, alone among all runs; what the same context holds already, it may enter again.

    Args:
        storage: the folder; it must be writable.
        timeout_s: how long to wait for another that holds it; not given: as `lock_options` says.
        timing: how quickly one that has gone is found out; the same for all that share a root.

    Raises:
        LockedError: another holds it, or has taken it over meanwhile.
        StorageError: the folder cannot be written to.
    """
    locks = _locks.get() or {}
    if lock := locks.get(storage.uri):
        yield lock
        return
    lock = Lock(storage, timing)
    lock.acquire(_current_options().timeout_s if timeout_s is None else timeout_s)
    token = _locks.set({**locks, storage.uri: lock})
    try:
        yield lock
        lock.check()
    finally:
        _locks.reset(token)
        lock.release()


@contextmanager
def lock_options(options: LockOptions) -> Iterator[None]:
    """Hold the folders that are held inside in this way."""
    token = _options.set(options)
    try:
        yield
    finally:
        _options.reset(token)


def _current_options() -> LockOptions:
    return _options.get() or LockOptions()
