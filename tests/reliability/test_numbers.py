"""Numbers that can be trusted: what is wrong with a training is said, and what is wrong with its files is found."""

import logging
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.phantoms import small_archive
from tests.reliability.ledger import Ledger
from tests.zssmnet.training.examples import (
    StoppedError,
    cubes_file,
    cubes_of,
    saturate,
    small_config,
    stopping_at,
    write_cubes,
)
from zssmnet.config import CubesConfig, PreparationConfig, PretrainConfig
from zssmnet.data.archive import take_inventory
from zssmnet.data.splits import SUBSETS, choose_subsets
from zssmnet.errors import CheckpointError, CollapsedError, CubesError, NonFiniteLossError, ZssmnetError
from zssmnet.preparation.cubes import cubes_key, cut_subset, prepared_cases
from zssmnet.preparation.prepare import publish_prepared, remove_prepared
from zssmnet.registry.runs import train_and_publish
from zssmnet.registry.versions import MODEL, list_versions
from zssmnet.storage import LocalStorage, Storage, open_storage
from zssmnet.storage.layout import Layout
from zssmnet.storage.records import record_key, record_names
from zssmnet.storage.verification import verify_root
from zssmnet.training.checkpoint import BEST, LAST

CONFIG = small_config(epochs=3, learning_rate=3.0, seed=1)
"""Best in epoch 2."""
CUBES = CubesConfig(size=(16, 16, 4), cubes_per_case=1)


@pytest.fixture
def cubes(tmp_path: Path) -> LocalStorage:
    return write_cubes(tmp_path / "cubes")


@pytest.fixture
def weights(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "weights")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small are slower on several threads, by far so on busy cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def ends_in(
    error: type[ZssmnetError], cubes: LocalStorage, weights: LocalStorage, config: PretrainConfig, **more: Any
) -> str:
    """The one line with which training ends; nothing is published."""
    with pytest.raises(error) as caught:
        train_and_publish(cubes, weights, config, **more)
    assert str(caught.value).isprintable()
    assert weights.stat(MODEL) is None
    assert list_versions(weights) == []
    return str(caught.value)


def spoil(cubes: LocalStorage, subset: int, value: float) -> None:
    """One voxel of T2W in each cube of a subset."""
    array = np.load(cubes_file(cubes.folder, subset))
    array[:, 0, 3, 3, 3] = value
    np.save(cubes_file(cubes.folder, subset), array)


def flip_a_bit(path: Path, place: float) -> None:
    """In the largest tensor of a checkpoint."""
    data = bytearray(path.read_bytes())
    tensors = torch.load(path, weights_only=True)["state_dict"].values()
    tensor = max(tensors, key=torch.Tensor.numel).numpy().tobytes()
    data[data.index(tensor) + int(place * len(tensor))] ^= 0x20
    path.write_bytes(data)


