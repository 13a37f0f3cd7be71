import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.zssmnet.interruption import Killed, MortalStorage
from tests.zssmnet.training.examples import (
    COUNTS,
    SIZE,
    StoppedError,
    bits,
    cubes_file,
    cubes_of,
    small_config,
    stop,
    stopping_at,
    write_cubes,
)
from zssmnet import load_pretrained
from zssmnet.config import CorruptionConfig, CubesConfig, MaskingConfig, NetworkConfig, PretrainConfig
from zssmnet.data.archive import CHANNELS
from zssmnet.errors import CheckpointError, CubesError, InputError, NonFiniteLossError
from zssmnet.preparation.cubes import CaseCubes, SubsetCubes
from zssmnet.preparation.prepare import prepared_keys
from zssmnet.registry.lineage import training_inputs
from zssmnet.registry.runs import identify, train_and_publish
from zssmnet.registry.versions import (
    MODEL,
    PretrainedModel,
    list_versions,
    roll_back,
    stable_model,
    version_key,
)
from zssmnet.storage import LocalStorage, records, sha256_of
from zssmnet.storage.process_id import this_process
from zssmnet.storage.records import Input, Output, publish_record, read_record, remove_record, with_version
from zssmnet.training.checkpoint import BEST, LAST
from zssmnet.training.dataset import open_training_data
from zssmnet.training.fit import fit

