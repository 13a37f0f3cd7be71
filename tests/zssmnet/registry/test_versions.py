import logging
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from tests.model_record import model_record
from tests.zssmnet.interruption import Killed, MortalStorage, contents, traces
from zssmnet.errors import CheckpointError, InputError
from zssmnet.registry.lineage import CaseData
from zssmnet.registry.versions import (
    MODEL,
    PretrainedModel,
    checked_model,
    find_version,
    list_versions,
    promote,
    publish,
    roll_back,
    stable_model,
    version_key,
)
from zssmnet.storage import LocalStorage, Storage, sha256_of
from zssmnet.storage.records import NOT_YET, Output, publish_record, read_record, remove_record

RUNS = ("cccc", "aaaa", "bbbb")
"""Run ids in the order of their publication."""


@pytest.fixture
def weights(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "weights")


@pytest.fixture
def three(weights: LocalStorage) -> LocalStorage:
    """Three versions, published one after another."""
    for run_id in RUNS:
        add(weights, run_id)
    return weights


def made(run_id: str) -> PretrainedModel:
    return model_record(run_id, (CaseData("10001_1000001", 5, "0" * 64),))


def model_of(run_id: str) -> bytes:
    return f"the weights of {run_id}".encode()


def add(weights: Storage, run_id: str, content: bytes | None = None) -> PretrainedModel:
    file = Path(weights.uri).with_name(f"best of {run_id}")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content or model_of(run_id))
    return publish(weights, made(run_id), file)


def add_as_an_earlier_program(weights: LocalStorage, run_id: str) -> PretrainedModel:
    """A model and its record under the stable name alone."""
    weights.publish_bytes(MODEL, model_of(run_id))
    size, sha256 = len(model_of(run_id)), sha256_of(weights.local(MODEL))
    record = made(run_id).model_copy(update={"outputs": (Output(key=MODEL, size=size, sha256=sha256),)})
    new = {"data", "number", "replaces"}
    weights.publish_bytes(f"records/{MODEL}.json", record.model_dump_json(exclude=new).encode())
    return record.model_copy(update={"data": ()})


def versions(weights: Storage) -> list[tuple[str, int, str | None]]:
    return [(one.run_id, one.number, one.replaces) for one in list_versions(weights)]


class TestPublication:
    def test_every_version_is_kept_and_the_last_one_is_stable(self, three: LocalStorage) -> None:
        assert versions(three) == [("cccc", 1, None), ("aaaa", 2, "cccc"), ("bbbb", 3, "aaaa")]
        for run_id in RUNS:
            assert three.read(version_key(run_id)) == model_of(run_id)
            assert find_version(three, run_id) == read_record(three.child(f"versions/{run_id}"), MODEL, PretrainedModel)
        assert three.read(MODEL) == model_of("bbbb")
        assert stable_model(three) == read_record(three, MODEL, PretrainedModel) == find_version(three, "bbbb")
        assert len(contents(three.folder)) == 2 + 3 * 2

    def test_a_version_published_again_keeps_its_place(self, three: LocalStorage) -> None:
        record = add(three, "aaaa", b"after more epochs")
        assert (record.number, record.replaces) == (2, "cccc")
        assert record == stable_model(three) == find_version(three, "aaaa")
        assert three.read(MODEL) == three.read(version_key("aaaa")) == b"after more epochs"
        assert len(list_versions(three)) == 3

    def test_what_is_published_already_is_not_written_again(self, three: LocalStorage) -> None:
        before = traces(three.folder)
        add(three, "bbbb")
        assert promote(three, "bbbb") is False
        assert traces(three.folder) == before

    def test_a_model_of_an_earlier_program_is_kept(self, weights: LocalStorage) -> None:
        old = add_as_an_earlier_program(weights, "old")
        assert stable_model(weights) == old
        assert list_versions(weights) == []
        new = add(weights, "new")
        assert list_versions(weights) == [old, new]
        assert (new.number, new.replaces) == (1, "old")
        assert weights.read(version_key("old")) == model_of("old")
        assert roll_back(weights) == old == stable_model(weights)
        assert weights.read(MODEL) == model_of("old")

    def test_an_earlier_program_s_model_that_is_trained_further(self, weights: LocalStorage) -> None:
        add_as_an_earlier_program(weights, "old")
        add(weights, "old", b"after more epochs")
        assert versions(weights) == [("old", 0, None)]
        assert weights.read(MODEL) == b"after more epochs"

    def test_a_foreign_model_is_replaced_with_a_warning(
        self, weights: LocalStorage, caplog: pytest.LogCaptureFixture
    ) -> None:
        weights.publish_bytes(MODEL, b"foreign")
        with caplog.at_level(logging.WARNING):
            add(weights, "aaaa")
        assert versions(weights) == [("aaaa", 1, None)]
        (line,) = caplog.messages
        assert line.startswith(f"{weights.where(MODEL)}: no record of how it was made; move it elsewhere")


