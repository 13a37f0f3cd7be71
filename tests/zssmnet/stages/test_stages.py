"""The stages as a notebook calls them: addresses of every kind, errors before any file, one result for all runners."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import zssmnet
from tests.phantoms import small_archive
from tests.reliability.killing import digests
from tests.zssmnet.examinations import Archive
from tests.zssmnet.training.examples import small_config, write_cubes
from zssmnet import CubesConfig
from zssmnet.config import ProbeConfig, ZonesConfig
from zssmnet.errors import InputError, LockedError, ZssmnetError
from zssmnet.runner import PlainRunner, Progress
from zssmnet.stages.pipeline import PipelineSummary
from zssmnet.stages.probe import probe_weights
from zssmnet.stages.train_zones import train_zones
from zssmnet.storage import LocalStorage
from zssmnet.storage.lock import locked

CUBES = CubesConfig(cubes_per_case=2, size=(16, 16, 4))
NAMED, UNNAMED = ["10001_1000001", "10002_1000002"], "10003_1000003"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder and the home: empty ones."""
    (tmp_path / "here").mkdir()
    (tmp_path / "home").mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "here"


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """Three tiny cases in the home."""
    archive = Archive(tmp_path / "home" / "archive")
    for number, case_id in enumerate([*NAMED, UNNAMED]):
        archive.add(case_id, seed=number)
    return archive


@pytest.mark.parametrize(
    ("stage", "arguments", "said"),
    [
        ("prepare_archive", ("nowhere", "nowhere", "data"), "nowhere: no such folder"),
        ("generate_cubes", ("nowhere", "cubes"), "nowhere: no prepared case in the folders subset0 to subset5"),
        ("pretrain", ("nowhere", "weights"), "nowhere"),
        ("run_pipeline", ("nowhere", "nowhere", "root"), "nowhere: no such folder"),
        ("retrain", ("nowhere", "nowhere", "root"), "nowhere: no such folder"),
    ],
)
def test_what_is_not_there_is_an_error_and_nothing_is_written(
    stage: str, arguments: tuple[str, ...], said: str, here: Path
) -> None:
    with pytest.raises(ZssmnetError, match=said):
        getattr(zssmnet, stage)(*arguments)
    assert list(here.rglob("*")) == []


def test_a_gpu_that_is_not_there_is_known_before_any_case_is_read(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="no CUDA device can be used here"):
        train_zones("nowhere", "nowhere", here, config=ZonesConfig(device="cuda"))
    with pytest.raises(InputError, match="no CUDA device can be used here"):
        probe_weights("nowhere", "nowhere", ["none"], here, config=ProbeConfig(task="zones", device="cuda"))


@pytest.mark.parametrize("subsets", [[7], [-1, 2], [6], [], 5, [[1]]])
def test_there_are_six_subsets(subsets: Any, here: Path) -> None:
    with pytest.raises(InputError, match=r"^subsets = .*: name one or more of the subsets 0 to 5$"):
        zssmnet.generate_cubes("nowhere", "cubes", subsets=subsets)
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"split_mode": "reference"}, "needs a splits.json"),
        ({"splits_path": "splits.json", "split_mode": "stable"}, "the stable split takes no splits.json"),
        ({"patient_pattern": "(?P<patient>x)"}, "finds a patient in none of 3 case ids"),
        ({"patient_pattern": None}, "None is no regular expression"),
        ({"splits_path": "no.json"}, "no.json"),
        ({"splits_path": ""}, "an empty address"),
        ({"split_mode": "hash"}, "split_mode = 'hash': choose one of reference, stable"),
        ({"archive_format": "nifti"}, "archive_format = 'nifti': choose one of nnunet, picai, bids"),
        ({"config": {"margin_mm": 3}}, "give a PreparationConfig, not a dict"),
    ],
)
def test_settings_that_cannot_be_are_an_error_of_ours(
    settings: dict[str, Any], said: str, archive: Archive, here: Path
) -> None:
    with pytest.raises(ZssmnetError, match=said):
        zssmnet.prepare_archive("~/archive/images", "~/archive/masks", "data", **settings)
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("stage", "settings", "said"),
    [
        ("run_pipeline", {"cubes": zssmnet.PretrainConfig()}, "give a CubesConfig, not a PretrainConfig"),
        ("run_pipeline", {"pretraining": {"epochs": 3}}, "give a PretrainConfig, not a dict"),
        ("retrain", {"cubes": zssmnet.PretrainConfig()}, "give a CubesConfig, not a PretrainConfig"),
        ("retrain", {"pretraining": 3}, "give a PretrainConfig, not a int"),
        ("retrain", {"min_new_cases": 0}, "min_new_cases = 0"),
        ("pretrain", {"margin_percent": -1}, "margin_percent = -1"),
        ("train_zones", {"weights": ""}, "an empty address"),
    ],
)
def test_settings_of_a_later_stage_are_refused_before_any_work(
    stage: str, settings: dict[str, Any], said: str, archive: Archive, here: Path
) -> None:
    addresses = ("~/archive/images", "~/archive/masks", "root")[-2 if stage == "pretrain" else 0 :]
    with pytest.raises(InputError, match=said):
        getattr(zssmnet, stage)(*addresses, **settings)
    assert list(here.iterdir()) == []