CONFIG = small_config(epochs=3, learning_rate=3.0, seed=1)
"""Best in epoch 2."""
OTHER = small_config(epochs=2, learning_rate=3.0, seed=2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with cubes and the weights of a finished run, for copying."""
    root = tmp_path_factory.mktemp("made")
    train_and_publish(write_cubes(root / "cubes"), LocalStorage(root / "weights"), CONFIG)
    return root


@pytest.fixture
def cubes(tmp_path: Path) -> LocalStorage:
    return write_cubes(tmp_path / "cubes")


@pytest.fixture
def weights(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "weights")


@pytest.fixture
def finished(made: Path, tmp_path: Path) -> LocalStorage:
    """The weights of a finished run on ``cubes``."""
    return LocalStorage(shutil.copytree(made / "weights", tmp_path / "weights"))


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The model that ``OTHER`` gives on the same cubes."""
    root = tmp_path_factory.mktemp("other")
    weights = LocalStorage(root / "weights")
    train_and_publish(write_cubes(root / "cubes"), weights, OTHER)
    return weights.read(MODEL)


def files(storage: LocalStorage) -> dict[str, int]:
    """When each file was written."""
    return {path.name: path.stat().st_mtime_ns for path in storage.folder.rglob("*") if path.is_file()}


def changed(**changes: Any) -> PretrainConfig:
    """``CONFIG`` with another network or corruption, or another value in the recipe."""
    parts = {name: changes.pop(name) for name in ("network", "corruption") if name in changes}
    return CONFIG.model_copy(update=parts | {"training": CONFIG.training.model_copy(update=changes)})


class TestPublication:
    def test_publishes_the_model_of_the_best_epoch(self, finished: LocalStorage, cubes: LocalStorage) -> None:
        record = read_record(finished, MODEL, PretrainedModel)
        assert record.best_epoch == 2
        training, validation = open_training_data(cubes, 2)
        best = {}
        fit(
            training,
            validation,
            CONFIG,
            finished.child("elsewhere"),
            on_epoch=lambda state: best.update({state.progress.epoch: bits(state.model.state_dict())}),
        )
        content = torch.load(finished.local(MODEL), weights_only=True)
        assert list(content) == ["epoch", "state_dict", "optimizer_state_dict"]
        assert content["epoch"] == 2
        assert bits(content["state_dict"]) == best[2] != best[3]

    def test_the_next_step_takes_it(self, finished: LocalStorage) -> None:
        loaded = load_pretrained(finished.local(MODEL), num_classes=2).state_dict()
        published = torch.load(finished.local(MODEL), weights_only=True)["state_dict"]
        same = {name for name in loaded if torch.equal(loaded[name], published[name])}
        assert same == {name for name in published if not name.startswith("outputs.")}

    def test_the_record_tells_what_went_in_and_came_out(self, finished: LocalStorage, cubes: LocalStorage) -> None:
        record = read_record(finished, MODEL, PretrainedModel)
        assert [one.name for one in record.inputs] == [f"bat_12_s_16x16x4_{subset}.npy" for subset in range(6)]
        assert [one.sha256 for one in record.inputs] == [sha256_of(cubes.local(one.name)) for one in record.inputs]
        (output,) = record.outputs
        assert output == Output(key=MODEL, size=finished.stat(MODEL).size, sha256=sha256_of(finished.local(MODEL)))
        assert record.parameters == CONFIG
        assert record.run_id == identify(record.inputs, CONFIG)
        assert [result.epoch for result in record.history] == [1, 2, 3]
        assert record.best_validation_loss == min(result.validation_loss for result in record.history)
        assert record.versions["torch"] == torch.__version__
        assert list(record.versions) == ["python", "torch", "zssmnet", "numpy", "SimpleITK"]
        assert record.versions["numpy"] == np.__version__
        assert record.device == "cpu"
        best = record.history[1]
        assert list(record.metrics.items()) == [
            ("validation_loss", best.validation_loss),
            ("training_loss", best.train_loss),
            ("explained_variance", best.explained),
            *((f"explained_variance_{name}", best.explained_by_channel[i]) for i, name in enumerate(CHANNELS)),
            *zip(("spread_T2W", "spread_ADC", "spread_DWI"), best.spread, strict=True),
        ]

    def test_nothing_else_is_left(self, finished: LocalStorage) -> None:
        record = read_record(finished, MODEL, PretrainedModel)
        keys = {entry.key for entry in finished.list() if "/tensorboard/" not in entry.key}
        run = f"training/{record.run_id}"
        published = {MODEL, f"records/{MODEL}.json"}
        version = {f"versions/{record.run_id}/{key}" for key in published}
        assert keys == published | version | {f"{run}/{BEST}", f"{run}/{LAST}"}
        assert not list(finished.folder.rglob(".partial"))

    def test_cubes_of_the_published_program(
        self, tmp_path: Path, finished: LocalStorage, weights: LocalStorage
    ) -> None:
        """They are float64, without records; cubes in float32 with the same values give the same weights."""
        published, _ = train_and_publish(
            _rounded(tmp_path / "float64", "float64"), weights.child("a"), changed(epochs=1)
        )
        ours, _ = train_and_publish(_rounded(tmp_path / "float32", "float32"), weights.child("b"), changed(epochs=1))
        assert published.history == ours.history
        assert published.outputs == ours.outputs


def _rounded(folder: Path, dtype: str) -> LocalStorage:
    """Cubes whose values float32 can hold."""
    cubes = write_cubes(folder)
    for subset in range(6):
        np.save(cubes_file(folder, subset), np.load(cubes_file(folder, subset)).astype(dtype))
    return cubes


class TestDoneAlready:
    @pytest.mark.parametrize(
        "config",
        [CONFIG, changed(epochs=2), changed(device="auto"), changed(patience=50), changed(epochs=99, patience=1)],
        ids=["same", "fewer epochs", "another device", "more patience", "less patience"],
    )
    def test_nothing_is_done(self, config: PretrainConfig, finished: LocalStorage, cubes: LocalStorage) -> None:
        before = files(finished)
        record, is_new = train_and_publish(cubes, finished, config, stop, stop)
        assert not is_new
        assert record == read_record(finished, MODEL, PretrainedModel)
        assert files(finished) == before

    def test_cubes_are_not_read_again(
        self, finished: LocalStorage, made: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cubes = LocalStorage(made / "cubes")
        train_and_publish(cubes, finished, CONFIG, stop, stop)  # hashes the model, which is a copy
        monkeypatch.setattr(records, "sha256_of", stop)
        assert train_and_publish(cubes, finished, CONFIG)[1] is False

    def test_cubes_written_anew_with_the_same_content_are_the_same(
        self, finished: LocalStorage, cubes: LocalStorage
    ) -> None:
        for path in cubes.folder.iterdir():
            path.write_bytes(path.read_bytes())
        assert train_and_publish(cubes, finished, CONFIG, stop, stop)[1] is False

    @pytest.mark.parametrize("lost", [MODEL, f"records/{MODEL}.json"])
    def test_what_was_lost_is_published_again_without_training(
        self, lost: str, finished: LocalStorage, cubes: LocalStorage
    ) -> None:
        before = finished.read(lost)
        finished.remove(lost)
        _, is_new = train_and_publish(cubes, finished, CONFIG, stop, stop)
        assert is_new
        assert finished.read(lost) == before or lost != MODEL
        assert train_and_publish(cubes, finished, CONFIG, stop, stop)[1] is False

    def test_a_record_of_cubes_saves_reading_them(
        self, cubes: LocalStorage, finished: LocalStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for subset, cubes_there in enumerate(COUNTS):
            _record_cubes(cubes, subset, cubes_there)
        remove_record(finished, MODEL)  # it knows the cubes as well

        def sha256_of_no_cubes(path: Path) -> str:
            return stop() if path.is_relative_to(cubes.folder) else sha256_of(path)

        monkeypatch.setattr(records, "sha256_of", sha256_of_no_cubes)
        assert train_and_publish(cubes, finished, CONFIG, stop, stop)[0].history


def _record_cubes(cubes: LocalStorage, subset: int, count: int) -> None:
    path = cubes_file(cubes.folder, subset)
    output = with_version(cubes, Output(key=path.name, size=path.stat().st_size, sha256=sha256_of(path)))
    parameters = CubesConfig(size=SIZE, cubes_per_case=12)
    record = SubsetCubes(method=1, inputs=(), outputs=(output,), subset=subset, parameters=parameters, cases=())
    publish_record(cubes, path.name, record)


class TestSides:
    """A case is either trained on or validated with."""

    def record(self, cubes: LocalStorage, subset: int, case_id: str, sha256: str) -> None:
        _record_cubes(cubes, subset, COUNTS[subset])
        name = cubes_file(cubes.folder, subset).name
        inputs = tuple(
            Input(name=key, size=1, version="", sha256=f"{sha256} {number}")
            for number, key in enumerate(prepared_keys(case_id, subset))
        )
        known = read_record(cubes, name, SubsetCubes)
        publish_record(cubes, name, known.model_copy(update={"inputs": inputs, "cases": (CaseCubes(case_id, ()),)}))

    def test_a_case_on_both_is_refused(self, cubes: LocalStorage, weights: LocalStorage) -> None:
        self.record(cubes, 1, "10001_1000001", "a")
        self.record(cubes, 5, "10001_1000001", "b")
        with pytest.raises(CubesError) as caught:
            train_and_publish(cubes, weights, CONFIG)
        assert str(caught.value) == (
            f"{cubes.uri}: 1 cases are both trained on and validated with: 10001_1000001; "
            "generate the cubes of all six subsets anew"
        )
        assert not weights.folder.exists()

    @pytest.mark.parametrize(("sha256", "warnings"), [("a", 1), ("b", 0)])
    def test_the_same_images_under_another_name_are_reported(
        self, sha256: str, warnings: int, cubes: LocalStorage, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.record(cubes, 1, "10001_1000001", "a")
        self.record(cubes, 5, "10002_1000002", sha256)
        assert len(training_inputs(cubes).data) == 2
        reported = [record.message for record in caplog.records if record.levelname == "WARNING"]
        assert len(reported) == warnings
        assert all("(10002_1000002 is 10001_1000001): the validation loss is too good" in line for line in reported)


def test_the_record_has_the_spacing_of_the_cubes(cubes: LocalStorage, weights: LocalStorage) -> None:
    assert train_and_publish(cubes, weights, CONFIG)[0].spacing_mm is None
    _record_cubes(cubes, 3, COUNTS[3])
    name = cubes_file(cubes.folder, 3).name
    known = read_record(cubes, name, SubsetCubes)
    publish_record(cubes, name, known.model_copy(update={"spacing_mm": (1.0, 1.0, 3.0)}))
    _record_cubes(cubes, 4, COUNTS[4])
    assert training_inputs(cubes).spacing_mm == (1.0, 1.0, 3.0)


class TestRunId:
    INPUTS = tuple(Input(name=f"{i}.npy", size=1, version="", sha256=f"{i:064x}") for i in range(6))

    def test_what_decides_the_weights_decides_it(self) -> None:
        variants = [
            CONFIG,
            changed(seed=0),
            changed(validation_seed=1),
            changed(batch_size=3),
            changed(learning_rate=1.0),
            changed(momentum=0.5),
            changed(halve_every=3),
            changed(schedule="cosine"),
            changed(schedule="cosine", epochs=500),
            changed(network=NetworkConfig(channels=(2, 2, 2, 2, 3))),
            changed(network=NetworkConfig(channels=(2, 2, 2, 2, 2), merge="sum")),
            changed(corruption=CONFIG.corruption.model_copy(update={"recipe": "per-channel"})),
            changed(corruption=CorruptionConfig()),
            changed(corruption=CorruptionConfig(recipe="masked")),
            changed(corruption=CorruptionConfig(recipe="masked", masking=MaskingConfig(ratio=0.5))),
        ]
        ids = [identify(self.INPUTS, config) for config in variants]
        ids.append(identify(self.INPUTS[::-1], CONFIG))
        assert len(set(ids)) == len(variants) + 1
        assert all(len(one) == 12 and int(one, 16) >= 0 for one in ids)

    @pytest.mark.parametrize("change", [{"epochs": 500}, {"patience": 3}, {"device": "cuda"}])
    def test_when_and_where_training_ends_do_not(self, change: dict[str, Any]) -> None:
        assert identify(self.INPUTS, changed(**change)) == identify(self.INPUTS, CONFIG)

    def test_it_is_what_it_always_was(self) -> None:
        """Else runs of earlier versions of this program would not be continued."""
        assert identify(self.INPUTS, CONFIG) == "09c96c6bb1b7"

    def test_names_and_times_of_the_cubes_do_not(self) -> None:
        moved = tuple(one.model_copy(update={"name": "x", "version": "9"}) for one in self.INPUTS)
        assert identify(moved, CONFIG) == identify(self.INPUTS, CONFIG)


class TestAnotherRun:
    def test_of_another_seed_is_published_and_the_first_is_not_forgotten(
        self, cubes: LocalStorage, finished: LocalStorage, other_model: bytes
    ) -> None:
        first, first_model = read_record(finished, MODEL, PretrainedModel), finished.read(MODEL)
        second, is_new = train_and_publish(cubes, finished, OTHER)
        assert is_new
        assert second.run_id != first.run_id
        assert finished.read(MODEL) == other_model != first_model
        again, is_new = train_and_publish(cubes, finished, CONFIG, stop, stop)
        assert is_new
        assert again.run_id == first.run_id
        assert finished.read(MODEL) == first_model

    def test_on_other_cubes(self, cubes: LocalStorage, finished: LocalStorage) -> None:
        first, first_model = read_record(finished, MODEL, PretrainedModel), finished.read(MODEL)
        np.save(cubes_file(cubes.folder, 3), cubes_of(COUNTS[3], seed=77))
        second, is_new = train_and_publish(cubes, finished, changed(epochs=1))
        assert is_new
        assert second.run_id != first.run_id
        assert finished.read(MODEL) != first_model

    def test_the_old_model_stays_whole_until_the_new_run_ends(
        self, cubes: LocalStorage, finished: LocalStorage, other_model: bytes
    ) -> None:
        stable_model(finished)  # hashes the model, which is a copy, and notes its version
        old = {key: finished.read(key) for key in (MODEL, f"records/{MODEL}.json")}
        seen = []

        def watch(state: Any) -> None:
            seen.append({key: finished.read(key) for key in old})
            stopping_at(2)(state)

        with pytest.raises(StoppedError):
            train_and_publish(cubes, finished, OTHER, watch)
        assert seen == [old, old]
        assert {key: finished.read(key) for key in old} == old
        train_and_publish(cubes, finished, OTHER)
        assert finished.read(MODEL) == other_model

    def test_killed_at_any_change_of_publication(
        self, cubes: LocalStorage, finished: LocalStorage, other_model: bytes
    ) -> None:
        """The other model is trained already; whichever is asked for in the end is published with its record."""
        first = read_record(finished, MODEL, PretrainedModel)
        second, _ = train_and_publish(cubes, finished, OTHER)
        roll_back(finished, first.run_id)
        finished.child(f"versions/{second.run_id}").remove(f"records/{MODEL}.json")  # so that it is published anew
        before = shutil.copytree(finished.folder, finished.folder.with_name("before"))
        for changes in count():
            shutil.rmtree(finished.folder)
            shutil.copytree(before, finished.folder)
            try:
                train_and_publish(cubes, MortalStorage(finished.folder, changes), OTHER, stop, stop)
            except Killed:
                assert stable_model(finished).run_id in (first.run_id, second.run_id)
                assert train_and_publish(cubes, finished, OTHER, stop, stop)[1]
                assert finished.read(MODEL) == other_model
                assert read_record(finished, MODEL, PretrainedModel).run_id == second.run_id
            else:
                break
        assert changes >= 6  # the version and the stable model: what is to come, the model, the record

    def test_a_rollback_that_the_same_training_undoes_is_said(
        self, cubes: LocalStorage, finished: LocalStorage, caplog: pytest.LogCaptureFixture
    ) -> None:
        first, (second, _) = stable_model(finished), train_and_publish(cubes, finished, OTHER)
        roll_back(finished, first.run_id)
        assert train_and_publish(cubes, finished, OTHER) == (second, True)
        assert (
            f"{second.run_id}, of these cubes and settings, is the stable model now, not {first.run_id}" in caplog.text
        )

    def test_what_it_replaces_is_kept(self, cubes: LocalStorage, finished: LocalStorage, other_model: bytes) -> None:
        first, first_model = read_record(finished, MODEL, PretrainedModel), finished.read(MODEL)
        second, _ = train_and_publish(cubes, finished, OTHER)
        assert list_versions(finished) == [first, second]
        assert (second.number, second.replaces) == (2, first.run_id)
        assert finished.read(version_key(first.run_id)) == first_model
        assert finished.read(version_key(second.run_id)) == other_model


class TestContinuing:
    def test_more_epochs_go_on_from_the_last_checkpoint(self, cubes: LocalStorage, finished: LocalStorage) -> None:
        first = read_record(finished, MODEL, PretrainedModel)
        epochs = []
        longer, is_new = train_and_publish(
            cubes, finished, changed(epochs=5), lambda state: epochs.append(state.progress.epoch)
        )
        assert is_new
        assert epochs == [4, 5]
        assert longer.run_id == first.run_id
        assert longer.history[:3] == first.history

    def test_more_patience_goes_on_too(self, cubes: LocalStorage, weights: LocalStorage) -> None:
        stopped, _ = train_and_publish(cubes, weights, changed(epochs=4, patience=1))
        assert len(stopped.history) == 3
        longer, is_new = train_and_publish(cubes, weights, changed(epochs=4, patience=2))
        assert is_new
        assert longer.history[:3] == stopped.history
        assert len(longer.history) == 4

    @pytest.mark.parametrize("stopped", [2, *(pytest.param(stopped, marks=pytest.mark.long) for stopped in (1, 3))])
    def test_an_interrupted_run_publishes_what_an_uninterrupted_one_does(
        self, stopped: int, cubes: LocalStorage, weights: LocalStorage, made: Path
    ) -> None:
        with pytest.raises(StoppedError):
            train_and_publish(cubes, weights, CONFIG, stopping_at(stopped))
        assert weights.stat(MODEL) is None
        record, is_new = train_and_publish(cubes, weights, CONFIG)
        assert is_new
        assert weights.read(MODEL) == (made / "weights" / MODEL).read_bytes()
        assert record.history == read_record(LocalStorage(made / "weights"), MODEL, PretrainedModel).history

    def test_it_is_named_where_other_settings_do_not_continue_it(
        self, cubes: LocalStorage, weights: LocalStorage, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        for seed, stopped in ((0, 2), (0, 2), (1, 1)):
            assert "a new training" not in caplog.text
            with pytest.raises(StoppedError):
                train_and_publish(cubes, weights, changed(seed=seed), stopping_at(stopped))
        (unfinished,) = (path.parent.name for path in weights.folder.glob(f"training/*/{LAST}"))
        assert f"a new training: {unfinished}, not finished, had other cubes or settings" in caplog.messages

    def test_what_a_killed_run_left_half_written_is_swept(self, cubes: LocalStorage, finished: LocalStorage) -> None:
        record = read_record(finished, MODEL, PretrainedModel)
        nobody = replace(this_process(), process=999_999_999)
        left = finished.folder / "training" / record.run_id / ".partial" / f"{nobody}-0"
        left.mkdir(parents=True)
        left.joinpath(LAST).write_bytes(b"half")
        train_and_publish(cubes, finished, changed(epochs=4))
        assert not list(finished.folder.rglob(".partial"))


def nothing_published(weights: LocalStorage) -> bool:
    return weights.stat(MODEL) is None and weights.stat(f"records/{MODEL}.json") is None


class TestErrors:
    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda path: path.write_bytes(path.read_bytes()[:5000]), "not a readable checkpoint; remove it to start"),
            (
                lambda path: torch.save({"state_dict": {}}, path),
                "does not fit: Error(s) in loading state_dict for MNet",
            ),
        ],
        ids=["damaged", "of another shape"],
    )
    def test_a_last_checkpoint_that_cannot_be_used(
        self, spoil: Callable[[Path], object], message: str, cubes: LocalStorage, finished: LocalStorage
    ) -> None:
        published = finished.read(MODEL)
        (last,) = finished.folder.glob(f"training/*/{LAST}")
        spoil(last)
        with pytest.raises(CheckpointError) as caught:
            train_and_publish(cubes, finished, changed(epochs=4))
        assert str(caught.value).startswith(f"{last}: {message}")
        assert "\n" not in str(caught.value)
        assert finished.read(MODEL) == published
        last.unlink()  # as the message says
        assert len(train_and_publish(cubes, finished, changed(epochs=4))[0].history) == 4

    def test_cubes_that_cannot_be_used(self, cubes: LocalStorage, weights: LocalStorage) -> None:
        with pytest.raises(CubesError, match="5 training cubes do not fill one batch of 24"):
            train_and_publish(cubes, weights, small_config(batch_size=24))
        cubes_file(cubes.folder, 5).unlink()
        with pytest.raises(CubesError, match=r"bat_12_s_16x16x4_5\.npy is missing"):
            train_and_publish(cubes, weights, CONFIG)
        assert not weights.folder.exists()

    def test_a_cube_with_nan(self, cubes: LocalStorage, weights: LocalStorage) -> None:
        array = np.load(cubes_file(cubes.folder, 0))
        array[:, 2, 1, 1, 1] = np.nan
        np.save(cubes_file(cubes.folder, 0), array)
        with pytest.raises(NonFiniteLossError, match=r"^the loss is nan after step 2 of 2: training stops, .*$"):
            train_and_publish(cubes, weights, CONFIG)
        assert nothing_published(weights)

    def test_a_huge_learning_rate(self, cubes: LocalStorage, finished: LocalStorage) -> None:
        published = finished.read(MODEL)
        with pytest.raises(NonFiniteLossError, match="try a smaller learning rate"):
            train_and_publish(cubes, finished, changed(learning_rate=1e30))
        assert finished.read(MODEL) == published

    def test_no_gpu_where_one_is_asked_for(
        self, cubes: LocalStorage, weights: LocalStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(InputError, match="no CUDA device can be used here"):
            train_and_publish(cubes, weights, changed(device="cuda"))
        assert nothing_published(weights)
