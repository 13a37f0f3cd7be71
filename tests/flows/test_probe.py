"""The command and flow `probe`, on the two real examinations where they are, else on synthetic ones."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.flows.test_cli import status_of
from tests.runs import runs_over, sections_of
from tests.zssmnet.probe.examples import save_weights
from zssmnet.phantom import GridSpec, write_archive
from zssmnet.probe.run import RESULT

DATA = Path(__file__).resolve().parents[3] / "shared/data"
CASE = "10503_1000512"
FEW = ["--test-cases", "1", "--tuning-cases", "0", "--labelled", "1", "--seeds", "3", "--steps", "2"]
FEW += ["--learning-rates", "0.01", "--head-factors", "20", "--device", "cpu", "--preset", "cpu"]


def real_archive(folder: Path) -> list[str]:
    """The two real examinations with their lesions, as flags."""
    if not DATA.exists():
        pytest.skip("../shared/data is not there")
    own = DATA / "lesion_case"
    images, masks, lesions = folder / "images" / "imagesTr", folder / "masks", folder / "lesions"
    for place in (images, masks, lesions):
        place.mkdir(parents=True)
    for file in (*(DATA / "nnunet_raw/imagesTr").iterdir(), *(own / "imagesTr").iterdir()):
        (images / file.name).symlink_to(file)
    for case_id, root in (("11373_1001396", DATA), (CASE, own)):
        (masks / f"{case_id}.nii.gz").symlink_to(root / "zonal_masks" / f"{case_id}.nii.gz")
        (lesions / f"{case_id}.nii.gz").symlink_to(root / "cspca_masks" / f"{case_id}.nii.gz")
    return flags(images.parent, masks, lesions)


def flags(images: Path, masks: Path, lesions: Path) -> list[str]:
    return ["--images_path", str(images), "--zonal_mask_path", str(masks), "--labels_path", str(lesions)]


def test_it_runs_through_on_the_real_examinations_and_is_not_done_again(
    tmp_path: Path, prefect_api: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    archive, weights = real_archive(tmp_path), save_weights(tmp_path / "a.model")
    command = ["probe", *archive, "--weights", weights, "--output", str(tmp_path / "out"), *FEW]
    with monkeypatch.context() as with_server:
        with_server.setenv("PREFECT_API_URL", prefect_api)
        assert status_of(*command) == 0, capsys.readouterr().err
    reported = capsys.readouterr().out
    assert "a: " in reported and "95 % interval" in reported
    first = (tmp_path / "out" / RESULT).read_bytes()
    run = runs_over(tmp_path / "out")["probe"]
    assert run.state
    assert run.state.message == json.loads(first)["verdict"]
    section = sections_of(run)["Do the weights help?"]
    assert section.startswith((tmp_path / "out" / "probe.md").read_text().strip()[:40])
    assert section.count("](data:image/png;base64,iVBOR") == 1
    trials = {file: file.stat().st_mtime_ns for file in (tmp_path / "out" / "trials").rglob("*.json")}
    assert status_of(*command) == 0
    assert (tmp_path / "out" / RESULT).read_bytes() == first
    assert {file: file.stat().st_mtime_ns for file in trials} == trials
    assert (tmp_path / "out" / "probe.png").read_bytes().startswith(b"\x89PNG")


def test_lesions_need_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = save_weights(tmp_path / "a.model")
    command = ["probe", "--images_path", str(tmp_path), "--zonal_mask_path", str(tmp_path), "--weights", weights]
    assert status_of(*command, "--output", str(tmp_path / "out")) == 2
    assert "the task 'lesions' needs --labels-path; or choose --task zones" in capsys.readouterr().err


def test_weights_and_settings_are_checked_before_the_archive(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = [
        "probe",
        *flags(tmp_path / "none", tmp_path / "none", tmp_path / "none"),
        "--output",
        str(tmp_path / "out"),
    ]
    assert status_of(*nowhere, "--weights", str(tmp_path / "mistyped.model")) == 1
    assert "mistyped.model: no such file; name the .model file" in capsys.readouterr().err
    weights = [save_weights(tmp_path / f"{name}.model") for name in "ab"]
    assert status_of(*nowhere, "--weights", ",".join(weights)) == 2
    assert "2 files for 5 seeds" in capsys.readouterr().err
    assert status_of(*nowhere, "--weights", weights[0]) == 2
    assert "have no record of their spacing; choose one with --preset: cpu, coarse, gpu" in capsys.readouterr().err


def test_a_mistyped_file_is_known_before_pytorch_is_imported(tmp_path: Path) -> None:
    words = ["probe", *flags(tmp_path, tmp_path, tmp_path), "--output", str(tmp_path), "--weights", "mistyped.model"]
    code = f"import sys; from flows.cli import main\ntry: main({words!r})\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, "mistyped.model: no such file" in done.stderr) == (1, "False\n", True)


@pytest.mark.long
def test_killed_and_started_again_it_ends_with_the_same_figures(tmp_path: Path) -> None:
    grid = GridSpec.centred((128, 128, 17), (1.0, 1.0, 3.0), (0.0, 0.0, 0.0))  # on which both cases have a lesion
    images, masks = write_archive(tmp_path / "archive", 2, grids=[grid], subtle=True)
    weights = save_weights(tmp_path / "a.model")
    command = [sys.executable, "-m", "flows.cli", "probe", *flags(images, masks, tmp_path / "archive/lesions"), *FEW]
    command += ["--weights", weights, "--seed", "0", "--output"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*command, str(whole)], env=environment, check=True, capture_output=True)
    process = subprocess.Popen([*command, str(killed)], env=environment, stdout=subprocess.DEVNULL)
    while len(list(killed.rglob("test/*.json"))) < 3 and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / RESULT).exists()
    subprocess.run([*command, str(killed)], env=environment, check=True, capture_output=True)
    first, second = (json.loads((root / RESULT).read_bytes()) for root in (whole, killed))
    assert first == second