class TestStableModel:
    def test_none(self, weights: LocalStorage) -> None:
        assert stable_model(weights) is None
        assert list_versions(weights) == []

    def test_a_foreign_one_has_no_record(self, weights: LocalStorage, three: LocalStorage) -> None:
        three.publish_bytes(MODEL, b"x" * len(model_of("aaaa")))
        remove_record(three, MODEL)
        assert stable_model(three) is None

    @pytest.mark.parametrize("reported", ["cccc", "bbbb", None])
    def test_without_a_finished_record_its_content_tells(self, three: LocalStorage, reported: str | None) -> None:
        """As where a run was killed between the model and its record."""
        three.publish_bytes(MODEL, model_of("aaaa"))
        remove_record(three, MODEL)
        if reported:
            to_come = (Output(key=MODEL, size=NOT_YET, sha256=""),)
            publish_record(three, MODEL, made(reported).model_copy(update={"outputs": to_come}))
        assert stable_model(three) == find_version(three, "aaaa")

    @pytest.mark.parametrize("run_id", ["dddd", "eeee"])
    def test_of_two_versions_with_the_same_content_it_is_the_one_that_was_to_come(
        self, three: LocalStorage, run_id: str
    ) -> None:
        for one in ("dddd", "eeee"):
            add(three, one, b"the same")
        to_come = (Output(key=MODEL, size=NOT_YET, sha256=""),)
        publish_record(three, MODEL, made(run_id).model_copy(update={"outputs": to_come}))
        assert stable_model(three).run_id == run_id

    def test_a_record_without_its_best_epoch_or_in_the_folder_of_another_version_is_none(
        self, three: LocalStorage
    ) -> None:
        three.publish_bytes("versions/zzzz/" + MODEL, model_of("aaaa"))
        record = find_version(three, "aaaa")
        publish_record(three.child("versions/zzzz"), MODEL, record)
        assert [one.run_id for one in list_versions(three)] == list(RUNS)
        for best_epoch in (0, 2):
            publish_record(three.child("versions/aaaa"), MODEL, record.model_copy(update={"best_epoch": best_epoch}))
            assert find_version(three, "aaaa") is None

    def test_a_version_without_its_model_is_none(self, three: LocalStorage) -> None:
        three.remove(version_key("aaaa"))
        assert find_version(three, "aaaa") is None
        assert [one.run_id for one in list_versions(three)] == ["cccc", "bbbb"]


class TestRollBack:
    def test_to_the_one_before(self, three: LocalStorage) -> None:
        kept = {key: content for key, content in contents(three.folder).items() if key.startswith("versions/")}
        for run_id in ("aaaa", "cccc"):
            assert roll_back(three) == find_version(three, run_id) == stable_model(three)
            assert three.read(MODEL) == model_of(run_id)
        with pytest.raises(
            CheckpointError, match="version cccc replaced no other, so there is nothing to roll back to"
        ):
            roll_back(three)
        assert {key: content for key, content in contents(three.folder).items() if key.startswith("versions/")} == kept

    @pytest.mark.parametrize("path", [["cccc"], ["aaaa"], ["cccc", "bbbb"], ["cccc", "aaaa", "bbbb", "cccc"]])
    def test_to_a_named_one_and_forward(self, three: LocalStorage, path: list[str]) -> None:
        for run_id in path:
            assert roll_back(three, run_id).run_id == run_id
            assert stable_model(three) == find_version(three, run_id)
            assert three.read(MODEL) == model_of(run_id)
        assert [one.run_id for one in list_versions(three)] == list(RUNS)

    def test_what_is_published_after_it_replaces_the_version_rolled_back_to(self, three: LocalStorage) -> None:
        roll_back(three, "cccc")
        assert add(three, "dddd").replaces == "cccc"
        assert versions(three)[-1] == ("dddd", 4, "cccc")

    @pytest.mark.parametrize(
        ("version", "message"),
        [
            ("dddd", "no version dddd; there are bbbb, aaaa, cccc"),
            ("bbbb", f"{MODEL}: is version bbbb already; there are bbbb, aaaa, cccc"),
        ],
    )
    def test_errors_name_the_versions_there_are(self, three: LocalStorage, version: str, message: str) -> None:
        before = traces(three.folder)
        with pytest.raises(CheckpointError) as caught:
            roll_back(three, version)
        assert str(caught.value).startswith(str(three.folder))
        assert str(caught.value).endswith(message)
        assert traces(three.folder) == before

    @pytest.mark.parametrize("version", ["..", "a/../../b", "two\nlines", "/etc"])
    def test_names_that_lead_elsewhere(self, three: LocalStorage, version: str) -> None:
        with pytest.raises(InputError) as caught:
            roll_back(three, version)
        assert str(caught.value).isprintable()

    def test_without_any(self, weights: LocalStorage) -> None:
        for version in ("aaaa", None):
            with pytest.raises(
                CheckpointError,
                match=f"^{weights.uri}: no published model there; give the working root of 'zssmnet run'$",
            ):
                roll_back(weights, version)

    def test_a_damaged_version_is_not_promoted(self, three: LocalStorage) -> None:
        path = three.local(version_key("aaaa"))
        path.write_bytes(model_of("aaaa").swapcase())
        before = traces(three.folder)
        with pytest.raises(CheckpointError) as caught:
            roll_back(three)
        assert (
            str(caught.value)
            == f"{path}: damaged: its content differs from its record; remove it, or roll back to another version"
        )
        assert traces(three.folder) == before
        with pytest.raises(CheckpointError):
            checked_model(three, find_version(three, "aaaa"))

    def test_promoting_the_stable_model_keeps_it_where_its_version_is_gone(self, three: LocalStorage) -> None:
        three.remove(version_key("bbbb"))
        assert not promote(three, "bbbb")
        assert three.read(version_key("bbbb")) == model_of("bbbb")

    def test_a_damaged_version_that_was_removed_is_kept_again(self, three: LocalStorage) -> None:
        three.remove(version_key("bbbb"))
        roll_back(three, "aaaa")
        assert three.read(version_key("bbbb")) == model_of("bbbb")
        assert [one.run_id for one in list_versions(three)] == list(RUNS)


