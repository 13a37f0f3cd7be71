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

from zssmnet.errors import HeldError, StorageError
from zssmnet.storage.interface import Entry, Storage
from zssmnet.storage.keys import printable
from zssmnet.storage.process_id import Owner, this_process

log = logging.getLogger(__name__)

HELD = ".held"
_counter = itertools.count()
_files_of_this_process: set[str] = set()


@dataclass(frozen=True)
class Pace:
    """How quickly things go, in seconds.

    Attributes:
        beat_s: between two signs of life.
        expires_s: without a sign of life until the holder is taken to have gone.
        look_s: between two looks of one that waits for a holder, at most.
        again_s: until one that met another that asks, too, tries again, at most.
    """

    beat_s: float = 15.0
    expires_s: float = 120.0
    look_s: float = 3.0
    again_s: float = 0.5


@dataclass(frozen=True)
class Manners:
    """As whom folders are held, and how long those are waited for that others hold.

    Attributes:
        name: who holds it, for those that come later: "run 'brave-lion'".
        patience_s: how long to wait for another before giving up.
    """

    name: str = "a command"
    patience_s: float = 0.0


_manners: ContextVar[Manners | None] = ContextVar("manners", default=None)
_leases: "ContextVar[Mapping[str, Lease] | None]" = ContextVar("leases", default=None)


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


class Lease:
    """A folder that is held."""

    def __init__(self, storage: Storage, pace: Pace) -> None:
        owner = this_process()
        name = _present_manners().name
        self._storage = storage
        self._pace = pace
        self._key = f"{HELD}/{owner}-{next(_counter)}.json"
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
            HeldError: another has taken it over, because this process gave no sign of life.
        """
        if self._lost:
            raise HeldError(
                f"{self._storage.uri}: another run has taken it over, because this one gave no sign of life for "
                f"{self._pace.expires_s:g} s (was it suspended?); start it again to continue"
            )

    def take(self, patience_s: float) -> None:
        """Get hold of the folder, waiting for others if need be.

        Raises:
            HeldError: another holds it, and has not ended after ``patience_s``.
        """
        try:
            self._wait(patience_s)
            self._claim = self._claim.model_copy(update={"holds": True})
            self._write()
        except BaseException:
            self._withdraw()
            raise
        self._signs_of_life.start()

    def give_back(self) -> None:
        """Let others have the folder."""
        self._given_back.set()
        self._signs_of_life.join()
        self._withdraw()

    def _wait(self, patience_s: float) -> None:
        others = _Others(self._storage, self._key, self._pace)
        deadline = time.monotonic() + patience_s
        while not self._is_alone(others):
            holder = others.living_holder()
            if holder and time.monotonic() >= deadline:
                raise HeldError(
                    f"{self._storage.uri}: is held by {holder.name} since {holder.since}; wait until that has "
                    "ended, or choose another working root"
                )
            time.sleep(random.uniform(0.1, 1) * (self._pace.look_s if holder else self._pace.again_s))

    def _is_alone(self, others: "_Others") -> bool:
        self._write()
        if not others.look():
            return True
        self._withdraw()
        return False

    def _give_signs_of_life(self) -> None:
        while not self._given_back.wait(self._pace.beat_s):
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

    def __init__(self, storage: Storage, own_key: str, pace: Pace) -> None:
        self._storage = storage
        self._own_key = own_key
        self._pace = pace
        self._present: list[str] = []
        self._versions: dict[str, tuple[str, float]] = {}
        self._alive: set[str] = set()
        self._told = ""

    def look(self) -> list[str]:
        """Keys of those that may still be there; what others left behind is removed."""
        self._present = []
        for entry in self._storage.list(HELD):
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
                    log.warning("%s: is held by %s since %s", self._storage.uri, claim.name, claim.since)
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
        return version == entry.version and now - since > self._pace.expires_s

    def _read(self, key: str) -> Claim | None:
        try:
            claim = Claim.model_validate_json(self._storage.read(key))
            return claim.model_copy(update={"name": printable(claim.name), "since": printable(claim.since)})
        except (StorageError, ValidationError):  # it was withdrawn in this moment
            return None


@contextmanager
def held(storage: Storage, patience_s: float | None = None, pace: Pace = Pace()) -> Iterator[Lease]:
    """Hold a folder, alone among all runs; what the same context holds already, it may enter again.

    Args:
        storage: the folder; it must be writable.
        patience_s: how long to wait for another that holds it; not given: as `with_manners` says.
        pace: how quickly one that has gone is found out; the same for all that share a root.

    Raises:
        HeldError: another holds it, or has taken it over meanwhile.
        StorageError: the folder cannot be written to.
    """
    leases = _leases.get() or {}
    if lease := leases.get(storage.uri):
        yield lease
        return
    lease = Lease(storage, pace)
    lease.take(_present_manners().patience_s if patience_s is None else patience_s)
    token = _leases.set({**leases, storage.uri: lease})
    try:
        yield lease
        lease.check()
    finally:
        _leases.reset(token)
        lease.give_back()


@contextmanager
def with_manners(manners: Manners) -> Iterator[None]:
    """Hold the folders that are held inside in this way."""
    token = _manners.set(manners)
    try:
        yield
    finally:
        _manners.reset(token)


def _present_manners() -> Manners:
    return _manners.get() or Manners()
