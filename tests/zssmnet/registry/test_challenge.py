import json
import logging
import math
import shutil
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.zssmnet.interruption import Killed, MortalStorage, contents, traces
from tests.zssmnet.training.examples import (
    CPU,
    StoppedError,
    bits,
    cubes_file,
    cubes_of,
    small_config,
    stop,
    stopping_at,
    write_cubes,
)
from zssmnet.config import (
    ChallengerConfig,
    ChallengerTrainingConfig,
    CorruptionConfig,
    NetworkConfig,
    PretrainConfig,
)
from zssmnet.errors import CheckpointError, NonFiniteLossError
from zssmnet.registry.challenge import JUDGEMENT, Judgement, challenge, challenger_settings, judgements
from zssmnet.registry.lineage import training_inputs
from zssmnet.registry.runs import identify, train_and_publish
from zssmnet.registry.versions import MODEL, list_versions, publish, roll_back, stable_model, version_key
from zssmnet.storage import LocalStorage
from zssmnet.storage.records import read_record, remove_record
from zssmnet.training.batches import StreamedCubes
from zssmnet.training.checkpoint import BEST
from zssmnet.training.dataset import open_training_data
from zssmnet.training.epoch import validate
from zssmnet.training.fit import evaluate
from zssmnet.training.step import Step
from zssmnet.training.trainer import initial_state

