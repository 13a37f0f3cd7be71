"""The command line: help, flags, exit statuses."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from flows import cli
from zssmnet.config import TrainingConfig

COMMANDS = tuple(cli.COMMANDS)


def status_of(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit:
        cli.main(arguments)
    return int(exit.value.code or 0)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_names_every_flag(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(*([command] if command else []), "--help") == 0
    text = capsys.readouterr().out
    assert "usage: zssmnet" in text
    assert f"example:\n  zssmnet {command}" in text
    if not command:
        assert all(name in text for name in COMMANDS)


def test_help_needs_nothing_slow() -> None:
    """Torch, Prefect and SimpleITK take seconds to import: --help must answer without them."""
    code = (
        "import sys; from flows import cli\n"
        "try: cli.main(['run', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'prefect', 'SimpleITK', 'numpy', 'rich'} & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["prepare"],
        ["unknown"],
        ["cubes", "--data", "a", "--save", "b", "--fold", "6"],
        ["pretrain", "--data", "a", "--output", "b", "--channels", "32,x"],
        ["pretrain", "--data", "a", "--output", "b", "--device", "tpu"],
        ["pretrain", "--data", "a", "--output", "b", "--epochs", "0"],
        ["pretrain", "--data", "a", "--output", "b", "--channels", "32,48"],
        ["run", "--images_path", "a", "--zonal_mask_path", "b", "--output", "c", "--config", "missing.toml"],
        ["demo", "--cases", "3"],
    ],
)
def test_wrong_usage_exits_with_2_and_says_why(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(*arguments) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.match(r"zssmnet( \w+)?: error: .+", last)


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_in_the_help_are_taken(command: str) -> None:
    assert cli._parser().parse_args([command, *shlex.split(cli.COMMANDS[command].example)]).command == command


def test_flags_show_the_description_the_choices_and_the_default_of_their_field(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status_of("pretrain", "--help")
    text = " ".join(capsys.readouterr().out.split())
    for name, default in (("batch_size", "24"), ("seed", "0"), ("device", "auto")):
        description = TrainingConfig.model_fields[name].description
        assert f"{description} (default: {default})" in text
    assert "--merge {sub,sum,cat}" in text


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of("--version") == 0
    assert re.fullmatch(r"zssmnet \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize("spelling", ["--images_path", "--images-path"])
@pytest.mark.parametrize("output", ["--output_path", "--output-path", "--output"])
def test_flags_are_taken_with_hyphens_and_underscores(spelling: str, output: str) -> None:
    options = cli._parser().parse_args(["prepare", spelling, "images", "--zonal-mask-path", "masks", output, "out"])
    given = (options.images_path, options.zonal_mask_path, options.output_path)
    assert given == tuple(str(Path.cwd() / name) for name in ("images", "masks", "out"))


def test_addresses_are_taken_from_where_the_user_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    for given, meant in (("root", f"{tmp_path}/root"), ("~/root", "/home/me/root"), ("s3://a/b", "s3://a/b")):
        assert cli._parser().parse_args(["verify", "--output", given]).output == meant
    assert cli._parser().parse_args(["demo"]).output == f"{tmp_path}/demo"


def test_input_at_fault_exits_with_1_and_one_line(tmp_path: Path, prefect_api: str) -> None:
    """And where Dask is not asked for, nothing of it is imported."""
    missing = str(tmp_path / "missing")
    words = ["prepare", "--images_path", missing, "--zonal_mask_path", missing, "--output_path", missing]
    code = (
        "import sys; from flows import cli\n"
        f"try: cli.main({words})\n"
        "finally: print(sorted({'dask', 'distributed', 'prefect_dask'} & set(sys.modules)))"
    )
    environment = os.environ | {"PREFECT_API_URL": prefect_api}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "[]\n")
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("zssmnet: ")]
    assert line.startswith(f"zssmnet: error: {missing}: no such folder")
    assert "Traceback" not in done.stderr


def test_stages_one_by_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The three commands of the published documentation, on the folders that they are given."""
    from tests.phantoms import QUICK_SETTINGS, small_archive

    images, masks = small_archive(tmp_path)
    settings = tmp_path / "quick.toml"
    settings.write_text(QUICK_SETTINGS)
    data, cubes, weights = (str(tmp_path / name) for name in ("data", "cubes", "weights"))
    archive = ["--images_path", str(images), "--zonal_mask_path", str(masks)]
    assert status_of("prepare", *archive, "--output_path", data) == 0
    assert capsys.readouterr().out == f"6 cases prepared, 0 up to date, 0 left out: {data}\n"
    assert status_of("cubes", "--fold", "2", "--scale", "2", "--data", data, "--save", cubes) == 0
    assert capsys.readouterr().out == f"2 cubes in 1 subsets: {cubes}\n"
    assert status_of("pretrain", "--data", cubes, "--output", weights) == 1
    assert "bat_2_s_64x64x16_0.npy is missing" in capsys.readouterr().err
    assert status_of("cubes", "--scale", "2", "--data", data, "--save", cubes) == 0
    capsys.readouterr()
    pretrain = ["pretrain", "--data", cubes, "--output", weights, "--config", str(settings)]
    assert status_of(*pretrain, "--epochs", "1") == 0
    assert "best epoch 1 of 1" in capsys.readouterr().out
    assert Path(weights, "ssl_mnet_zonal.model").is_file()
    assert Path(weights, "reports", "restored_cubes.png").is_file()