class TestKilled:
    """Killed at any change and started again, the files are those of an undisturbed run."""

    def kill_at_every_change(
        self, tmp_path: Path, begin: Callable[[Storage], object], act: Callable[[Storage], object]
    ):
        undisturbed = LocalStorage(tmp_path / "undisturbed")
        begin(undisturbed)
        earlier = undisturbed.read(MODEL) if undisturbed.stat(MODEL) else None
        act(undisturbed)
        for changes in count():
            folder = tmp_path / f"killed{changes}"
            begin(LocalStorage(folder))
            try:
                act(MortalStorage(folder, changes))
            except Killed:
                present = folder / MODEL
                model = present.read_bytes() if present.exists() else None
                assert model in (earlier, undisturbed.read(MODEL))
                assert model is None or stable_model(LocalStorage(folder)) or list_versions(LocalStorage(folder)) == []
            else:
                return
            yield changes, LocalStorage(folder)
            act(LocalStorage(folder))
            assert contents(folder) == contents(undisturbed.folder)

    @staticmethod
    def add_three(weights: Storage) -> None:
        for run_id in RUNS:
            add(weights, run_id)

    def test_publishing_the_first(self, tmp_path: Path) -> None:
        kills = list(self.kill_at_every_change(tmp_path, lambda _: None, lambda weights: add(weights, "aaaa")))
        assert len(kills) == 6

    def test_publishing_a_new_one(self, tmp_path: Path) -> None:
        kills = list(self.kill_at_every_change(tmp_path, self.add_three, lambda weights: add(weights, "dddd")))
        assert len(kills) == 6

    def test_publishing_one_again(self, tmp_path: Path) -> None:
        for _, weights in self.kill_at_every_change(
            tmp_path, self.add_three, lambda weights: add(weights, "aaaa", b"after more epochs")
        ):
            assert stable_model(weights).run_id in ("bbbb", "aaaa")

    def test_replacing_a_model_of_an_earlier_program(self, tmp_path: Path) -> None:
        kills = list(
            self.kill_at_every_change(
                tmp_path, lambda weights: add_as_an_earlier_program(weights, "old"), lambda weights: add(weights, "new")
            )
        )
        assert len(kills) == 9

    @pytest.mark.parametrize("version", [None, "aaaa", "cccc"])
    def test_rolling_back(self, tmp_path: Path, version: str | None) -> None:
        """Never goes back twice."""
        kills = list(self.kill_at_every_change(tmp_path, self.add_three, lambda weights: roll_back(weights, version)))
        assert len(kills) == 4  # beside the two files of a model and its record, that of the rollback

    def test_another_model_after_it(self, tmp_path: Path) -> None:
        """The interrupted publication is forgotten; what is asked for then is there."""
        for _, weights in self.kill_at_every_change(tmp_path, self.add_three, lambda weights: add(weights, "dddd")):
            other = LocalStorage(weights.folder.with_name("other"))
            for key, content in contents(weights.folder).items():
                other.publish_bytes(key, content)
            record = add(other, "eeee")
            assert stable_model(other) == record == read_record(other, MODEL, PretrainedModel)
            assert {"cccc", "aaaa", "bbbb", "eeee"} <= {one.run_id for one in list_versions(other)}
            for path in sorted(other.folder.rglob("*"), reverse=True):
                path.unlink() if path.is_file() else path.rmdir()
