import os
import shutil
from pathlib import Path

import pytest

from tests.model_record import model_record
from tests.zssmnet.examinations import Archive, as_image, noise, write
from tests.zssmnet.interruption import contents, traces
from zssmnet.config import CubesConfig, PreparationConfig, PretrainConfig
from zssmnet.data.archive import take_inventory
from zssmnet.preparation.cubes import cut_subset
from zssmnet.preparation.prepare import PreparedCase, publish_prepared
from zssmnet.registry.challenge import JUDGEMENT, Judgement
from zssmnet.registry.changes import Changes, find_changes, refresh_records
from zssmnet.registry.lineage import CaseData, data_of_case, training_inputs
from zssmnet.registry.versions import MODEL, promote, publish, roll_back
from zssmnet.storage import LocalStorage, open_storage, records
from zssmnet.storage.records import NOT_YET, Output, Record, publish_record, read_record

CONFIG = PreparationConfig(margin_mm=3.5)
SUBSETS = {"a": 0, "b": 1, "c": 5}


class Clinic(Archive):
    """An archive, and what was made of it; a model is a file that was never trained."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.subset_of = dict(SUBSETS)
        self.data, self.cubes, self.weights = (LocalStorage(root / name) for name in ("data", "cubes", "weights"))

    def prepare(self) -> list[PreparedCase]:
        cases = take_inventory(self.images, self.masks).cases
        return [
            publish_prepared(case, self.subset_of[case.id], self.images, self.masks, self.data, CONFIG)[0]
            for case in cases
        ]

    def seen(self) -> tuple[CaseData, ...]:
        for subset in range(6):
            cut_subset(subset, self.data, self.cubes, CubesConfig(size=(16, 16, 4), cubes_per_case=1))
        return training_inputs(self.cubes).data

    def train(self, run_id: str = "first") -> None:
        file = self.root / run_id
        file.write_bytes(run_id.encode())
        publish(self.weights, model_record(run_id, self.seen()), file)

    def judge(self) -> None:
        """A challenger that saw what is there now, and was not better."""
        publish_record(self.weights, JUDGEMENT, judgement(self.seen()))

    def look(self, config: PreparationConfig = CONFIG, *, trained: bool = True) -> Changes:
        cases = take_inventory(self.images, self.masks).cases
        weights = self.weights if trained else None
        return find_changes(cases, self.subset_of, self.images, self.masks, self.data, weights, config)

    def facts(self, config: PreparationConfig = CONFIG, *, trained: bool = True) -> dict[str, list[str]]:
        """Ids by kind of news, without the kinds that there are none of."""
        news = self.look(config, trained=trained)
        kinds = {
            "to_prepare": [case.id for case in news.to_prepare],
            "up_to_date": [record.case_id for record in news.up_to_date],
            "gone": list(news.gone),
            "new": list(news.new),
            "changed": list(news.changed),
        }
        return {kind: ids for kind, ids in kinds.items() if ids}


def judgement(data: tuple[CaseData, ...]) -> Judgement:
    return Judgement(
        method=1,
        inputs=(),
        outputs=(),
        run_id="second",
        champion="first",
        champion_loss=0.5,
        challenger_loss=0.6,
        published=False,
        parameters=PretrainConfig(),
        data=data,
        best_epoch=1,
        history=(),
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    clinic = Clinic(tmp_path_factory.mktemp("clinic"))
    for seed, case_id in enumerate("abc"):
        clinic.add(case_id, seed=seed)
    clinic.prepare()
    clinic.train()
    return clinic.root


@pytest.fixture
def clinic(made: Path, tmp_path: Path) -> Clinic:
    """Three cases, prepared and trained on."""
    return Clinic(shutil.copytree(made, tmp_path / "clinic"))


def test_nothing_new(clinic: Clinic) -> None:
    refresh_records(clinic.data, clinic.look().up_to_date)
    changes = clinic.look()
    assert changes == Changes((), tuple(read_record(clinic.data, one, PreparedCase) for one in "abc"), (), (), ())


def test_a_model_whose_judgement_is_still_to_come_has_seen_nothing_new(clinic: Clinic) -> None:
    """The run that published it was killed: what was new to it is new once more, so that the run is repeated."""
    clinic.add("aa", seed=7)
    clinic.subset_of["aa"] = 2
    clinic.prepare()
    challenger = model_record("second", clinic.seen()).model_copy(
        update={"inputs": training_inputs(clinic.cubes).files}
    )
    file = clinic.root / "second"
    file.write_bytes(b"second")
    publish(clinic.weights, challenger, file)
    assert clinic.facts() == {"up_to_date": ["a", "aa", "b", "c"]}
    to_come = Record(method=1, inputs=challenger.inputs, outputs=(Output(key=MODEL, size=NOT_YET, sha256=""),))
    publish_record(clinic.weights, JUDGEMENT, to_come)
    assert clinic.facts() == {"up_to_date": ["a", "aa", "b", "c"], "new": ["aa"]}
    roll_back(clinic.weights)
    assert clinic.facts() == {"up_to_date": ["a", "aa", "b", "c"], "new": ["aa"]}
    clinic.judge()
    assert clinic.facts() == {"up_to_date": ["a", "aa", "b", "c"]}


def test_a_first_model_whose_judgement_is_still_to_come_has_seen_nothing(clinic: Clinic) -> None:
    inputs = model_record("first").inputs
    to_come = Record(method=1, inputs=inputs, outputs=(Output(key=MODEL, size=NOT_YET, sha256=""),))
    publish_record(clinic.weights, JUDGEMENT, to_come)
    assert clinic.facts() == {"up_to_date": ["a", "b", "c"], "new": ["a", "b", "c"]}


def test_nothing_was_ever_done(tmp_path: Path) -> None:
    clinic = Clinic(tmp_path)
    for case_id in "abc":
        clinic.add(case_id)
    before = traces(tmp_path)
    assert clinic.facts() == {"to_prepare": ["a", "b", "c"], "new": ["a", "b", "c"]}
    assert traces(tmp_path) == before


class TestToPrepare:
    def test_a_new_case(self, clinic: Clinic) -> None:
        clinic.add("aa", seed=7)
        clinic.subset_of["aa"] = 2
        assert clinic.facts() == {"to_prepare": ["aa"], "up_to_date": ["a", "b", "c"], "new": ["aa"]}
        clinic.prepare()
        assert clinic.facts() == {"up_to_date": ["a", "aa", "b", "c"], "new": ["aa"]}  # stopped before training
        clinic.train("second")
        assert clinic.facts() == {"up_to_date": ["a", "aa", "b", "c"]}

    @pytest.mark.parametrize("channel", range(3))
    def test_another_content(self, clinic: Clinic, channel: int) -> None:
        write(as_image(noise(99)), clinic.image_path(channel, "b"))
        assert clinic.facts() == {"to_prepare": ["b"], "up_to_date": ["a", "c"], "changed": ["b"]}
        clinic.prepare()
        assert clinic.facts() == {"up_to_date": ["a", "b", "c"], "changed": ["b"]}
        clinic.train("second")
        assert clinic.facts() == {"up_to_date": ["a", "b", "c"]}

    def test_another_subset(self, clinic: Clinic) -> None:
        """What was validated with is trained on now: the model saw it as something else."""
        clinic.subset_of["c"] = 3
        assert clinic.facts() == {"to_prepare": ["c"], "up_to_date": ["a", "b"], "changed": ["c"]}
        clinic.prepare()
        assert clinic.facts() == {"up_to_date": ["a", "b", "c"], "changed": ["c"]}

    def test_other_parameters(self, clinic: Clinic) -> None:
        assert clinic.facts(PreparationConfig(margin_mm=1)) == {
            "to_prepare": ["a", "b", "c"],
            "changed": ["a", "b", "c"],
        }

    def test_a_missing_prepared_file(self, clinic: Clinic) -> None:
        clinic.data.remove("subset0/a.nii.gz")
        assert clinic.facts() == {"to_prepare": ["a"], "up_to_date": ["b", "c"], "changed": ["a"]}

    def test_a_file_that_cannot_be_found_is_left_to_preparation(self, clinic: Clinic) -> None:
        cases = take_inventory(clinic.images, clinic.masks).cases
        clinic.look()  # refreshes the records: copying the example wrote its files anew
        clinic.mask_path("b").unlink()
        before = contents(clinic.root)
        news = find_changes(cases, SUBSETS, clinic.images, clinic.masks, clinic.data, clinic.weights, CONFIG)
        assert [case.id for case in news.to_prepare] == ["b"]
        assert contents(clinic.root) == before


class TestUpToDate:
    def test_touched_files_are_read_once_and_not_new(self, clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
        for channel in range(3):
            os.utime(clinic.image_path(channel, "b"))
        before, files = read_record(clinic.data, "b", PreparedCase), traces(clinic.root)
        changes = clinic.look()
        assert [record.case_id for record in changes.up_to_date] == ["a", "b", "c"]
        assert traces(clinic.root) == files
        refresh_records(clinic.data, changes.up_to_date)
        after = read_record(clinic.data, "b", PreparedCase)
        assert [one.version for one in before.inputs] != [one.version for one in after.inputs]
        assert after.identity() == before.identity()
        assert not promote(clinic.weights, "first")
        monkeypatch.setattr(records, "sha256_of", None)  # nothing is read again
        again = traces(clinic.root)
        assert clinic.facts() == {"up_to_date": ["a", "b", "c"]}
        assert traces(clinic.root) == again

    def test_what_is_up_to_date_is_what_preparation_leaves_alone(self, clinic: Clinic) -> None:
        clinic.add("aa", seed=7)
        clinic.subset_of["aa"] = 2
        write(as_image(noise(99)), clinic.image_path(0, "c"))
        to_prepare = {case.id for case in clinic.look().to_prepare}
        stores = clinic.images, clinic.masks, clinic.data
        cases = take_inventory(clinic.images, clinic.masks).cases
        is_new = {case.id: publish_prepared(case, clinic.subset_of[case.id], *stores, CONFIG)[1] for case in cases}
        assert to_prepare == {case_id for case_id, one in is_new.items() if one} == {"aa", "c"}


class TestGone:
    def test_from_the_archive(self, clinic: Clinic) -> None:
        for channel in range(3):
            clinic.image_path(channel, "b").unlink()
        clinic.mask_path("b").unlink()
        assert clinic.facts() == {"up_to_date": ["a", "c"], "gone": ["b"]}

    def test_from_the_split(self, clinic: Clinic) -> None:
        del clinic.subset_of["a"]
        assert clinic.facts() == {"up_to_date": ["b", "c"], "gone": ["a"]}


class TestSeen:
    def test_without_a_model_all_are_new(self, clinic: Clinic) -> None:
        assert clinic.facts(trained=False) == {"up_to_date": ["a", "b", "c"], "new": ["a", "b", "c"]}
        clinic.weights.publish_bytes(MODEL, b"foreign")
        assert clinic.facts() == {"up_to_date": ["a", "b", "c"], "new": ["a", "b", "c"]}

    def test_by_a_challenger_that_was_not_published(self, clinic: Clinic) -> None:
        clinic.add("aa", seed=7)
        clinic.subset_of["aa"] = 2
        clinic.prepare()
        clinic.judge()
        assert clinic.facts() == {"up_to_date": ["a", "aa", "b", "c"]}

    def test_a_model_rolled_back_to_has_not_seen_it(self, clinic: Clinic) -> None:
        clinic.add("aa", seed=7)
        clinic.subset_of["aa"] = 2
        clinic.prepare()
        clinic.train("second")
        roll_back(clinic.weights)
        assert clinic.facts() == {"up_to_date": ["a", "aa", "b", "c"], "new": ["aa"]}

    def test_cubes_and_prepared_cases_tell_the_same(self, clinic: Clinic) -> None:
        seen = clinic.seen()
        assert seen == tuple(data_of_case(record) for record in clinic.prepare())
        assert [(one.case_id, one.subset) for one in seen] == [("a", 0), ("b", 1), ("c", 5)]
        assert len({one.sha256 for one in seen}) == 3

    def test_cubes_without_records_tell_nothing(self, clinic: Clinic) -> None:
        clinic.seen()
        shutil.rmtree(clinic.cubes.folder / "records")
        assert training_inputs(open_storage(clinic.cubes.uri)).data == ()


def test_a_stock_of_cubes_knows_the_spacing_that_its_cases_were_prepared_for(clinic: Clinic) -> None:
    clinic.seen()
    assert training_inputs(clinic.cubes).spacing_mm == CONFIG.spacing_mm
