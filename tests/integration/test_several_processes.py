"""The command with several processes, started by itself and by torchrun: the same run, the same outcome."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.commands import Commands
from tests.zssmnet.training.examples import write_cubes

pytestmark = [pytest.mark.integration, pytest.mark.long]
RECIPE = ("--epochs", "1", "--batch-size", "4", "--channels", "2,2,2,2,2", "--device", "cpu")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "flows.cli")
COUNTS = (1, 1, 0, 1, 1, 3)
"""One batch: within rounding, all ways come to the same weights."""


def pretrain(commands: Commands, cubes: Path, weights: Path, *options: str) -> str:
    words = ["pretrain", "--data", str(cubes), "--output", str(weights), *RECIPE, *options]
    command = commands.start("flows.cli", words)
    out, err = command.communicate(1000)
    assert command.returncode == 0, err
    return out


def pretrain_by_torchrun(cubes: Path, weights: Path) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [*TORCHRUN, "pretrain", "--data", str(cubes), "--output", str(weights), *RECIPE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1000)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_one_two_and_two_of_torchrun_are_the_same_run(tmp_path: Path, commands: Commands) -> None:
    cubes = tmp_path / "cubes"
    write_cubes(cubes, COUNTS)
    reported = {
        "one": pretrain(commands, cubes, tmp_path / "one"),
        "two": pretrain(commands, cubes, tmp_path / "two", "--processes", "2"),
        "torchrun": pretrain_by_torchrun(cubes, tmp_path / "torchrun"),
    }
    models = {name: torch.load(tmp_path / name / "ssl_mnet_zonal.model", weights_only=True) for name in reported}
    runs = {name: [path.name for path in (tmp_path / name / "training").iterdir()] for name in reported}
    for name in ("two", "torchrun"):
        assert runs[name] == runs["one"]
        assert re.search(r"^best epoch 1 of 1, validation loss", reported[name], re.MULTILINE)
        assert reported[name].count("best epoch") == 1  # rank 0 alone
        for weight, expected in zip(
            models[name]["state_dict"].values(), models["one"]["state_dict"].values(), strict=True
        ):
            torch.testing.assert_close(weight, expected, rtol=1e-5, atol=1e-6)
    again = pretrain_by_torchrun(cubes, tmp_path / "torchrun")
    assert again == reported["torchrun"]  # nothing is left to do, and nobody waits for ever
