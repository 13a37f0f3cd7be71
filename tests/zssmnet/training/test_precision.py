"""Device, precision and compilation."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from tests.zssmnet.training.examples import CPU, cubes_of, small_config
from zssmnet.errors import InputError
from zssmnet.mnet import MNet
from zssmnet.registry.runs import decisive
from zssmnet.storage import LocalStorage
from zssmnet.training import fit, precision
from zssmnet.training.batches import StreamedCubes
from zssmnet.training.checkpoint import BEST, LAST, content_of, load_content
from zssmnet.training.dataset import CubeSet
from zssmnet.training.epoch import train_epoch
from zssmnet.training.precision import (
    COMPILED_FROM,
    accelerated,
    choose_compile,
    choose_device,
    choose_precision,
    gpu_settings,
    is_captured,
)
from zssmnet.training.step import Step
from zssmnet.training.trainer import Trainer, initial_state

TRAINING, VALIDATION = CubeSet([cubes_of(5)]), CubeSet([cubes_of(3, seed=9)])
INPUT = torch.rand(2, 6, 4, 16, 16, generator=torch.Generator().manual_seed(0))


def network(**recipe):
    config = small_config(**recipe)
    return accelerated(initial_state(config, CPU).model, CPU, config.training)


class TestPrecision:
    def test_auto_is_float32_on_a_cpu(self) -> None:
        assert choose_precision(small_config().training, CPU) == "float32"

    def test_float32_is_the_plain_network(self) -> None:
        plain = initial_state(small_config(), CPU).model
        assert torch.equal(network()(INPUT), plain(INPUT))

    def test_bfloat16_answers_in_float32_from_float32_weights(self) -> None:
        rounded = network(precision="bfloat16")
        answer = rounded(INPUT)
        assert answer.dtype == torch.float32
        assert torch.equal(answer, answer.bfloat16().float())
        assert {weight.dtype for weight in rounded.parameters()} == {torch.float32}
        assert not torch.equal(answer, network()(INPUT))

    def test_float32_uses_no_tf32_and_leaves_pytorchs_choice_as_it_was(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = {}
        for chosen in ("float32", "tf32"):
            config = small_config(precision=chosen)
            trained = Trainer(initial_state(config, CPU), TRAINING, VALIDATION, config)
            forward, before = MNet.forward, flags()

            def watched(model: MNet, x: torch.Tensor, chosen: str = chosen, forward: Any = forward) -> Any:
                seen.setdefault(chosen, set()).add(flags())
                return forward(model, x)

            with monkeypatch.context() as patch:
                patch.setattr(MNet, "forward", watched)
                trained.epoch()
            assert flags() == before
        assert seen == {"float32": {("ieee", "ieee", True, False)}, "tf32": {("tf32", "tf32", True, False)}}
        with pytest.raises(KeyError), gpu_settings(before[0] != "tf32"):
            raise KeyError
        assert flags() == before

    @pytest.mark.parametrize(
        "chosen",
        [
            "torch.backends",
            pytest.param("torch.backends.cudnn.conv", marks=pytest.mark.long),
            pytest.param("torch.backends.cuda.matmul", marks=pytest.mark.long),
        ],
    )
    def test_a_program_that_chose_by_pytorchs_new_way_trains(self, chosen: str) -> None:
        """In a process of its own: once used, the new way stays in use."""
        asked = "tuple({'none': 'ieee'}.get(one, one) for one in (c.conv.fp32_precision, m.fp32_precision))"
        lines = [
            "import torch",
            f"{chosen}.fp32_precision = 'tf32'",
            "from zssmnet.training.precision import gpu_settings",
            "c, m = torch.backends.cudnn, torch.backends.cuda.matmul",
            f"before = {asked}",
            f"with gpu_settings(tf32=False): assert {asked} == ('ieee', 'ieee'), {asked}",
            f"with gpu_settings(tf32=True): assert {asked} == ('tf32', 'tf32'), {asked}",
            f"assert {asked} == before, {asked}",
        ]
        subprocess.run([sys.executable, "-W", "ignore", "-c", "\n".join(lines)], check=True)

    def test_deterministic_algorithms_are_not_tried_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
        before = flags()
        with gpu_settings(tf32=False, deterministic=True):
            assert flags()[2:] == (False, True)
            assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert flags() == before

    def test_float16s_scale_adapts_skips_and_is_kept_in_the_checkpoint(self) -> None:
        """A scale that overflows is halved, and its step left out; the checkpoint has what it came to."""
        config = small_config(precision="float16", epochs=1)
        state = initial_state(config, CPU)
        before = [weight.clone() for weight in state.model.parameters()]
        state.scaler.load_state_dict(state.scaler.state_dict() | {"scale": 2.0**60})
        step = Step(accelerated(state.model, CPU, config.training), config.corruption)
        cubes = StreamedCubes(CubeSet([cubes_of(2)]), CPU)
        train_epoch(step, state.optimizer, cubes, 2, state.generator, lambda *_: None, scaler=state.scaler)
        assert state.scaler.get_scale() == 2.0**59
        assert all(map(torch.equal, before, state.model.parameters()))
        resumed = initial_state(config, CPU)
        load_content(resumed, content_of(state))
        assert resumed.scaler.get_scale() == 2.0**59

    def test_float16_scales_the_loss_and_its_gradients_are_those_of_float32(self) -> None:
        """To float16's rounding: what multiplies the loss divides its gradients."""
        cubes, gradients = CubeSet([cubes_of(5, size=(32, 32, 4))]), {}
        for chosen in ("float32", "float16"):
            config = small_config(precision=chosen, learning_rate=1e-6)
            state = initial_state(config, CPU)
            Trainer(state, cubes, cubes, config).epoch()
            buffers = [buffers["momentum_buffer"].flatten() for buffers in state.optimizer.state.values()]
            gradients[chosen] = torch.cat(buffers)
        cosine = torch.cosine_similarity(gradients["float32"], gradients["float16"], dim=0)
        assert cosine > 0.9
        assert float(gradients["float16"].norm()) == pytest.approx(float(gradients["float32"].norm()), rel=0.2)

    def test_only_a_chosen_precision_is_part_of_a_runs_identity(self) -> None:
        """Runs of earlier programs, which knew no precision, are continued."""
        assert "precision" not in decisive(small_config())["training"]
        assert decisive(small_config(precision="bfloat16"))["training"]["precision"] == "bfloat16"
        same = [{"processes": 2}, {"compile": "default"}, {"cubes_in": "device"}, {"device": "cuda"}]
        assert all(decisive(small_config(**one)) == decisive(small_config()) for one in same)

    def test_settings_that_are_new_decide_only_where_they_are_chosen(self) -> None:
        new = {"optimizer": "adamw", "weight_decay": 0.1, "schedule": "cosine", "warm_up_epochs": 2}
        new |= {"calibrated_head": True}
        assert not set(new) & set(decisive(small_config())["training"])
        assert "zone_task" not in decisive(small_config())["corruption"]
        assert "preset" not in decisive(small_config(preset="adamw"))["training"]
        assert all(decisive(small_config(**{name: value}))["training"][name] == value for name, value in new.items())
        cosines = [decisive(small_config(schedule="cosine", epochs=epochs)) for epochs in (2, 3)]
        assert cosines[0] != cosines[1]  # the number of epochs shapes it


