"""The cache of several processes: each removes copies that others are looking at, and one fetches for all."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from zssmnet.storage import cache as module
from zssmnet.storage.cache import Cache


def test_many_trim_while_others_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SPARED_S", 0)
    caches = [Cache(tmp_path, limit_bytes=0) for _ in range(6)]

    def fetch_and_trim(number: int) -> None:
        caches[number % 6].get(f"bucket/{number}", "1", lambda copy: copy.write_bytes(b"x") and None)
        caches[number % 6].trim()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(fetch_and_trim, range(300)))
    caches[0].trim()
    assert not list((tmp_path / "files").glob("*/*"))


PROCESS = """
import os, sys, time
from pathlib import Path
from zssmnet.storage.cache import Cache

cache, place = Cache(Path(sys.argv[1]), 10**9), ("s3://bucket/cubes.npy", "1")

def fetch(path):
    with (cache.folder / "fetched").open("a") as log:
        log.write("x")
    time.sleep(float(sys.argv[2]))
    if sys.argv[3:]:
        sys.exit("the storage does not answer")
    path.write_bytes(b"cubes")

print(cache.get(*place, fetch).read_text())
"""
Rank = Callable[..., "subprocess.Popen[str]"]


class TestOneOfThisMachinesProcesses:
    @pytest.fixture
    def rank(self, tmp_path: Path) -> Iterator[Rank]:
        started: list[subprocess.Popen[str]] = []

        def start(*arguments: str) -> "subprocess.Popen[str]":
            command = [sys.executable, "-c", PROCESS, str(tmp_path), *arguments]
            started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True))
            return started[-1]

        yield start
        for process in started:
            process.kill()
            process.communicate()

    def wait_for_a_fetch(self, folder: Path) -> None:
        deadline = time.monotonic() + 60
        while not ((folder / "fetched").exists() and (folder / "fetched").read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def test_fetches_and_the_others_read_what_it_has_fetched(self, tmp_path: Path, rank: Rank) -> None:
        assert [one.communicate(timeout=60)[0] for one in [rank("1"), rank("1"), rank("1")]] == ["cubes\n"] * 3
        assert (tmp_path / "fetched").read_text() == "x"

    @pytest.mark.parametrize("is_killed", [True, False])
    def test_that_fails_lets_the_next_one_fetch(self, is_killed: bool, tmp_path: Path, rank: Rank) -> None:
        first = rank(*(("600",) if is_killed else ("1", "fails")))
        self.wait_for_a_fetch(tmp_path)
        second = rank("0")
        if is_killed:
            first.kill()
        assert second.communicate(timeout=60)[0] == "cubes\n"
        assert (tmp_path / "fetched").read_text() == "xx"

    def test_that_hangs_is_not_waited_for_without_end(
        self, tmp_path: Path, rank: Rank, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rank("600")
        self.wait_for_a_fetch(tmp_path)
        monkeypatch.setattr(module, "WAIT_S", 0.3)
        cache, place = Cache(tmp_path, 10**9), ("s3://bucket/cubes.npy", "1")
        assert cache.get(*place, lambda path: path.write_bytes(b"mine") and None).read_bytes() == b"mine"
