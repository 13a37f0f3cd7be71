"""A lock on a folder: one at a time, on a disk and in a bucket."""

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from zssmnet.errors import LockedError, StorageError
from zssmnet.storage import Entry, LocalStorage, Storage
from zssmnet.storage import lock as module
from zssmnet.storage.lock import LOCK_FILE, LockOptions, LockOwner, LockTiming, is_locked, lock_options, locked
from zssmnet.storage.process_id import Owner, this_process
from zssmnet.storage.s3 import S3Storage

QUICK = LockTiming(heartbeat_s=0.05, expires_s=1.5, poll_s=0.05)
"""Thirty heartbeats in the time after which a lock expires."""
NOBODY = replace(this_process(), process=999_999_999)
ELSEWHERE = replace(this_process(), host="elsewhere")


def lock_of(process: Owner, heartbeat: int = 0, **names: str) -> bytes:
    """Content of a lock of another process."""
    names = {"name": "run 'other'", "since": "yesterday"} | names
    return LockOwner(process=str(process), id="0", heartbeat=heartbeat, **names).model_dump_json().encode()


@contextmanager
def another_thread_with_the_lock(storage: Storage) -> Iterator[threading.Event]:
    """Another thread has the lock until the event is set, at the latest until the block ends."""
    taken, enough = threading.Event(), threading.Event()

    def work() -> None:
        with lock_options(LockOptions("run 'first'")), locked(storage, timing=QUICK):
            taken.set()
            enough.wait(30)

    thread = threading.Thread(target=work)
    thread.start()
    assert taken.wait(30)
    try:
        yield enough
    finally:
        enough.set()
        thread.join()


