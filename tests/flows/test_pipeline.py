"""The whole flow on a real Prefect server: files, names, artifacts, logs; and what a second run does."""

import json
import re
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from prefect.client.schemas.objects import FlowRun

from flows import cli
from flows.of_stages import ssl_pretraining
from flows.settings import Settings
from tests.phantoms import QUICK_SETTINGS, small_archive
from tests.reliability.command import zssmnet
from tests.reliability.killing import digests
from tests.runs import artifacts_of, logs_of, runs_over, sections_of, tasks_of, until
from zssmnet.data.image_io import read_image, write_image
from zssmnet.data.splits import stable_subset
from zssmnet.errors import InputError
from zssmnet.stages.pipeline import PipelineSummary, run_pipeline

SETTINGS = Settings.model_validate(tomllib.loads(QUICK_SETTINGS))


def run(archive: tuple[Path, Path], root: Path, **more: object) -> PipelineSummary:
    images, masks = archive
    return ssl_pretraining(
        str(images),
        str(masks),
        str(root),
        preparation=SETTINGS.preparation,
        cubes=SETTINGS.cubes,
        pretraining=SETTINGS.pretraining,
        **more,
    )


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Six good cases, and two that cannot be used: one without a mask, one with a truncated image."""
    images, masks = small_archive(tmp_path_factory.mktemp("archive"), cases=8)
    first, second = sorted(masks.glob("*.nii.gz"))[-2:]
    first.unlink()
    truncated = images / "imagesTr" / second.name.replace(".nii.gz", "_0001.nii.gz")
    truncated.write_bytes(truncated.read_bytes()[:3000])
    return images, masks


@pytest.fixture(scope="module")
def done(archive: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory, prefect_api: str) -> PipelineSummary:
    return run(archive, tmp_path_factory.mktemp("root") / "first run")


@pytest.fixture(scope="module")
def flow_run(done: PipelineSummary) -> FlowRun:
    """The first run, as the server knows it."""
    return runs_over(done.root)["ssl-pretraining"]


@pytest.fixture(scope="module")
def sections(flow_run: FlowRun) -> dict[str, str]:
    """The page of the first run."""
    return sections_of(flow_run)


def test_good_cases_are_prepared_and_bad_ones_left_out(done: PipelineSummary) -> None:
    prepared = done.preparation
    assert (prepared.prepared, prepared.up_to_date, len(prepared.left_out)) == (6, 0, 2)
    files = sorted(Path(done.root, "SSL", "data").glob("subset*/*.nii.gz"))
    assert len(files) == 6 * 4
    for file in files:
        case_id = file.name.removesuffix(".nii.gz").rsplit("_000", 1)[0]
        assert file.parent.name == f"subset{stable_subset(case_id)}"


def test_each_subset_has_its_cubes(done: PipelineSummary) -> None:
    for outcome in done.cubes.subsets:
        cubes = np.load(outcome.file, mmap_mode="r")
        assert cubes.shape == (2 * outcome.cases, 4, 64, 64, 16)
    assert sum(outcome.cubes for outcome in done.cubes.subsets) == 12


def test_weights_load_into_the_next_step(done: PipelineSummary, caplog: pytest.LogCaptureFixture) -> None:
    import zssmnet

    with caplog.at_level("INFO", logger="zssmnet"):
        model = zssmnet.load_pretrained(done.training.model, num_classes=2)
    assert "336 of 343 tensors" in caplog.text
    assert model.channels == (2, 2, 2, 2, 2)


def test_run_and_task_names_carry_what_they_work_on(done: PipelineSummary, flow_run: FlowRun) -> None:
    assert set(runs_over(done.root)) == {"ssl-pretraining"}
    assert re.fullmatch(r"ssl-pretraining first run \d{4}-\d\d-\d\d \d\d:\d\d", flow_run.name)
    prepared = {file.name.removesuffix("_0000.nii.gz") for file in Path(done.root).rglob("data/*/*_0000.nii.gz")}
    expected = {f"prepare-{case_id}" for case_id in prepared} | {f"cubes-subset-{subset}" for subset in range(6)}
    until(lambda: expected | {"train"} <= tasks_of(flow_run))


def test_the_page_has_a_section_a_stage(done: PipelineSummary, flow_run: FlowRun, sections: dict[str, str]) -> None:
    assert list(sections) == ["Cases", "Cubes", "Model"]
    assert sections["Cubes"] == f"12 cubes in `{done.cubes.cubes_path}`"
    assert set(artifacts_of(flow_run)) == {
        "summary",
        *(f"{stage}-progress" for stage in ("prepare", "page", "cubes", "pretrain")),
    }


def test_cases_that_are_left_out_stand_on_the_page_with_their_reasons(
    done: PipelineSummary, sections: dict[str, str]
) -> None:
    cases, page = sections["Cases"], Path(done.root, "SSL", "reports", "archive.html")
    assert cases.startswith(f"**6 of 8 cases used**, all on one page: `{page}`\n\n| left out | reason |")
    rows = [line for line in cases.splitlines() if line.startswith("| `")]
    left_out = {case_id for case_id in done.preparation.left_out if any(f"| `{case_id}` | " in row for row in rows)}
    assert left_out == set(done.preparation.left_out)
    assert any("no zonal mask" in row for row in rows)
    assert any("_0001.nii.gz" in row and "truncated" in row for row in rows)
    assert "&#62;" not in cases


def test_the_page_of_all_cases_has_each_of_them(done: PipelineSummary) -> None:
    page = Path(done.root, "SSL", "reports", "archive.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 6
    assert re.search(r"6 cases, \d with something odd, 2 left out", page)
    for case_id in done.preparation.left_out:
        assert case_id in page


def test_pictures_show_in_the_ui_itself(done: PipelineSummary, flow_run: FlowRun, sections: dict[str, str]) -> None:
    assert sections["Model"].count("](data:image/png;base64,iVBOR") == 2
    assert len(str(artifacts_of(flow_run)["summary"].data)) < 300_000
    reports = Path(done.root, "SSL", "reports")
    assert {path.name for path in reports.glob("*.html")} == {"archive.html"}
    assert {path.name for path in reports.glob("*.png")} == {"loss_curves.png", "restored_cubes.png"}
    cases = {f"subset{one.subset}" for one in done.cubes.subsets if one.cases}
    assert {path.stem for path in reports.glob("cases/*.png")} == cases


def test_the_models_record_and_the_lineage_of_its_data_show(done: PipelineSummary, sections: dict[str, str]) -> None:
    model = sections["Model"]
    assert f"validation loss **{done.training.best_validation_loss:.5f}**" in model
    assert re.search(r"\*\*explained variance -?[\d.]+% \(T2W -?[\d.]+%, ADC -?[\d.]+%, DWI -?[\d.]+%\)\*\*", model)
    assert done.training.sha256 in model
    assert f"| cases | {done.preparation.prepared} |" in model
    assert "| device | cpu, convolutions in float32 |" in model
    assert re.search(r"\| versions \| python 3\..*, torch .*, zssmnet .*, numpy .*, SimpleITK .* \|", model)
    for outcome in done.cubes.subsets:
        assert f"| {outcome.subset}, " in model
        assert Path(outcome.file).name in model
    assert f"versions/{done.training.run_id}" in model


def test_a_run_that_leaves_cases_out_looks_different(flow_run: FlowRun) -> None:
    state = flow_run.state
    assert state
    assert state.name == "Cases left out"
    assert str(state.message).startswith("6 of 8 cases used")


def test_progress_shows_how_far_the_work_is(flow_run: FlowRun) -> None:
    for key, reported in (
        ("prepare-progress", "7 of 7 cases"),
        ("page-progress", "6 of 6 cases"),
        ("cubes-progress", "6 of 6 cases"),
        ("pretrain-progress", "2 of 2 epochs · loss"),
    ):
        artifact = artifacts_of(flow_run)[key]
        assert artifact.data == 100
        assert str(artifact.description).startswith(reported), key


def test_the_librarys_log_lines_appear_in_the_runs_log(flow_run: FlowRun) -> None:
    for line in ("prepared for subset", "is left out", "epoch 2 of 2: training loss"):
        until(lambda line=line: any(line in log.message for log in logs_of(flow_run)))


def test_a_second_run_does_nothing(done: PipelineSummary, archive: tuple[Path, Path]) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path(done.root).rglob("*") if path.is_file()}
    again = run(archive, Path(done.root))
    after = {path: path.stat().st_mtime_ns for path in Path(done.root).rglob("*") if path.is_file()}
    assert after == before
    assert (again.preparation.prepared, again.preparation.up_to_date) == (0, 6)
    assert not any(outcome.is_new for outcome in again.cubes.subsets)
    assert not again.training.is_new


def test_command_and_notebook_give_the_same_files_and_weights(
    done: PipelineSummary, archive: tuple[Path, Path], tmp_path: Path
) -> None:
    images, masks = archive
    settings = tmp_path / "quick.toml"
    settings.write_text(QUICK_SETTINGS)
    words = ["--images_path", images, "--zonal_mask_path", masks, "--config", settings]
    assert zssmnet("run", *words, "--output", tmp_path / "command").status == 0
    how = {"cubes": SETTINGS.cubes, "pretraining": SETTINGS.pretraining}
    run_pipeline(images, masks, tmp_path / "notebook", **how)
    expected = digests(done.root)
    assert [digests(str(tmp_path / name)) for name in ("command", "notebook")] == [expected] * 2
    assert "SSL/pretrained_weights/ssl_mnet_zonal.model" in expected
    assert runs_over(tmp_path / "command") == {}


def test_an_added_case_leaves_the_cubes_of_all_others_as_they_were(
    done: PipelineSummary, archive: tuple[Path, Path], tmp_path: Path
) -> None:
    images, masks = small_archive(tmp_path / "more", cases=9)
    for bad in ("mask", "image"):  # the same two cases are unusable here, but for new reasons
        shutil.copytree(archive[0] if bad == "image" else archive[1], tmp_path / bad)
    new = sorted({path.name for path in masks.iterdir()} - {path.name for path in (tmp_path / "mask").iterdir()})[-1]
    shutil.copy(masks / new, tmp_path / "mask" / new)
    for channel in range(3):
        name = new.replace(".nii.gz", f"_000{channel}.nii.gz")
        shutil.copy(images / "imagesTr" / name, tmp_path / "image" / "imagesTr" / name)
    root = tmp_path / "root"
    shutil.copytree(done.root, root)
    grown = run((tmp_path / "image", tmp_path / "mask"), root)
    assert (grown.preparation.prepared, grown.preparation.up_to_date) == (1, 6)
    renewed = [outcome for outcome in grown.cubes.subsets if outcome.is_new]
    assert len(renewed) == 1
    subset = renewed[0].subset
    record = f"records/bat_2_s_64x64x16_{subset}.npy.json"
    old_order, new_order = (
        [case for case, _ in json.loads(Path(where, "SSL/generated_cubes", record).read_text())["cases"]]
        for where in (done.root, root)
    )
    old, renewed_cubes = np.load(done.cubes.subsets[subset].file), np.load(renewed[0].file)
    assert set(new_order) - set(old_order) == {new.removesuffix(".nii.gz")}
    for case_id in old_order:
        i, j = 2 * old_order.index(case_id), 2 * new_order.index(case_id)
        np.testing.assert_array_equal(old[i : i + 2], renewed_cubes[j : j + 2])


def test_strict_names_all_bad_cases_at_once_and_trains_nothing(
    archive: tuple[Path, Path], done: PipelineSummary, tmp_path: Path
) -> None:
    shutil.copytree(Path(done.root, "SSL", "data"), tmp_path / "strict" / "SSL" / "data")
    with pytest.raises(InputError) as error:
        run(archive, tmp_path / "strict", strict=True)
    assert "2 of 8 cases cannot be used" in str(error.value)
    assert "no zonal mask" in str(error.value)
    assert "truncated" in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "strict" / "SSL" / "pretrained_weights").exists()
    assert runs_over(tmp_path / "strict")["ssl-pretraining"].state_name == "Failed"


def test_warnings_fail_a_run_above_a_number(tmp_path: Path) -> None:
    images, masks = small_archive(tmp_path / "archive", cases=6)
    for file in sorted(images.rglob("*_0001.nii.gz"))[:2]:
        write_image(sitk.Cast(read_image(file), sitk.sitkFloat32) * 1e-3, str(file))
    data, page = tmp_path / "root/SSL/data", tmp_path / "root/SSL/reports/archive.html"
    prepare = ["prepare", "--images_path", images, "--zonal_mask_path", masks, "--output_path", data]
    for limit, words in (("1", ["--max-warnings", "1"]), ("0", ["--strict"])):
        failed = zssmnet(*prepare, *words)
        assert failed.status == 1
        assert f"2 of 6 cases have warnings, more than {limit}: 9" in failed.line
        assert "ADC's median in the gland is" in failed.line
        assert f"look at {page}" in failed.line
        assert page.read_text().count("seems to be in 1e-3 mm2/s") == 2
    for words in (["--strict", "--max-warnings", "2"], []):
        done = zssmnet(*prepare, *words)
        counts = "0 cases prepared, 6 up to date, 0 left out, 2 with warnings"
        assert (done.status, done.out) == (0, f"{counts}: {data}\n")


def test_verify_names_what_is_missing_changed_and_foreign(
    done: PipelineSummary, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    shutil.copytree(done.root, root)

    def verify() -> tuple[int, str]:
        with pytest.raises(SystemExit) as exit:
            cli.main(["verify", "--output", str(root)])
        return int(exit.value.code or 0), capsys.readouterr().out

    assert verify() == (0, f"{root}: every file matches its record\n")
    missing, changed = sorted((root / "SSL" / "data").glob("subset*/*_0000.nii.gz"))[:2]
    missing.unlink()
    changed.write_bytes(changed.read_bytes()[:-1] + b"?")
    foreign = root / "SSL" / "generated_cubes" / "notes.txt"
    foreign.write_text("mine")
    status, output = verify()
    assert status == 1
    found = {tuple(line.split(maxsplit=1)) for line in output.splitlines()}
    assert found == {("missing", str(missing)), ("changed", str(changed)), ("foreign", str(foreign))}


def test_verify_of_no_root_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        cli.main(["verify", "--output", str(tmp_path)])
    assert exit.value.code == 1
    assert "no record below SSL" in capsys.readouterr().err