class TestLossCurve:
    @pytest.mark.long
    def test_bfloat16_learns_as_float32_does(self) -> None:
        """Over 72 steps the two curves lie as close as those of two seeds, and fall alike."""
        curves = {}
        for name, recipe in {
            "float32": {},
            "another seed": {"seed": 1},
            "bfloat16": {"precision": "bfloat16"},
        }.items():
            config = small_config(batch_size=4, learning_rate=0.3, halve_every=100, **recipe)
            training = CubeSet([cubes_of(24, seed=3)])
            trainer = Trainer(initial_state(config, CPU), training, VALIDATION, config)
            curves[name] = np.array([trainer.epoch().train_loss for _ in range(12)])
        falls = {name: curve[:3].mean() - curve[-3:].mean() for name, curve in curves.items()}
        apart = np.abs(_smooth(curves["bfloat16"]) - _smooth(curves["float32"])).max()
        assert falls["float32"] > 0.01
        assert falls["bfloat16"] == pytest.approx(falls["float32"], rel=0.3)
        assert apart < max(np.abs(_smooth(curves["another seed"]) - _smooth(curves["float32"])).max(), 0.002)


class TestCompilation:
    @pytest.mark.parametrize(
        ("chosen", "options"),
        [("off", None), ("cudagraphs", None), ("default", {"mode": "default"})],
    )
    def test_is_asked_for_as_pytorch_calls_it(self, chosen: str, options, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []
        monkeypatch.setattr(torch.nn.Module, "compile", lambda module, **options: asked.append(options))
        network(compile=chosen)
        assert asked == ([options | {"dynamic": False}] if options else [])

    @pytest.mark.parametrize(
        ("asked", "device", "steps", "mode"),
        [
            ("auto", "cuda", COMPILED_FROM, "reduce-overhead"),
            ("auto", "cuda", COMPILED_FROM - 1, "off"),
            ("auto", "cpu", COMPILED_FROM, "off"),
            ("default", "cpu", 1, "default"),
            ("off", "cuda", COMPILED_FROM, "off"),
            ("cudagraphs", "cuda", COMPILED_FROM, "off"),
        ],
    )
    def test_is_chosen_where_it_pays(
        self, asked: str, device: str, steps: int, mode: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(precision, "_can_compile", lambda device: True)
        recipe = small_config(compile=asked).training
        assert choose_compile(recipe, torch.device(device), steps) == mode
        assert is_captured(recipe, torch.device(device)) == (asked == "cudagraphs")
        assert not is_captured(recipe, CPU)

    def test_is_left_out_with_a_warning_where_it_does_not_work(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(*_: object, **options: object) -> None:
            raise RuntimeError("Failed to find C compiler.\nMore of it")

        monkeypatch.setattr(torch, "compile", fail)
        assert choose_compile(small_config().training, torch.device("cuda"), COMPILED_FROM) == "off"
        assert "torch.compile does not work here (Failed to find C compiler.); with" in caplog.text

    @pytest.mark.long
    def test_is_done_twice_and_checkpoints_hold_the_plain_networks_names(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By a real run, but for the compiler's back end, which would take minutes here.

        Training is one graph and validation another, though the last batch of five validation cubes is half empty.
        """
        compiling, graphs = torch.nn.Module.compile, CompileCounterWithBackend("eager")
        monkeypatch.setattr(
            torch.nn.Module, "compile", lambda module, **_: compiling(module, backend=graphs, dynamic=False)
        )
        plain, compiled = (
            fit.fit(TRAINING, TRAINING, small_config(epochs=1, compile=mode), LocalStorage(tmp_path / mode))
            for mode in ("off", "default")
        )
        assert graphs.frame_count == 2
        torch.testing.assert_close(compiled.model.state_dict(), plain.model.state_dict(), rtol=1e-3, atol=1e-5)
        for name in (LAST, BEST):
            found = [torch.load(tmp_path / mode / name, weights_only=True) for mode in ("off", "default")]
            weights, momenta = ([one[part] for one in found] for part in ("state_dict", "optimizer_state_dict"))
            assert list(weights[0]) == list(weights[1]) == list(MNet(6, 3, (2, 2, 2, 2, 2)).state_dict())
            assert momenta[0]["param_groups"] == momenta[1]["param_groups"]
            assert momenta[0]["state"].keys() == momenta[1]["state"].keys()


class TestDevice:
    def test_of_each_process_is_a_gpu_of_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        chosen: list[int] = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
        assert choose_device("cuda", 2) == torch.device("cuda:2")
        assert choose_device("cpu", 2) == CPU
        assert chosen == [2]
        with pytest.raises(InputError, match=r"process 3 of this machine .* it sees 3"):
            choose_device("cuda", 3)

    def test_a_process_that_sees_one_gpu_alone_takes_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As SLURM arranges it: LOCAL_RANK is 1, and the GPU's number 0."""
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        assert choose_device("cuda", 1) == torch.device("cuda")

    def test_no_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(InputError, match="no CUDA device"):
            choose_device("cuda")


def flags() -> tuple[str, str, bool, bool]:
    """How convolutions and products round (by PyTorch's new way, which sees what the old one chose), and cuDNN's ways.

    What is off by default and what was switched off are one.
    """
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    rounding = ("ieee" if one == "none" else one for one in (cudnn.conv.fp32_precision, products.fp32_precision))
    return (*rounding, cudnn.benchmark, cudnn.deterministic)


def _smooth(curve: np.ndarray) -> np.ndarray:
    return np.convolve(curve, np.ones(5) / 5, mode="valid")
