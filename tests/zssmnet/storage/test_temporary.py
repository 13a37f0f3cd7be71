"""Temporary folders: of processes that were killed, nothing stays."""

import subprocess
import sys
from pathlib import Path

import pytest

from zssmnet.storage.cache import Cache
from zssmnet.storage.process_id import this_process
from zssmnet.storage.temporary import _sweep, temporary_folder

KILLED = """
import os, signal, sys
from pathlib import Path
from zssmnet.storage.cache import Cache
from zssmnet.storage.temporary import temporary_folder
with Cache(Path(sys.argv[1]), 1000).workplace() as half, temporary_folder() as folder:
    (half / "half").write_text("half")
    (folder / "file").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    _sweep.cache_clear()
    return tmp_path


def test_a_folder_goes_with_its_use(place: Path) -> None:
    with temporary_folder() as folder:
        (folder / "file").write_text("x")
        assert folder.parent == place
        with temporary_folder() as other:
            assert other != folder
    assert not [*place.iterdir()]


def test_what_killed_processes_left_goes_and_all_else_stays(place: Path) -> None:
    cache = Cache(place / "cache", 1000)
    for _ in range(2):
        subprocess.run([sys.executable, "-c", KILLED, str(cache.folder)], env={"TMPDIR": str(place)}, check=False)
    others = [place / "zssmnet-notes", place / f"zssmnet-elsewhere-{'0' * 8}-1-{'0' * 8}-abc"]
    for folder in others:
        folder.mkdir()
    assert len([*place.glob("zssmnet-*")]) == 3
    with temporary_folder() as ours:
        assert {*place.glob("zssmnet-*")} == {ours, *others}

    with cache.workplace() as at_work:
        assert len([*(cache.folder / "partial").iterdir()]) == 3
        cache.sweep()
        assert [*(cache.folder / "partial").iterdir()] == [at_work]
        assert at_work.name.startswith(str(this_process()))
    assert not at_work.exists()