FIRST = small_config(epochs=1)
BETTER = small_config(epochs=2, learning_rate=1.0)
WORSE = small_config(epochs=1, learning_rate=1000.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with two sets of cubes, and a model of the first, for copying."""
    root = tmp_path_factory.mktemp("made")
    train_and_publish(write_cubes(root / "earlier"), LocalStorage(root / "weights"), FIRST)
    write_cubes(root / "cubes", seed=1)
    return root


@pytest.fixture(scope="module")
def judged(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights after ``BETTER``, undisturbed, for copying."""
    weights = tmp_path_factory.mktemp("judged") / "weights"
    shutil.copytree(made / "weights", weights)
    challenge(LocalStorage(made / "cubes"), LocalStorage(weights), BETTER)
    return weights


@pytest.fixture
def cubes(made: Path) -> LocalStorage:
    """Other cubes than the champion's."""
    return LocalStorage(made / "cubes")


@pytest.fixture
def weights(made: Path, tmp_path: Path) -> LocalStorage:
    return LocalStorage(shutil.copytree(made / "weights", tmp_path / "weights"))


@pytest.fixture
def after(judged: Path, tmp_path: Path) -> LocalStorage:
    """The weights after ``BETTER``."""
    return LocalStorage(shutil.copytree(judged, tmp_path / "after"))


def timeless(folder: Path) -> dict[str, Any]:
    """All files but the logs, which tell the time; records without the times of inputs."""
    found: dict[str, Any] = {}
    for key, content in contents(folder).items():
        if "/tensorboard/" in key:
            continue
        found[key] = json.loads(content) if key.endswith(".json") else content
        for one in found[key]["inputs"] if key.endswith(".json") else ():
            one["version"] = ""
    return found


def longer(config: PretrainConfig, epochs: int) -> PretrainConfig:
    return config.model_copy(update={"training": config.training.model_copy(update={"epochs": epochs})})


class TestJudgement:
    def test_a_better_challenger_is_published(self, cubes: LocalStorage, after: LocalStorage, made: Path) -> None:
        judgement = read_record(after, JUDGEMENT, Judgement)
        champion, challenger = list_versions(after)
        assert judgement.published
        assert judgement.challenger_loss < judgement.champion_loss
        assert (judgement.champion, judgement.run_id) == (champion.run_id, challenger.run_id)
        assert challenger == stable_model(after)
        assert (challenger.number, challenger.replaces) == (2, champion.run_id)
        assert after.read(MODEL) == after.read(f"training/{challenger.run_id}/{BEST}")
        assert after.read(version_key(champion.run_id)) == (made / "weights" / MODEL).read_bytes()
        assert judgement.inputs == training_inputs(cubes).files
        assert (judgement.parameters, judgement.history) == (BETTER, challenger.history)

    def test_a_challenger_must_win_by_the_margin(
        self, cubes: LocalStorage, after: LocalStorage, weights: LocalStorage
    ) -> None:
        won = read_record(after, JUDGEMENT, Judgement)
        gain = 100 * (1 - won.challenger_loss / won.champion_loss)
        assert 0 < gain < 99
        judgement, is_new = challenge(cubes, weights, BETTER, margin_percent=gain + 0.5)
        assert is_new
        assert not judgement.published
        assert judgement.challenger_loss == won.challenger_loss
        judgement, is_new = challenge(cubes, weights, BETTER, margin_percent=gain - 0.5)  # judged anew, not trained
        assert is_new
        assert judgement.published

    def test_what_went_into_the_challenger(self, cubes: LocalStorage, after: LocalStorage) -> None:
        champion, challenger = list_versions(after)
        *files, began_with = challenger.inputs
        assert tuple(files) == training_inputs(cubes).files
        assert (began_with.name, began_with.sha256) == (version_key(champion.run_id), champion.outputs[0].sha256)
        assert challenger.run_id == identify(challenger.inputs, BETTER) != identify(files, BETTER)

    def test_a_worse_challenger_is_not_published(
        self, cubes: LocalStorage, weights: LocalStorage, caplog: pytest.LogCaptureFixture
    ) -> None:
        before = {key: content for key, content in timeless(weights.folder).items() if not key.startswith("training/")}
        with caplog.at_level(logging.INFO, "zssmnet"):
            judgement, is_new = challenge(cubes, weights, WORSE)
        assert is_new
        assert not judgement.published
        assert judgement.challenger_loss > judgement.champion_loss
        now = {key: content for key, content in timeless(weights.folder).items() if not key.startswith("training/")}
        assert now.pop(f"records/{JUDGEMENT}.json")
        assert now.pop(f"records/{JUDGEMENT}-{judgement.run_id}.json")
        assert [(one.run_id, one.published) for _, one in judgements(weights)] == [(judgement.run_id, False)]
        assert now == before
        assert weights.stat(f"training/{judgement.run_id}/{BEST}")
        assert caplog.messages[-1] == (
            f"champion {judgement.champion} {judgement.champion_loss:.5f}, challenger {judgement.run_id} "
            f"{judgement.challenger_loss:.5f} on 3 validation cubes: not better, not published"
        )

    def test_both_losses_are_those_of_the_same_validation(self, cubes: LocalStorage, after: LocalStorage) -> None:
        """The challenger's is that of its best epoch, exactly; the champion's, that of its weights on these cubes."""
        judgement = read_record(after, JUDGEMENT, Judgement)
        assert judgement.challenger_loss == min(one.validation_loss for one in judgement.history)
        assert judgement.challenger_loss == stable_model(after).best_validation_loss
        _, validation = open_training_data(cubes, 2)
        champion = initial_state(BETTER, CPU).model
        champion.load_state_dict(torch.load(after.local(version_key(judgement.champion)))["state_dict"])
        recipe = BETTER.training
        step = Step(champion, BETTER.corruption)
        loss = validate(step, StreamedCubes(validation, CPU), recipe.batch_size, recipe.validation_seed).loss
        assert judgement.champion_loss == loss

    def test_the_same_challenge_is_bit_identical(
        self, cubes: LocalStorage, weights: LocalStorage, judged: Path
    ) -> None:
        torch.manual_seed(3)
        challenge(cubes, weights, BETTER)
        assert timeless(weights.folder) == timeless(judged)

    def test_a_challenger_begins_with_the_champion_s_weights(self, cubes: LocalStorage, weights: LocalStorage) -> None:
        """With steps of no length, it ends with them, and is no better."""
        frozen = small_config(epochs=1, learning_rate=1e-45)
        judgement, _ = challenge(cubes, weights, frozen)
        best = torch.load(weights.local(f"training/{judgement.run_id}/{BEST}"))["state_dict"]
        champion = torch.load(weights.local(MODEL))["state_dict"]
        parameters = dict(initial_state(frozen, CPU).model.named_parameters())
        assert {name: bits(best[name]) for name in parameters} == {name: bits(champion[name]) for name in parameters}

    def test_of_a_champion_that_an_earlier_program_published(
        self, cubes: LocalStorage, weights: LocalStorage, judged: Path
    ) -> None:
        first = stable_model(weights)
        shutil.rmtree(weights.folder / "versions")
        record = json.loads(weights.read(f"records/{MODEL}.json"))
        for name in ("data", "number", "replaces"):
            del record[name]
        weights.publish_bytes(f"records/{MODEL}.json", json.dumps(record).encode())
        judgement, _ = challenge(cubes, weights, BETTER)
        assert judgement == read_record(LocalStorage(judged), JUDGEMENT, Judgement)
        assert weights.read(MODEL) == (judged / MODEL).read_bytes()
        assert roll_back(weights).outputs == first.outputs


class TestWithoutAChampion:
    def test_it_is_plain_pre_training(self, made: Path, tmp_path: Path) -> None:
        weights = LocalStorage(tmp_path / "weights")
        judgement, is_new = challenge(LocalStorage(made / "earlier"), weights, FIRST)
        assert is_new
        assert judgement.published
        assert (judgement.champion, judgement.champion_loss) == (None, None)
        assert read_record(weights, JUDGEMENT, Judgement) == judgement
        remove_record(weights, JUDGEMENT)
        assert timeless(weights.folder) == timeless(made / "weights")

    def test_a_model_of_these_cubes_is_not_challenged_with_them(self, made: Path, weights: LocalStorage) -> None:
        before = timeless(weights.folder)
        judgement, is_new = challenge(LocalStorage(made / "earlier"), weights, FIRST, stop, stop)
        assert is_new
        assert (judgement.run_id, judgement.published) == (stable_model(weights).run_id, True)
        remove_record(weights, JUDGEMENT)
        assert timeless(weights.folder) == before


class TestDoneAlready:
    def unchanged(self, cubes: LocalStorage, weights: LocalStorage, config: PretrainConfig) -> bool:
        before, last = traces(weights.folder), read_record(weights, JUDGEMENT, Judgement)
        judgement, is_new = challenge(cubes, weights, config, stop, stop)
        return not is_new and judgement == last and traces(weights.folder) == before

    def test_directly_after_the_challenger_was_published(self, cubes: LocalStorage, after: LocalStorage) -> None:
        assert self.unchanged(cubes, after, BETTER)
        assert self.unchanged(cubes, after, longer(BETTER, 1))

    def test_directly_after_it_was_not(self, cubes: LocalStorage, weights: LocalStorage) -> None:
        challenge(cubes, weights, WORSE)
        assert self.unchanged(cubes, weights, WORSE)

    def test_after_a_roll_back(self, cubes: LocalStorage, after: LocalStorage, made: Path) -> None:
        roll_back(after)
        assert self.unchanged(cubes, after, BETTER)
        assert after.read(MODEL) == (made / "weights" / MODEL).read_bytes()

    def test_a_judgement_of_a_program_that_could_also_judge_by_the_probe(
        self, cubes: LocalStorage, after: LocalStorage
    ) -> None:
        key = f"records/{JUDGEMENT}.json"
        after.publish_bytes(key, json.dumps(json.loads(after.read(key)) | {"by_probe": None, "gain": None}).encode())
        assert self.unchanged(cubes, after, BETTER)

    def test_cubes_written_anew_with_the_same_content(
        self, cubes: LocalStorage, after: LocalStorage, tmp_path: Path
    ) -> None:
        again = LocalStorage(shutil.copytree(cubes.folder, tmp_path / "again", copy_function=shutil.copy))
        assert self.unchanged(again, after, BETTER)

    @pytest.mark.parametrize("rolled_back", [False, True])
    def test_more_epochs_continue_against_the_same_champion(
        self, cubes: LocalStorage, after: LocalStorage, rolled_back: bool
    ) -> None:
        first = read_record(after, JUDGEMENT, Judgement)
        if rolled_back:
            roll_back(after)
        epochs = []
        judgement, is_new = challenge(
            cubes, after, longer(BETTER, 4), lambda state: epochs.append(state.progress.epoch)
        )
        assert is_new
        assert epochs == [3, 4]
        assert (judgement.run_id, judgement.champion) == (first.run_id, first.champion)
        assert judgement.champion_loss == first.champion_loss
        assert judgement.history[:2] == first.history
        assert judgement.published
        assert [one.run_id for one in list_versions(after)] == [first.champion, first.run_id]
        assert stable_model(after).history == judgement.history

    def test_other_cubes_challenge_the_new_champion(
        self, cubes: LocalStorage, after: LocalStorage, tmp_path: Path
    ) -> None:
        first = read_record(after, JUDGEMENT, Judgement)
        newer = LocalStorage(shutil.copytree(cubes.folder, tmp_path / "newer"))
        np.save(cubes_file(newer.folder, 1), cubes_of(1, seed=77))
        judgement, is_new = challenge(newer, after, longer(BETTER, 1))
        assert is_new
        assert judgement.champion == first.run_id != judgement.run_id


class TestKilled:
    @pytest.mark.parametrize(
        "config",
        [pytest.param(longer(BETTER, 1), id="better"), pytest.param(WORSE, id="worse", marks=pytest.mark.long)],
    )
    def test_at_any_change(
        self, config: PretrainConfig, cubes: LocalStorage, made: Path, tmp_path: Path, long: bool
    ) -> None:
        """Its last kills are between version, stable model and judgement, when the champion has changed already."""
        undisturbed = MortalStorage(shutil.copytree(made / "weights", tmp_path / "whole"), 1000)
        is_better = challenge(cubes, undisturbed, config)[0].published
        assert is_better == (config is not WORSE)
        assert undisturbed.changes >= (10 if is_better else 4)
        expected = timeless(undisturbed.folder)
        kills = range(undisturbed.changes)
        for changes in kills if long else (0, *kills[-7::2]):
            folder = shutil.copytree(made / "weights", tmp_path / f"killed{changes}")
            with pytest.raises(Killed):
                challenge(cubes, MortalStorage(folder, changes), config)
            assert (folder / MODEL).read_bytes() in (expected[MODEL], (made / "weights" / MODEL).read_bytes())
            challenge(cubes, LocalStorage(folder), config)
            assert timeless(folder) == expected
            shutil.rmtree(folder)

    def test_within_an_epoch(self, cubes: LocalStorage, weights: LocalStorage, judged: Path) -> None:
        for epoch in (1, 2):
            with pytest.raises(StoppedError):
                challenge(cubes, weights, BETTER, stopping_at(epoch))
        challenge(cubes, weights, BETTER)
        assert timeless(weights.folder) == timeless(judged)

    def test_without_a_champion(self, made: Path, tmp_path: Path) -> None:
        """Nearly all of it is trained already, so that only publication is killed."""
        earlier, whole = LocalStorage(made / "earlier"), LocalStorage(tmp_path / "whole")
        challenge(earlier, whole, FIRST)
        for changes in count():
            weights = LocalStorage(tmp_path / f"killed{changes}")
            shutil.copytree(whole.folder / "training", weights.folder / "training")
            try:
                challenge(earlier, MortalStorage(weights.folder, changes), FIRST, stop, stop)
            except Killed:
                challenge(earlier, weights, FIRST, stop, stop)
                assert timeless(weights.folder) == timeless(whole.folder)
            else:
                break
        assert changes >= 7


class TestADivergedChampion:
    def test_any_finite_challenger_is_better_and_begins_anew(
        self, cubes: LocalStorage, weights: LocalStorage, tmp_path: Path
    ) -> None:
        content = torch.load(weights.local(MODEL))
        next(iter(content["state_dict"].values())).fill_(math.nan)
        torch.save(content, tmp_path / "diverged.model")
        first = stable_model(weights)
        publish(weights, first.model_copy(update={"run_id": "diverged"}), tmp_path / "diverged.model")
        judgement, _ = challenge(cubes, weights, FIRST)
        assert (judgement.champion, judgement.champion_loss, judgement.published) == ("diverged", None, True)
        assert read_record(weights, JUDGEMENT, Judgement) == judgement
        assert stable_model(weights).run_id == judgement.run_id
        plain, _ = train_and_publish(cubes, LocalStorage(tmp_path / "plain"), FIRST)
        assert judgement.history == plain.history

    def test_a_challenger_that_diverges_is_an_error_and_changes_nothing(
        self, cubes: LocalStorage, weights: LocalStorage
    ) -> None:
        before = timeless(weights.folder)
        with pytest.raises(NonFiniteLossError):
            challenge(cubes, weights, small_config(epochs=1, learning_rate=1e30))
        assert timeless(weights.folder) == before


class TestErrors:
    def test_another_network(self, cubes: LocalStorage, weights: LocalStorage) -> None:
        other = FIRST.model_copy(update={"network": NetworkConfig(channels=(2, 2, 2, 2, 3), merge="sum")})
        stable_model(weights)  # hashes the model, which is a copy, and notes its version
        before = traces(weights.folder)
        with pytest.raises(CheckpointError) as caught:
            challenge(cubes, weights, other, stop, stop)
        path = weights.where(version_key(stable_model(weights).run_id))
        assert str(caught.value) == (
            f"{path}: the champion's network has channels 2, 2, 2, 2, 2 and merge 'sub', the settings ask for channels "
            "2, 2, 2, 2, 3 and merge 'sum'; set pretraining.network to the champion's, or train anew with "
            "'zssmnet run' or 'zssmnet pretrain'"
        )
        assert traces(weights.folder) == before

    def test_a_champion_without_a_record_is_left_alone(self, cubes: LocalStorage, made: Path, tmp_path: Path) -> None:
        weights = LocalStorage(tmp_path / "foreign")
        weights.publish_bytes(MODEL, (made / "weights" / MODEL).read_bytes())
        with pytest.raises(CheckpointError, match="no record of how it was made; move it elsewhere"):
            challenge(cubes, weights, FIRST, stop, stop)
        assert list(contents(weights.folder)) == [MODEL]

    def test_a_damaged_champion(self, cubes: LocalStorage, weights: LocalStorage) -> None:
        path = weights.local(version_key(stable_model(weights).run_id))
        path.write_bytes(bytes(path.stat().st_size))
        with pytest.raises(CheckpointError) as caught:
            challenge(cubes, weights, FIRST, stop, stop)
        assert str(caught.value).startswith(f"{path}: damaged")

    def test_weights_of_another_network_do_not_fit(self, cubes: LocalStorage, weights: LocalStorage) -> None:
        _, validation = open_training_data(cubes, 2)
        other = FIRST.model_copy(update={"network": NetworkConfig(channels=(2, 2, 2, 2, 3))})
        with pytest.raises(CheckpointError) as caught:
            evaluate(weights.local(MODEL), validation, other)
        assert str(caught.value).startswith(f"{weights.local(MODEL)}: does not fit: Error(s) in loading state_dict")
        assert "\n" not in str(caught.value)


class TestSettings:
    def test_all_but_the_budget_is_the_champions_where_no_other_is_asked_for(self, made: Path, tmp_path: Path) -> None:
        corruption = CorruptionConfig(recipe="per-channel", shuffling=FIRST.corruption.shuffling)
        first = small_config(epochs=1, optimizer="adamw", learning_rate=0.002, calibrated_head=True)
        first = first.model_copy(update={"corruption": corruption})
        weights = LocalStorage(tmp_path / "weights")
        train_and_publish(LocalStorage(made / "earlier"), weights, first)
        cubes = LocalStorage(made / "cubes")
        default, _ = challenger_settings(weights, cubes, ChallengerConfig(), None)
        assert (default.network, default.corruption) == (first.network, corruption)
        recipe = default.training
        assert (recipe.optimizer, recipe.calibrated_head, recipe.batch_size) == ("adamw", True, 2)
        assert (recipe.learning_rate, recipe.epochs, recipe.patience) == (0.002, 100, 10)
        other = ChallengerConfig(
            corruption=CorruptionConfig(recipe="masked"),
            training=ChallengerTrainingConfig(weight_decay=0.5, learning_rate=0.3),
        )
        asked, _ = challenger_settings(weights, cubes, other, None)
        assert asked.corruption == other.corruption
        assert (asked.training.weight_decay, asked.training.learning_rate) == (0.5, 0.3)
        assert asked.training.optimizer == "adamw"