class LockContract:
    @pytest.fixture
    def storage(self) -> Storage:
        raise NotImplementedError

    def test_nothing_is_left_of_it(self, storage: Storage) -> None:
        with locked(storage, timing=QUICK):
            assert is_locked(storage)
            assert [entry.key for entry in storage.list()] == [LOCK_FILE]
        assert not is_locked(storage)
        assert storage.list() == []
        assert "heartbeat" not in {thread.name for thread in threading.enumerate()}

    def test_it_sends_heartbeats(self, storage: Storage) -> None:
        with locked(storage, timing=replace(QUICK, expires_s=1e6)):
            versions, deadline = {storage.stat(LOCK_FILE).version}, time.monotonic() + 30
            while len(versions) < 3 and time.monotonic() < deadline:
                versions.add(storage.stat(LOCK_FILE).version)
                time.sleep(QUICK.heartbeat_s / 5)
        assert len(versions) == 3

    def test_the_second_is_told_who_has_the_lock(self, storage: Storage) -> None:
        with another_thread_with_the_lock(storage), pytest.raises(LockedError) as caught, locked(storage, timing=QUICK):
            pytest.fail("it was locked")
        here = this_process()
        reported = f"{storage.uri}: is locked by run 'first' (process {here.process} on {here.host}) since "
        assert str(caught.value).startswith(reported)
        assert str(caught.value).endswith("; wait until that has ended, or choose another working root")
        assert storage.list() == []
        with locked(storage, timing=QUICK):
            pass

    def test_the_second_with_a_timeout_comes_after_the_first(self, storage: Storage) -> None:
        came: list[str] = []

        def work() -> None:
            with lock_options(LockOptions(timeout_s=30)), locked(storage, timing=QUICK):
                came.append("second")

        with another_thread_with_the_lock(storage) as enough:
            second = threading.Thread(target=work)
            second.start()
            time.sleep(10 * QUICK.poll_s)
            came.append("first")
            enough.set()
            second.join()
        assert came == ["first", "second"]

    def test_the_owner_may_enter_again(self, storage: Storage) -> None:
        with locked(storage, timing=QUICK) as lock, locked(storage, timing=QUICK) as again:
            assert again is lock
            assert len(storage.list()) == 1
        with pytest.raises(ZeroDivisionError), locked(storage, timing=QUICK), locked(storage, timing=QUICK):
            raise ZeroDivisionError
        assert storage.list() == []

    def test_each_folder_has_a_lock_of_its_own(self, storage: Storage) -> None:
        with another_thread_with_the_lock(storage.child("data")), locked(storage.child("cubes"), timing=QUICK):
            pass

    def test_never_two_at_a_time(self, storage: Storage) -> None:
        inside: list[int] = []
        most_inside: list[int] = []

        def work(number: int) -> None:
            for _ in range(2):
                with locked(storage, timeout_s=60, timing=QUICK):
                    inside.append(number)
                    time.sleep(0.01)
                    most_inside.append(len(inside))
                    inside.remove(number)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
        assert most_inside == [1] * 8
        assert storage.list() == []

    def test_what_an_ended_process_left_is_taken_over_at_once(self, storage: Storage) -> None:
        storage.publish_bytes(LOCK_FILE, lock_of(NOBODY))
        with locked(storage, timing=replace(QUICK, expires_s=1e6)):
            assert len(storage.list()) == 1

    def test_one_elsewhere_that_sends_no_heartbeat_is_taken_over(self, storage: Storage) -> None:
        storage.publish_bytes(LOCK_FILE, lock_of(ELSEWHERE))
        with locked(storage, timing=QUICK):
            assert len(storage.list()) == 1

    def test_one_elsewhere_that_sends_heartbeats_is_not(self, storage: Storage) -> None:
        enough = threading.Event()

        def live() -> None:
            beat = 0
            while not enough.wait(QUICK.heartbeat_s):
                storage.publish_bytes(LOCK_FILE, lock_of(ELSEWHERE, beat := beat + 1))

        storage.publish_bytes(LOCK_FILE, lock_of(ELSEWHERE))
        thread = threading.Thread(target=live)
        thread.start()
        reported = "is locked by run 'other' since yesterday"
        try:
            with pytest.raises(LockedError, match=reported), locked(storage, timing=replace(QUICK, expires_s=1e6)):
                pytest.fail("it was locked")
        finally:
            enough.set()
            thread.join()
        assert [entry.key for entry in storage.list()] == [LOCK_FILE]

    def test_one_that_was_suspended_finds_out_that_it_was_taken_over(self, storage: Storage) -> None:
        with pytest.raises(LockedError, match="lock lost to another run"), locked(storage, timing=QUICK) as lock:
            lock.check()
            (entry,) = storage.list()
            storage.remove(entry.key)
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                lock.check()
                time.sleep(QUICK.heartbeat_s)
        assert storage.list() == []

    def test_of_several_that_find_an_expired_lock_one_takes_it_over(self, storage: Storage) -> None:
        """They all replace the version that they have seen, so that one succeeds, whatever the others' timing."""
        storage.publish_bytes(LOCK_FILE, lock_of(NOBODY))
        entry = storage.stat(LOCK_FILE)
        assert entry
        everybody = threading.Barrier(8)

        def take_over(number: int) -> str | None:
            everybody.wait(30)
            return storage.exchange(LOCK_FILE, bytes([number]), entry.version)

        with ThreadPoolExecutor(8) as pool:
            versions = list(pool.map(take_over, range(8)))
        (winner,) = [number for number, version in enumerate(versions) if version]
        assert storage.read(LOCK_FILE) == bytes([winner])
        assert storage.stat(LOCK_FILE).version == versions[winner]
        assert [one.key for one in storage.list()] == [LOCK_FILE]

    def test_one_that_lost_the_lock_leaves_that_of_its_successor(self, storage: Storage) -> None:
        slow = replace(QUICK, heartbeat_s=1e6, expires_s=0)  # as if suspended: no heartbeat but at a check
        with pytest.raises(LockedError, match="lock lost to another run"), locked(storage, timing=slow) as lock:
            lock.check()
            storage.publish_bytes(LOCK_FILE, lock_of(ELSEWHERE))
        assert storage.read(LOCK_FILE) == lock_of(ELSEWHERE)

    def test_a_lock_of_an_earlier_version_is_ignored(self, storage: Storage) -> None:
        storage.publish_bytes(f".held/{ELSEWHERE}-0.json", b"{}")
        with locked(storage, timing=QUICK):
            pass

    @pytest.mark.parametrize("content", [b"", b'{"name": 1}', b"\xff"])
    def test_a_foreign_file_expires(self, storage: Storage, content: bytes) -> None:
        storage.publish_bytes(LOCK_FILE, content)
        with locked(storage, timing=QUICK):
            assert len(storage.list()) == 1