class TestTraining:
    @pytest.mark.parametrize(
        ("value", "subset", "where"), [(math.nan, 0, "after step 2 of 2"), (math.inf, 5, "in validation")]
    )
    def test_cubes_that_are_not_finite(
        self, value: float, subset: int, where: str, cubes: LocalStorage, weights: LocalStorage, ledger: Ledger
    ) -> None:
        with ledger.tried("training", "loss not finite"):
            spoil(cubes, subset, value)
            message = ends_in(NonFiniteLossError, cubes, weights, CONFIG)
            assert where in message
            assert "(epoch 1; there is no checkpoint yet); " in message
            assert f"{cubes_file(cubes.folder, subset)}: cube 0 has 1 values" in message

    def test_a_learning_rate_far_too_large(self, cubes: LocalStorage, weights: LocalStorage, ledger: Ledger) -> None:
        with ledger.tried("training", "loss not finite"):
            assert "smaller learning rate" in ends_in(
                NonFiniteLossError, cubes, weights, small_config(learning_rate=1e30)
            )

    def test_a_network_that_answers_a_constant(
        self, cubes: LocalStorage, weights: LocalStorage, ledger: Ledger
    ) -> None:
        """It ends training in its epoch."""
        with pytest.raises(StoppedError):
            train_and_publish(cubes, weights, CONFIG, stopping_at(2))
        (last,) = weights.folder.glob(f"training/*/{LAST}")
        content = torch.load(last, weights_only=True)
        saturate(content["state_dict"])
        content["optimizer_state_dict"]["state"] = {}
        content["history"][0]["validation_loss"] = content["best_loss"] = 0.0
        torch.save(content, last)
        with ledger.tried("training", "output collapsed"):
            message = ends_in(CollapsedError, cubes, weights, CONFIG)
            assert message.startswith("the network restores a constant for T2W, ADC, DWI, and epoch 2 changed nothing")

    def test_a_learning_rate_too_small_to_change_a_weight(
        self, cubes: LocalStorage, weights: LocalStorage, ledger: Ledger, caplog: pytest.LogCaptureFixture
    ) -> None:
        with ledger.tried("training", "validation cannot improve"), caplog.at_level(logging.WARNING):
            train_and_publish(cubes, weights, small_config(learning_rate=1e-30))
            (warning,) = caplog.messages
            assert warning.startswith("epoch 2: the validation loss is that of the epoch before to the last digit")

    def test_constant_cubes(self, cubes: LocalStorage, weights: LocalStorage, ledger: Ledger) -> None:
        with ledger.tried("training", "validation cannot improve"):
            np.save(cubes_file(cubes.folder, 5), np.full_like(cubes_of(3), 0.5))
            assert "all validation cubes are constant" in ends_in(CubesError, cubes, weights, CONFIG)
            assert not weights.folder.exists()

    def test_the_best_model_damaged_before_it_is_published(
        self, cubes: LocalStorage, weights: LocalStorage, ledger: Ledger
    ) -> None:
        def damage(state: Any) -> None:
            if state.progress.epoch == 3:
                (best,) = weights.folder.glob(f"training/*/{BEST}")
                flip_a_bit(best, 0.5)

        with ledger.tried("training", "weights damaged on disk"):
            message = ends_in(CheckpointError, cubes, weights, CONFIG, on_epoch=damage)
            assert message.endswith(f"{BEST}: not a readable checkpoint; remove it to start anew")

    def test_the_last_checkpoint_damaged(
        self, cubes: LocalStorage, weights: LocalStorage, ledger: Ledger, long: bool
    ) -> None:
        with pytest.raises(StoppedError):
            train_and_publish(cubes, weights, CONFIG, stopping_at(2))
        (last,) = weights.folder.glob(f"training/*/{LAST}")
        whole = last.read_bytes()
        for place in np.linspace(0, 0.99, 100 if long else 5):
            with ledger.tried("training", "weights damaged on disk"):
                last.write_bytes(whole)
                flip_a_bit(last, place)
                assert str(last) in ends_in(CheckpointError, cubes, weights, CONFIG)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working root with all stages, of six cases; for copying."""
    root = tmp_path_factory.mktemp("made")
    images, masks = (LocalStorage(folder) for folder in small_archive(root / "archive"))
    data, cubes, weights, _ = stages(str(root))
    cases = take_inventory(images, masks).cases
    subset_of = choose_subsets([case.id for case in cases])
    for case in cases:
        publish_prepared(case, subset_of[case.id], images, masks, data, PreparationConfig())
    cut(data, cubes)
    train_and_publish(cubes, weights, small_config(epochs=1))
    shutil.rmtree(root / "archive")
    return root


@pytest.fixture(params=["folder", pytest.param("bucket", marks=pytest.mark.long)])
def root(request: pytest.FixtureRequest, made: Path, tmp_path: Path) -> str:
    """A copy of it, in a folder or in a bucket."""
    if request.param == "folder":
        return str(shutil.copytree(made, tmp_path / "root"))
    return upload(made, request.getfixturevalue("s3_root"))


def upload(made: Path, bucket: str) -> str:
    there = open_storage(bucket)
    for entry in LocalStorage(made).list("SSL"):
        there.publish_bytes(entry.key, (made / entry.key).read_bytes())
    return bucket


def stages(root: str) -> list[Storage]:
    layout = Layout(root)
    return [open_storage(folder) for folder in (layout.data, layout.cubes, layout.weights, layout.reports)]


def cut(data: Storage, cubes: Storage) -> None:
    for subset in SUBSETS:
        cut_subset(subset, data, cubes, CUBES)


def findings(root: str) -> list[tuple[str, str]]:
    return [(finding.kind, finding.file) for finding in verify_root(root)]


def one_of_each(root: str) -> list[tuple[Storage, str]]:
    """A prepared mask, a file of cubes, the published model, and its version."""
    data, cubes, weights, _ = stages(root)
    mask = next(entry.key for entry in data.list("subset3") if not entry.key.endswith("_0000.nii.gz"))
    version = next(entry.key for entry in weights.list("versions") if entry.key.endswith(MODEL))
    return [(data, mask), (cubes, cubes_key(CUBES, 3)), (weights, MODEL), (weights, version)]


class TestRecords:
    def test_an_untouched_root(self, root: str) -> None:
        assert findings(root) == []

    @pytest.mark.parametrize(
        ("fault", "kind", "change"),
        [
            ("file removed", "missing", lambda stage, key: stage.remove(key)),
            ("file changed", "changed", lambda stage, key: stage.publish_bytes(key, _one_bit_off(stage.read(key)))),
            ("file cut off", "changed", lambda stage, key: stage.publish_bytes(key, stage.read(key)[:-1])),
        ],
    )
    def test_a_file(
        self, fault: str, kind: str, change: Callable[[Storage, str], None], root: str, ledger: Ledger
    ) -> None:
        for stage, key in one_of_each(root):
            with ledger.tried("records", fault):
                whole = stage.read(key)
                change(stage, key)
                assert findings(root) == [(kind, stage.where(key))]
                stage.publish_bytes(key, whole)
        assert findings(root) == []

    def test_a_foreign_file(self, root: str, ledger: Ledger) -> None:
        for stage in stages(root):
            for key in ("notes.txt", "subset0/.DS_Store", "records/notes.txt"):
                with ledger.tried("records", "foreign file"):
                    stage.publish_bytes(key, b"mine")
                    assert findings(root) == [("foreign", stage.where(key))]
                    stage.remove(key)

    @pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b'{"method": 1, "inputs": [], "outputs": 3}'])
    def test_a_record(self, content: bytes, root: str, ledger: Ledger) -> None:
        """What it describes is foreign now; nothing else is."""
        for stage in stages(root)[:3]:
            with ledger.tried("records", "record damaged"):
                name = record_names(stage)[0]
                whole = stage.read(record_key(name))
                stage.publish_bytes(record_key(name), content)
                found = findings(root)
                assert found[0] == ("changed", stage.where(record_key(name)))
                assert {kind for kind, _ in found[1:]} == {"foreign"}
                assert all(name in file for _, file in found[1:])
                stage.publish_bytes(record_key(name), whole)
        assert findings(root) == []

    def test_what_was_made_from_other_data_is_outdated(self, root: str, ledger: Ledger) -> None:
        data, cubes, weights, _ = stages(root)
        with ledger.tried("records", "made from other data"):
            gone = prepared_cases(data, 2)
            remove_prepared(gone[0], data)
            assert findings(root) == [("outdated", cubes.where(cubes_key(CUBES, 2)))]
            cut(data, cubes)
            assert findings(root) == [("outdated", weights.where(MODEL))]
            train_and_publish(cubes, weights, small_config(epochs=1))
            assert findings(root) == []

    def test_several_faults_in_a_bucket(self, made: Path, s3_root: str, ledger: Ledger) -> None:
        root = upload(made, s3_root)
        data, cubes, weights, reports = stages(root)
        removed, damaged = (data.list(f"subset{subset}")[0].key for subset in (1, 2))
        record = record_key(cubes_key(CUBES, 4))
        with ledger.tried("records", "several faults in a bucket"):
            data.remove(removed)
            data.publish_bytes(damaged, _one_bit_off(data.read(damaged)))
            cubes.publish_bytes(record, b"{")
            weights.publish_bytes("versions/0a/left", b"")
            reports.publish_bytes("notes.txt", b"mine")
            assert findings(root) == [
                ("missing", data.where(removed)),
                ("changed", data.where(damaged)),
                ("changed", cubes.where(record)),
                ("foreign", cubes.where(cubes_key(CUBES, 4))),
                ("foreign", weights.where("versions/0a/left")),
                ("foreign", reports.where("notes.txt")),
            ]


def _one_bit_off(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