def test_cases_that_the_splits_do_not_name_are_logged(
    archive: Archive, here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folds = [{"train": [], "val": [case_id]} for case_id in [*NAMED, "9_9", "8_8", "7_7"]]
    Path("splits.json").write_text(json.dumps(folds))
    with caplog.at_level(logging.WARNING, "zssmnet"):
        done = zssmnet.prepare_archive(
            "~/archive/images", Path("~/archive/masks"), Path("data"), splits_path=Path("splits.json")
        )
    assert done.prepared == 2
    assert f"1 cases are not in splits.json and are left out: {UNNAMED}" in caplog.text
    assert "3 cases of splits.json cannot be found: 7_7, 8_8, 9_9" in caplog.text
    assert not [file for file in here.rglob("*") if UNNAMED in file.name]


class NoPath:
    """An address that is neither a text nor a `Path`."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __fspath__(self) -> str:
        return self._path

    def __str__(self) -> str:
        return self._path


def test_the_home_and_every_kind_of_path_are_taken_by_every_stage(archive: Archive, here: Path) -> None:
    prepared = zssmnet.prepare_archive("~/archive/images", NoPath("~/archive/masks"), "~/root/data")
    assert prepared.data_path == str(Path("~/root/data").expanduser())
    assert prepared.prepared == 3
    assert zssmnet.generate_cubes(NoPath("~/root/data"), Path("~/root/cubes"), CUBES).cubes == 6
    write_cubes(Path("~/other").expanduser())
    trained = zssmnet.pretrain("~/other", NoPath("~/root/weights"), small_config(epochs=1))
    assert Path(trained.model).is_file()
    assert zssmnet.load_pretrained("~/root/weights/ssl_mnet_zonal.model", num_classes=2)
    files = [archive.image_path(channel, NAMED[0]) for channel in range(3)]
    images = ["~/" + os.path.relpath(file, Path.home()) for file in files]
    volumes = zssmnet.prepare_case(images, f"~/archive/masks/{NAMED[0]}.nii.gz")
    assert len(volumes.images) == 3
    assert list(here.iterdir()) == []


def test_a_folder_that_another_run_has_locked_is_named(archive: Archive, here: Path) -> None:
    code = (
        "import sys; from zssmnet.storage import LocalStorage; from zssmnet.storage.lock import locked\n"
        "with locked(LocalStorage('data')): print('locked', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdin and other.stdout
    assert other.stdout.readline() == b"locked\n"
    try:
        with pytest.raises(LockedError, match="data"):
            zssmnet.prepare_archive("~/archive/images", "~/archive/masks", "data")
    finally:
        other.communicate()
    with locked(LocalStorage(here / "data")):  # this process may go on where it has the lock itself
        assert zssmnet.prepare_archive("~/archive/images", "~/archive/masks", "data").prepared == 3


class Steps(Progress):
    """Steps of each stage, and the titles of the page."""

    def __init__(self) -> None:
        self.begun: dict[str, int] = {}
        self.done: dict[str, int] = {}
        self.shown: dict[str, str] = {}

    def begin(self, stage: str, total: int, unit: str, may_end_early: bool = False) -> None:
        self.begun[stage] = total

    def advance(self, stage: str, steps: int = 1, earlier: bool = False) -> None:
        self.done[stage] = self.done.get(stage, 0) + steps

    def show(self, section: str, draw: Any) -> None:
        self.shown[section] = draw()


def pipeline(archive: tuple[Path, Path], root: Path, runner: PlainRunner | None) -> PipelineSummary:
    config = small_config(epochs=1)
    return zssmnet.run_pipeline(*archive, root, cubes=CUBES, pretraining=config, runner=runner)


def test_every_runner_gives_the_same_files_and_all_progress(tmp_path: Path) -> None:
    archive = small_archive(tmp_path / "archive")
    steps = Steps()
    done = [
        pipeline(archive, tmp_path / name / "root", runner)
        for name, runner in (("default", None), ("one", PlainRunner(steps, workers=1)))
    ]
    first, other = (digests(one.root) for one in done)
    assert other == first
    assert steps.begun == steps.done == {"prepare": 6, "page": 6, "cubes": 6, "pretrain": 1}
    assert set(steps.shown) == {"Cases", "Cubes", "Model"}
    again = Steps()
    assert not pipeline(archive, Path(done[0].root), PlainRunner(again)).training.is_new
    assert again.begun == again.done == steps.done