class TestOnDisk(LockContract):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        return LocalStorage(tmp_path / "root")

    @pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
    def test_what_is_no_file_is_named(self, kind: str, storage: Storage, tmp_path: Path) -> None:
        place = tmp_path / "root" / LOCK_FILE
        place.parent.mkdir(parents=True)
        make = {"folder": place.mkdir, "pipe": lambda: os.mkfifo(place), "link": lambda: place.symlink_to("nowhere")}
        make[kind]()
        line = f"{place}: cannot be written: File exists: .* move it away"
        with pytest.raises(StorageError, match=line), locked(storage, timing=QUICK):
            pass

    def test_the_name_of_another_is_one_line(self, storage: Storage) -> None:
        """It comes out of a file that anybody may have written."""
        alive = replace(this_process(), process=1)
        storage.publish_bytes(LOCK_FILE, lock_of(alive, name="a\nb\x1b[31m", since="\r"))
        with pytest.raises(LockedError) as caught, locked(storage, timing=QUICK):
            pytest.fail("it was locked")
        assert str(caught.value).isprintable()

    def test_a_check_writes_only_if_the_last_heartbeat_is_old(self, storage: Storage) -> None:
        with locked(storage, timing=replace(QUICK, heartbeat_s=1e6, expires_s=1e6)) as lock:
            before = storage.stat(LOCK_FILE)
            lock.check()
            assert storage.stat(LOCK_FILE) == before

    def test_heartbeats_are_sent_one_at_a_time(self, tmp_path: Path) -> None:
        storage = Slow(tmp_path)
        timing = replace(QUICK, heartbeat_s=1e6, expires_s=0)
        with locked(storage, timing=timing) as lock, ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: lock.check(), range(4)))
        assert storage.most_inside == 1

    def test_a_lost_lock_is_reported_once(self, storage: Storage, caplog: pytest.LogCaptureFixture) -> None:
        with pytest.raises(LockedError, match="lock lost to another run"), locked(storage, timing=QUICK):
            storage.remove(LOCK_FILE)
            time.sleep(20 * QUICK.heartbeat_s)
        assert caplog.text.count("lock lost to another run") == 1

    def test_waiting_asks_for_the_lock_now_and_then(self, tmp_path: Path) -> None:
        storage = Slow(tmp_path)
        with (
            another_thread_with_the_lock(LocalStorage(tmp_path)),
            pytest.raises(LockedError),
            locked(storage, timeout_s=0.5, timing=replace(QUICK, poll_s=0.2)),
        ):
            pytest.fail("it was locked")
        assert 3 <= storage.asked < 60

    def test_options_end_with_their_block(self) -> None:
        before = module._options.get()
        with lock_options(LockOptions("run 'x'", 5)):
            assert module._options.get() == LockOptions("run 'x'", 5)
        assert module._options.get() == before

    def test_an_acquisition_whose_answer_was_lost_is_ours(self, tmp_path: Path) -> None:
        storage = AnswerLost(tmp_path, times=1)
        with locked(storage, timing=replace(QUICK, expires_s=1e6)) as lock:
            assert storage.times == 0
            lock.check()
        assert storage.list() == []

    def test_a_heartbeat_whose_answer_was_lost_keeps_the_lock(self, tmp_path: Path) -> None:
        storage = AnswerLost(tmp_path, times=0)
        with locked(storage, timing=replace(QUICK, heartbeat_s=1e6, expires_s=0)) as lock:
            storage.times = 1
            for _ in range(3):
                lock.check()
            assert storage.times == 0
        assert storage.list() == []

    @pytest.mark.parametrize("others", [{"process": str(replace(this_process(), process=1))}, {"id": "another"}])
    def test_a_refused_write_of_another_owner_is_not_ours(self, others: dict[str, str], tmp_path: Path) -> None:
        """One of another process with the same number, or another lock of this process."""
        storage = WrittenByAnother(tmp_path, others)
        module._ids_of_this_process.add("another")
        try:
            with (
                pytest.raises(LockedError, match="is locked by"),
                locked(storage, timing=replace(QUICK, expires_s=1e6)),
            ):
                pytest.fail("it was locked")
        finally:
            module._ids_of_this_process.discard("another")
        assert storage.stat(LOCK_FILE)

    def test_one_that_another_releases_while_it_is_looked_at_is_acquired(self, tmp_path: Path) -> None:
        storage = ReleasedWhileRead(tmp_path)
        storage.publish_bytes(LOCK_FILE, lock_of(NOBODY))
        with locked(storage, timing=replace(QUICK, expires_s=1e6)):
            assert storage.times == 0
        assert storage.list() == []

    def test_one_that_cannot_be_read_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(StorageError, match="the disk is away"), locked(Unreadable(tmp_path), timing=QUICK):
            pytest.fail("it was not read")

    def test_a_lock_that_this_process_could_not_remove_is_taken_over_at_once(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with locked(Unremovable(tmp_path), timing=QUICK):
            pass
        assert "could not release lock: the disk is away" in caplog.text
        assert LocalStorage(tmp_path).stat(LOCK_FILE)
        assert not is_locked(LocalStorage(tmp_path))
        with locked(LocalStorage(tmp_path), timing=replace(QUICK, expires_s=1e6)):
            assert is_locked(LocalStorage(tmp_path))
        assert LocalStorage(tmp_path).list() == []

    def test_an_acquisition_that_was_interrupted_is_no_lock(self, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt), locked(Interrupted(tmp_path), timing=QUICK):
            pytest.fail("it was interrupted")
        assert LocalStorage(tmp_path).stat(LOCK_FILE)
        with locked(LocalStorage(tmp_path), timing=replace(QUICK, expires_s=1e6)):
            pass

    def test_a_heartbeat_that_cannot_be_written_is_sent_again(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        storage = Unwritable(tmp_path)
        with locked(storage, timing=replace(QUICK, heartbeat_s=1e6, expires_s=0)) as lock:
            storage.is_away = True
            lock.check()
            assert "could not renew lock, retrying: the disk is away" in caplog.text
            storage.is_away = False
            before = storage.stat(LOCK_FILE)
            lock.check()
            assert storage.stat(LOCK_FILE) != before


class Slow(LocalStorage):
    """Notes how many write side by side, and how often the file is asked for."""

    inside = most_inside = asked = 0

    def stat(self, key: str) -> Entry | None:
        self.asked += 1
        return super().stat(key)

    def exchange(self, key: str, data: bytes | None, version: str | None) -> str | None:
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        time.sleep(0.05)
        self.inside -= 1
        return super().exchange(key, data, version)


class ReleasedWhileRead(LocalStorage):
    """Another process takes the lock over first, and releases it just when this one reads the file."""

    times = 1
    is_refused = False

    def exchange(self, key: str, data: bytes | None, version: str | None) -> str | None:
        self.is_refused = self.times > 0
        return None if self.is_refused else super().exchange(key, data, version)

    def read(self, key: str) -> bytes:
        if self.is_refused and self.times:
            self.times -= 1
            self.remove(key)
        return super().read(key)


class Unreadable(LocalStorage):
    def read(self, key: str) -> bytes:
        raise StorageError("the disk is away")


class AnswerLost(LocalStorage):
    """Writes are carried out, but their answers are lost, and what is sent again is refused; so many times."""

    def __init__(self, folder: Path, times: int) -> None:
        super().__init__(folder)
        self.times = times

    def exchange(self, key: str, data: bytes | None, version: str | None) -> str | None:
        written = super().exchange(key, data, version)
        if self.times and data is not None:
            self.times -= 1
            return None
        return written


class WrittenByAnother(LocalStorage):
    """Whoever wants the lock finds that another was quicker, whose file differs only so far."""

    def __init__(self, folder: Path, others: dict[str, str]) -> None:
        super().__init__(folder)
        self.others = others

    def exchange(self, key: str, data: bytes | None, version: str | None) -> str | None:
        if data is not None:
            other = LockOwner.model_validate_json(data).model_copy(update=self.others)
            self.publish_bytes(key, other.model_dump_json().encode())
        return None


class Unremovable(LocalStorage):
    def exchange(self, key: str, data: bytes | None, version: str | None) -> str | None:
        if data is None:
            raise StorageError("the disk is away")
        return super().exchange(key, data, version)


class Unwritable(LocalStorage):
    is_away = False

    def exchange(self, key: str, data: bytes | None, version: str | None) -> str | None:
        if self.is_away:
            raise StorageError("the disk is away")
        return super().exchange(key, data, version)


class Interrupted(LocalStorage):
    def exchange(self, key: str, data: bytes | None, version: str | None) -> str | None:
        super().exchange(key, data, version)
        raise KeyboardInterrupt


class TestOnS3(LockContract):
    @pytest.fixture
    def storage(self, s3_root: str) -> Storage:
        return S3Storage(s3_root)
