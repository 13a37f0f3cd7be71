"""Retraining on new data in this process, on a real Prefect server: what counts as new, and what does not."""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow

from flows import cli
from flows.of_stages import retrain_on_new_data
from tests.phantoms import small_archive
from tests.runs import runs_over, sections_of, tasks_of, until
from zssmnet.config import ChallengerConfig, CubesConfig, NetworkConfig
from zssmnet.errors import CheckpointError
from zssmnet.phantom import evenly_split_cases
from zssmnet.stages.retrain import RetrainingSummary

NETWORK = {"channels": (2, 2, 2, 2, 2)}


def recipe(**training: Any) -> ChallengerConfig:
    return ChallengerConfig.model_validate(
        {
            "network": NETWORK,
            "corruption": {"shuffling": {"windows": 50}},
            "training": {"epochs": 1, "learning_rate": 0.1, "batch_size": 4, "device": "cpu", **training},
        }
    )


class Group:
    """A research group: its archive, its working root."""

    def __init__(self, folder: Path) -> None:
        self.images, self.masks = small_archive(folder / "archive", 7)
        self.root = folder / "root"
        (self.late,) = {*evenly_split_cases(7)} - {*evenly_split_cases(6)}
        self.put_away = folder / "put away"
        self.put_away.mkdir()
        for file in self.files(self.late):
            file.rename(self.put_away / file.name)

    def files(self, case_id: str) -> list[Path]:
        channels = [self.images / "imagesTr" / f"{case_id}_000{channel}.nii.gz" for channel in range(3)]
        return [*channels, self.masks / f"{case_id}.nii.gz"]

    def cases(self) -> list[str]:
        return sorted(file.name.removesuffix(".nii.gz") for file in self.masks.iterdir())

    def change(self, one: str, other: str) -> None:
        """Give one case the files of another."""
        for ours, theirs in zip(self.files(one), self.files(other), strict=True):
            shutil.copyfile(theirs, ours)

    def retrain(self, config: ChallengerConfig | None = None, min_new_cases: int = 1, **more: Any) -> RetrainingSummary:
        done = retrain_on_new_data(
            str(self.images),
            str(self.masks),
            str(self.root),
            min_new_cases=min_new_cases,
            pretraining=config or recipe(),
            **{"cubes": CubesConfig(cubes_per_case=2), "margin_percent": 0.0, **more},
        )
        assert isinstance(done, RetrainingSummary)
        return done


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory, prefect_api: str) -> Group:
    return Group(tmp_path_factory.mktemp("group"))


def test_without_its_parameters_it_fails_in_one_line(prefect_api: str) -> None:
    """As a schedule or an event starts it, for which the server checks nothing."""
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(retrain_on_new_data)
        run_flow(retrain_on_new_data, flow_run=run, return_type="state")
        state = client.read_flow_run(run.id).state
    assert state
    assert (state.name, "\n" in str(state.message)) == ("Failed", False)
    assert "not given: images_path, root; set it once in the deployment's parameters" in str(state.message)


def test_too_few_cases_are_not_worth_a_training(group: Group) -> None:
    done = group.retrain(min_new_cases=7)
    assert (done.new, done.training) == (6, None)
    assert done.decision == "nothing is trained: 6 new or changed cases, fewer than 7"
    assert not group.root.exists()


def test_the_first_model_needs_no_champion(group: Group) -> None:
    done = group.retrain(cases_per_task=4)
    assert (done.new, done.changed, done.gone) == (6, 0, 0)
    first, last = group.cases()[::4]
    run = runs_over(group.root, last=True)["retrain-on-new-data"]
    several = {f"prepare-{first} and 3 more", f"prepare-{last} and 1 more"}
    until(lambda: {name for name in tasks_of(run) if name.startswith("prepare-")} == several)
    sections = sections_of(run)
    assert list(sections) == ["Data", "Cases", "Cubes", "Model", "Decision"]
    assert "- new: 6" in sections["Data"]
    assert sections["Decision"].endswith("published")
    assert done.training
    assert done.training.published
    assert done.training.champion_loss is None
    assert Path(done.training.model).read_bytes() == Path(done.training.version).read_bytes()


