"""A probe as a whole: what is compared, what is refused, what stays the same after an interruption."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.zssmnet.interruption import leave_half_written
from tests.zssmnet.probe.examples import CHANNELS, as_read, made_cases, read_arms, save_weights, small_probe
from tests.zssmnet.training.examples import small_config, write_cubes
from zssmnet.config import NetworkConfig
from zssmnet.data.archive import patient_of
from zssmnet.errors import CaseError, CheckpointError, ConfigError, InputError
from zssmnet.finetuning.loss import WithFrequencies, class_frequencies
from zssmnet.handoff.weights import HEADS, read_weights
from zssmnet.mnet import MNet
from zssmnet.probe.arms import MANY, Arm, all_arms, build_network, read_arm
from zssmnet.probe.labels import LabelledCase, LabelledCases, split_cases
from zssmnet.probe.note import note_verdict, notes_of
from zssmnet.probe.result import ProbeResult
from zssmnet.probe.run import RESULT, check_arms, compare_arms
from zssmnet.probe.trials import LearningRate, Trial, Trials
from zssmnet.registry.runs import train_and_publish
from zssmnet.registry.versions import MODEL
from zssmnet.report.probe import probe_picture, probe_table
from zssmnet.storage import LocalStorage
from zssmnet.storage.records import publish_record
from zssmnet.storage.verification import verify_stage

CASES = made_cases(20)
CPU = torch.device("cpu")
NETWORK = NetworkConfig(channels=CHANNELS)
QUICK = small_probe(labelled=2, steps=1)


class TestSides:
    def test_no_patient_is_on_two_sides_and_none_that_the_weights_know_is_tested(self) -> None:
        cases = [*CASES, *(replace(case, id=f"{patient_of(case.id)}_2") for case in CASES)]
        known = {f"{number}" for number in range(8)}
        sides = split_cases(as_read(cases), known, small_probe(task="zones"))
        patients = [{patient_of(case.id) for case in side} for side in (sides.test, sides.tuning, sides.pool)]
        assert not patients[0] & patients[1] | patients[0] & patients[2] | patients[1] & patients[2]
        assert not patients[0] & known

    def test_labelled_cases_are_nested_and_no_two_seeds_share_one(self) -> None:
        sides = split_cases(as_read(made_cases(40)), (), small_probe())
        sets = [{case.id for case in sides.labelled(4, seed)} for seed in (-2, -1, 0, 1, 2)]
        assert len(set.union(*sets)) == 20
        assert sides.labelled(2, 0) == sides.labelled(4, 0)[:2]
        assert len(set(map(id, sides.labelled(8, 1)))) == 8

    def test_where_they_are_too_few_sets_overlap_and_it_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        sides = split_cases(as_read(CASES), (), small_probe(labelled=6))
        assert len(sides.pool) == 13 and "do not cover other labelled cases" in caplog.text

    def test_only_the_cases_that_are_used_are_read_and_a_bad_one_is_replaced(self) -> None:
        cases, read = as_read(made_cases(200)), list[str]()
        first = split_cases(cases, (), small_probe())

        def reading(case_id: str) -> LabelledCase:
            read.append(case_id)
            if case_id == first.test[0].id:
                raise CaseError(case_id, "file", "damaged")
            return cases.read(case_id)

        split = split_cases(LabelledCases(cases.ids, reading), (), small_probe())
        assert len(read) == 5 + 2 + (3 + 2) * 4 + 1
        assert [case.id for case in split.test[:4]] == [case.id for case in first.test[1:]]

    @pytest.mark.parametrize("known", [0, 17])
    def test_too_few_cases_are_an_error(self, known: int) -> None:
        config = small_probe(test_cases=5 if known else 16)
        with pytest.raises(InputError, match=rf"20 labelled cases, {20 - known} of them unknown to the weights"):
            split_cases(as_read(CASES), {f"{number}" for number in range(known)}, config)


class TestArms:
    def test_what_each_arm_begins_with(self, tmp_path: Path) -> None:
        weights = read_weights(save_weights(tmp_path / "a.model"))
        kinds = ("scratch", "again", "weights", "permuted")
        states = {
            kind: build_network(
                Arm(kind, kind, (weights,) if kind in kinds[2:] else ()), 3, 2, NETWORK, CPU
            ).state_dict()
            for kind in kinds
        }
        for name, scratch in states["scratch"].items():
            if name.startswith(HEADS):  # new heads are those of scratch
                assert torch.equal(states["weights"][name], scratch) and torch.equal(states["permuted"][name], scratch)
            else:
                assert torch.equal(states["weights"][name], weights.tensors[name])
                permuted = states["permuted"][name]
                assert torch.equal(permuted.flatten().sort().values, weights.tensors[name].flatten().sort().values)
        convolution = "down22.CB2d.conv1.conv.weight"
        assert not torch.equal(states["permuted"][convolution], states["weights"][convolution])
        assert not torch.equal(states["again"][convolution], states["scratch"][convolution])

    def test_several_trainings_are_one_arm_of_which_each_seed_takes_one(self, tmp_path: Path) -> None:
        (both,) = read_arms(",".join(save_weights(tmp_path / f"{name}.model", seed) for seed, name in enumerate("ab")))
        assert both.name == "a and 1 more"
        (arm,) = (one for one in all_arms([both]) if one.kind == "weights")
        for seed in range(3):
            body = build_network(arm, seed, 2, NETWORK, CPU).state_dict()
            assert all(torch.equal(body[name], tensor) for name, tensor in both.weights[seed % 2].body.items())
        with pytest.raises(ConfigError, match=r"a and 1 more: 2 files for 3 seeds.*one for each seed, or one file"):
            check_arms([both], small_probe())

    def test_a_network_answers_with_the_classes_frequencies_before_it_has_learnt(self) -> None:
        frequencies = class_frequencies(CASES, 2)
        voxels = torch.cat([case.label_ZYX.flatten() for case in CASES])
        assert frequencies[1].item() == pytest.approx(voxels.float().mean().item(), rel=0.01)
        silent = build_network(Arm("scratch", "scratch"), 0, 2, NETWORK, CPU)
        torch.nn.init.zeros_(silent.outputs[0].weight)
        found = WithFrequencies(silent, frequencies)(CASES[0].input_CZYX[None]).softmax(dim=1)
        torch.testing.assert_close(found, frequencies[:, None, None, None].expand_as(found[0])[None])


@dataclass(frozen=True)
class Poor:
    """Weights that have learnt nothing, as their record says, and what a probe of them finds all the same."""

    storage: LocalStorage
    run_id: str
    result: ProbeResult

    @property
    def path(self) -> str:
        return f"{self.storage.uri}/{MODEL}"


@pytest.fixture(scope="module")
def poor(tmp_path_factory: pytest.TempPathFactory) -> Poor:
    folder = tmp_path_factory.mktemp("poor")
    weights, data = LocalStorage(folder / "w"), write_cubes(folder / "cubes")
    record, _ = train_and_publish(data, weights, small_config(epochs=1))
    learnt_nothing = {"metrics": record.metrics | {"explained_variance": -0.037}}
    publish_record(weights, MODEL, record.model_copy(update=learnt_nothing))
    arm = read_arm(str(folder / "w" / MODEL), force=True)
    result = compare_arms(as_read(CASES), [arm], LocalStorage(folder / "out"), QUICK)
    return Poor(weights, record.run_id, result)


class TestProbe:
    def test_ends_with_a_result_that_can_be_read_drawn_and_described(self, tmp_path: Path) -> None:
        plans, trials = [], []
        weights = read_arms(save_weights(tmp_path / "a.model"))
        config = small_probe(labelled=2, steps=1, learning_rates=(0.01, 0.1), head_factors=(20,))
        result = compare_arms(
            as_read(CASES),
            weights,
            LocalStorage(tmp_path / "out"),
            config,
            on_plan=lambda *plan: plans.append(plan),
            on_trial=trials.append,
        )
        assert ProbeResult.model_validate_json((tmp_path / "out" / RESULT).read_bytes()) == result
        assert set(result.arms()) == {"scratch", "scratch again", "a", "a, permuted", MANY, "ridge", "DWI - ADC"}
        assert set(result.learning_rates) == set(result.arms()[:4])  # scratch again chooses for itself
        ((count, seconds),) = plans
        assert count == len(trials) == 4 * 2 * 2 + 4 * 3 + 3 and seconds > 0
        assert set(result.test_cases) == set(result.trials[0].cases)
        table = probe_table(result)
        assert {one.verdict for one in result.verdicts} == {"cannot tell"}
        assert "(c) no positive control" in result.verdict
        assert "no verdict counts" in table and "no positive control" in table
        assert "| a |" not in table and "| scratch |" in table  # no table of recipes
        assert "no record of its training cases" in table
        assert probe_picture(result).startswith(b"\x89PNG")

    def test_interrupted_and_started_again_it_ends_with_the_same_figures(self, poor: Poor, tmp_path: Path) -> None:
        done: list[Any] = []

        def stop(trial: Any) -> None:
            done.append(trial)
            if len(done) == 7:
                raise KeyboardInterrupt

        weights = [read_arm(poor.path, force=True)]
        with pytest.raises(KeyboardInterrupt):
            compare_arms(as_read(CASES), weights, LocalStorage(tmp_path), QUICK, on_trial=stop)
        files = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.json")}
        assert len(files) == 7
        left = [leave_half_written(folder) for folder in (tmp_path, tmp_path / "trials")]
        assert compare_arms(as_read(CASES), weights, LocalStorage(tmp_path), QUICK) == poor.result
        assert {file: file.stat().st_mtime_ns for file in files} == files
        assert not any(one.exists() for one in left)

    def test_weights_that_learnt_nothing_are_refused_unless_forced(self, poor: Poor, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"explained variance is -3\.7%.*--force"):
            read_arm(poor.path)
        assert poor.result.weights[0].explained == (-0.037,)
        assert note_verdict(poor.path, poor.result.verdicts[0], poor.result)
        (note,) = notes_of(poor.storage, poor.run_id)
        assert (note.task, note.verdict, note.sentence) == (
            "lesions",
            "cannot tell",
            poor.result.verdicts[0].sentence,
        )
        assert verify_stage(poor.storage, ("training/",)) == []
        assert not note_verdict(save_weights(tmp_path / "foreign.model"), poor.result.verdicts[0], poor.result)

    def test_weights_of_two_networks_or_twice_the_same_are_errors(self, tmp_path: Path) -> None:
        torch.save({"state_dict": MNet(6, 3, (2, 2, 2, 2, 3)).state_dict()}, tmp_path / "b.model")
        one, output = save_weights(tmp_path / "a.model"), LocalStorage(tmp_path / "out")
        with pytest.raises(CheckpointError, match="probe weights of one network"):
            compare_arms(as_read(CASES), read_arms(one, str(tmp_path / "b.model")), output, small_probe())
        with pytest.raises(ConfigError, match="name each file once"):
            compare_arms(as_read(CASES), read_arms(one, one), output, small_probe())


def test_a_rate_is_chosen_that_is_good_and_none_with_which_every_other_training_fails(tmp_path: Path) -> None:
    """Simulated: one candidate is the best, one is better still but fails with every other seed, the rest are worse."""
    config = small_probe(learning_rates=(0.001, 0.003, 0.01, 0.02), head_factors=(1, 20))
    split = split_cases(as_read(CASES), (), config)
    rng, chosen = np.random.default_rng(0), list[LearningRate]()
    for _ in range(40):
        trials = Trials(split, NETWORK, config, LocalStorage(tmp_path), lambda trial: None)
        best, tempting = trials.candidates()[1], trials.candidates()[6]

        def of(arm: Arm, labelled: int, rate: LearningRate, seed: int, side: str) -> Trial:
            truth = {best: 0.7, tempting: 0.75 if seed == -1 else 0.2}.get(rate, 0.6)  # noqa: B023
            figures = {str(n): {"ap": truth + 0.05 * float(one)} for n, one in enumerate(rng.normal(size=8))}
            return Trial(arm=arm.name, labelled=labelled, seed=seed, rate=rate, cases=figures)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Trials, "trial", lambda self, *given: of(*given))
            chosen.append(trials.tuned(Arm("scratch", "scratch")))
    assert chosen.count(best) >= 38 and tempting not in chosen
