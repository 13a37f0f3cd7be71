"""One at a time in a folder, on a disk and in a bucket."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from zssmnet.errors import HeldError
from zssmnet.storage import LocalStorage, Storage
from zssmnet.storage.lock import HELD, Claim, Manners, Pace, held, with_manners
from zssmnet.storage.process_id import Owner, this_process
from zssmnet.storage.s3 import S3Storage

QUICK = Pace(beat_s=0.05, expires_s=1.5, look_s=0.05, again_s=0.05)
"""A sign of life thirty times in the time after which there should have been one."""
NOBODY = replace(this_process(), process=999_999_999)
ELSEWHERE = replace(this_process(), host="elsewhere")


def claim(storage: Storage, owner: Owner, beat: int = 0) -> str:
    """The file of another that holds the folder."""
    key = f"{HELD}/{owner}-0.json"
    told = Claim(name="run 'other'", since="yesterday", holds=True, beat=beat)
    storage.publish_bytes(key, told.model_dump_json().encode())
    return key


@contextmanager
def another_thread_holding(storage: Storage) -> Iterator[threading.Event]:
    """Another thread holds the folder until the event is set, at the latest until the block ends."""
    taken, enough = threading.Event(), threading.Event()

    def hold() -> None:
        with with_manners(Manners("run 'first'")), held(storage, pace=QUICK):
            taken.set()
            enough.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert taken.wait(30)
    try:
        yield enough
    finally:
        enough.set()
        thread.join()


class LeaseContract:
    @pytest.fixture
    def storage(self) -> Storage:
        raise NotImplementedError

    def test_nothing_is_left_of_it(self, storage: Storage) -> None:
        with held(storage, pace=QUICK):
            (entry,) = storage.list()
            assert entry.key.startswith(f"{HELD}/{this_process()}-")
        assert storage.list() == []

    def test_the_second_is_told_who_holds_it(self, storage: Storage) -> None:
        with another_thread_holding(storage), pytest.raises(HeldError) as caught, held(storage, pace=QUICK):
            pytest.fail("it was held")
        here = this_process()
        told = f"{storage.uri}: is held by run 'first' (process {here.process} on {here.host}) since "
        assert str(caught.value).startswith(told)
        assert str(caught.value).endswith("; wait until that has ended, or choose another working root")
        assert storage.list() == []
        with held(storage, pace=QUICK):
            pass

    def test_the_patient_second_comes_after_the_first(self, storage: Storage) -> None:
        came: list[str] = []

        def hold() -> None:
            with with_manners(Manners(patience_s=30)), held(storage, pace=QUICK):
                came.append("second")

        with another_thread_holding(storage) as enough:
            second = threading.Thread(target=hold)
            second.start()
            time.sleep(10 * QUICK.look_s)
            came.append("first")
            enough.set()
            second.join()
        assert came == ["first", "second"]

    def test_who_holds_it_may_enter_again(self, storage: Storage) -> None:
        with held(storage, pace=QUICK) as lease, held(storage, pace=QUICK) as again:
            assert again is lease
            assert len(storage.list()) == 1
        with pytest.raises(ZeroDivisionError), held(storage, pace=QUICK), held(storage, pace=QUICK):
            raise ZeroDivisionError
        assert storage.list() == []

    def test_folders_are_held_one_by_one(self, storage: Storage) -> None:
        with another_thread_holding(storage.child("data")), held(storage.child("cubes"), pace=QUICK):
            pass

    def test_never_two_at_a_time(self, storage: Storage) -> None:
        inside: list[int] = []
        most_inside: list[int] = []

        def work(number: int) -> None:
            for _ in range(2):
                with held(storage, patience_s=60, pace=QUICK):
                    inside.append(number)
                    time.sleep(0.01)
                    most_inside.append(len(inside))
                    inside.remove(number)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
        assert most_inside == [1] * 8
        assert storage.list() == []

    def test_what_an_ended_process_left_is_taken_over_at_once(self, storage: Storage) -> None:
        claim(storage, NOBODY)
        with held(storage, pace=replace(QUICK, expires_s=1e6)):
            assert len(storage.list()) == 1

    def test_one_elsewhere_that_gives_no_sign_of_life_is_taken_over(self, storage: Storage) -> None:
        claim(storage, ELSEWHERE)
        with held(storage, pace=QUICK):
            assert len(storage.list()) == 1

    def test_one_elsewhere_that_gives_signs_of_life_is_not(self, storage: Storage) -> None:
        enough = threading.Event()

        def live() -> None:
            beat = 0
            while not enough.wait(QUICK.beat_s):
                claim(storage, ELSEWHERE, beat := beat + 1)

        claim(storage, ELSEWHERE)
        thread = threading.Thread(target=live)
        thread.start()
        told = "is held by run 'other' since yesterday"
        try:
            with pytest.raises(HeldError, match=told), held(storage, pace=replace(QUICK, expires_s=1e6)):
                pytest.fail("it was held")
        finally:
            enough.set()
            thread.join()
        assert [entry.key for entry in storage.list()] == [f"{HELD}/{ELSEWHERE}-0.json"]

    def test_one_that_was_suspended_is_told_that_it_was_taken_over(self, storage: Storage) -> None:
        with pytest.raises(HeldError, match="another run has taken it over"), held(storage, pace=QUICK) as lease:
            lease.check()
            (entry,) = storage.list()
            storage.remove(entry.key)
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                lease.check()
                time.sleep(QUICK.beat_s)
        assert storage.list() == []

    @pytest.mark.parametrize("content", [b"", b'{"name": 1}'])
    def test_a_foreign_file_expires(self, storage: Storage, content: bytes) -> None:
        storage.publish_bytes(f"{HELD}/what is this", content)
        with held(storage, pace=QUICK):
            assert len(storage.list()) == 1


class TestOnDisk(LeaseContract):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        return LocalStorage(tmp_path / "root")

    def test_the_name_of_another_is_one_line(self, storage: Storage) -> None:
        """It comes out of a file that anybody may have written."""
        key = f"{HELD}/{replace(this_process(), process=1)}-0.json"  # lives
        told = Claim(name="a\nb\x1b[31m", since="\r", holds=True)
        storage.publish_bytes(key, told.model_dump_json().encode())
        with pytest.raises(HeldError) as caught, held(storage, pace=QUICK):
            pytest.fail("it was held")
        assert str(caught.value).isprintable()


class TestOnS3(LeaseContract):
    @pytest.fixture
    def storage(self, s3_root: str) -> Storage:
        return S3Storage(s3_root)