def test_files_written_again_with_the_same_content_are_not_new(group: Group) -> None:
    for file in group.files(group.cases()[0]):
        os.utime(file, (1, 1))
    done = group.retrain()
    assert (done.new, done.changed, done.training) == (0, 0, None)


def test_a_new_case_that_cannot_be_used_is_not_worth_a_training(group: Group) -> None:
    for file in group.files(group.late):
        file.write_bytes((group.put_away / file.name).read_bytes()[:2000])
    for _ in range(2):  # nor when it is looked at again
        done = group.retrain()
        assert (done.new, done.training) == (1, None)
        assert done.decision.endswith(f"can be used, fewer than 1; left out: {group.late}")


def test_changed_and_gone_cases_are_told_apart(group: Group) -> None:
    one, other = group.cases()[:2]
    for file in group.files(group.late):
        file.unlink()
    group.change(one, other)
    for file in group.files(group.cases()[-1]):
        file.unlink()
    done = group.retrain(recipe(learning_rate=20.0))
    run = runs_over(group.root, last=True)["retrain-on-new-data"]
    contest = sections_of(run)["Champion and challenger"]
    assert "| `training.learning_rate` | 0.1 | 20.0 |" in contest
    assert "0 new, 1 changed, 1 gone" in contest
    assert contest.count("data:image/png;base64,") == 2
    assert run.state_name in ("Published", "Not better")
    assert (done.new, done.changed, done.gone) == (0, 1, 1)
    assert done.training
    assert done.training.challenger_loss is not None
    assert done.training.champion_loss is not None
    assert done.training.published == (done.training.challenger_loss < done.training.champion_loss)


def test_another_network_than_the_champions_is_refused_before_any_work(group: Group) -> None:
    for file in group.files(group.late):
        shutil.copyfile(group.put_away / file.name, file)
    before = {path: path.stat().st_mtime_ns for path in group.root.rglob("*") if path.is_file()}
    other = NetworkConfig(channels=(3, 3, 3, 3, 3))
    with pytest.raises(CheckpointError, match=r"channels 2, 2, 2, 2, 2 .* ask for channels 3, 3, 3, 3, 3"):
        group.retrain(ChallengerConfig(network=other, training=recipe().training))
    assert {path: path.stat().st_mtime_ns for path in group.root.rglob("*") if path.is_file()} == before


def test_network_and_cubes_are_the_champions_where_no_others_are_asked_for(group: Group) -> None:
    """And one that is not better by the margin is not published."""
    config = ChallengerConfig(corruption=recipe().corruption, training=recipe(epochs=2).training)
    assert config.network.channels != NETWORK["channels"]
    done = group.retrain(config, cubes=None, margin_percent=99.0)
    assert done.training
    assert done.training.challenger_loss is not None
    assert not done.training.published
    cubes = [path.name for path in (group.root / "SSL" / "generated_cubes").glob("*.npy")]
    assert len(cubes) == 6
    assert all(name.startswith("bat_2_s_") for name in cubes)


def test_versions_are_listed_and_taken_back(group: Group, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit:
            cli.main([*words, "--output", str(group.root)])
        output = capsys.readouterr()
        return int(exit.value.code or 0), output.out, output.err

    group.change(*group.cases()[3:5])
    published = group.retrain(recipe(epochs=4)).training
    assert published
    assert published.published
    status, output, _ = run("versions")
    assert status == 0
    lines = output.splitlines()
    assert [line[0] for line in lines] == [" "] * (len(lines) - 1) + ["*"]
    assert published.run_id in lines[-1]
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d  validation loss [\d.]+ on cubes [0-9a-f]{8}  \d+ cases", lines[-1])
    replaced = lines[-1].split("replaces ")[1]
    assert run("rollback")[0] == 0
    assert f"* {replaced}" in run("versions")[1]
    status, _, error = run("rollback", "--to", "0123456789ab")
    assert status == 1
    assert "no version 0123456789ab" in error
    assert run("rollback", "--to", published.run_id)[0] == 0
    assert run("verify")[0] == 0
