"""The cache of several processes: each removes copies that others are looking at."""

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
