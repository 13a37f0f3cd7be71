"""Labelled cases to networks to masks: what is kept, what is continued, what is refused."""

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from tests.phantoms import small_archive
from zssmnet.config import ZONES_SCALES, SegmentConfig, ZonesConfig, ZonesScale
from zssmnet.data.archive import take_inventory
from zssmnet.data.image_io import array_of, image_like, read_image, write_image
from zssmnet.errors import ArchiveError, CheckpointError, ConfigError, InputError
from zssmnet.handoff.weights import read_weights
from zssmnet.mnet import MNet
from zssmnet.runner import PlainRunner, Progress
from zssmnet.stages.pipeline import run_pipeline
from zssmnet.stages.segment_zones import SegmentSummary, segment_zones
from zssmnet.stages.train_zones import ZonesSummary, train_zones
from zssmnet.storage import open_storage
from zssmnet.storage.verification import verify_root
from zssmnet.zones import ensemble, training, views
from zssmnet.zones.masks import PARTS
from zssmnet.zones.model import find_model

CONFIG = ZonesConfig(preset="cpu", members=2, device="cpu")
CPU = SegmentConfig(device="cpu", bound=0.0)


@pytest.fixture(autouse=True, scope="module")
def small_scale() -> Iterator[None]:
    """Networks and windows as small as they can be, and one thread, which is faster then."""
    small = ZonesScale(spacing_mm=(2.0, 2.0, 3.3), window=(16, 16, 4), batch_size=1, kernels=(2, 2, 2, 2, 2), epochs=2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ZONES_SCALES, "cpu", small)
        patch.setattr(views, "FINDER_SPACING_MM", (4.0, 4.0, 4.0))
        patch.setattr(training, "STEPS", 2)
        for module in (views, ensemble, training):
            patch.setattr(module, "FINDER_WINDOW", (16, 16, 4))
        yield
    torch.set_num_threads(threads)


def train(
    archive: tuple[Path, Path], root: Path, progress: Progress | None = None, weights: Path | None = None
) -> ZonesSummary:
    return train_zones(*archive, root, weights, config=CONFIG, runner=PlainRunner(progress))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return small_archive(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "a.model"
    torch.manual_seed(3)
    torch.save({"state_dict": MNet(6, 3, (2, 2, 2, 2, 2)).state_dict()}, file)
    return file


@pytest.fixture(scope="module")
def root(archive: tuple[Path, Path], weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    train(archive, root, weights=weights)
    return root


def digests(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*.nii.gz"))
    }


class Stop(Progress):
    """Ends a stage after so many steps, as an interrupt does."""

    def __init__(self, after: int) -> None:
        self.left = after

    def advance(self, stage: str, steps: int = 1, earlier: bool = False) -> None:
        self.left -= steps
        if self.left <= 0:
            raise KeyboardInterrupt


class TestTraining:
    def test_every_labelled_case_is_held_out_once_and_the_record_and_the_page_say_how_well(self, root: Path) -> None:
        weights = open_storage(root / "SSL/zones_model")
        model = find_model(weights)
        assert model and model.number == 1 and model.replaces is None
        assert len({one.case_id for one in model.held_out}) == len(model.held_out) == 6
        assert {one.member for one in model.held_out} == {0, 1}
        assert len(model.inputs) == 13 and model.inputs[-1].name == "weights"  # T2W and the mask of each case
        page = (root / "SSL/reports/zones.html").read_text()
        dices = {one.case_id: [one.figures[f"dice_{part}"] or 0.0 for part in PARTS] for one in model.held_out}
        worst = min(sorted(dices), key=lambda case_id: min(dices[case_id]))
        assert page.index(worst) == min(page.index(one.case_id) for one in model.held_out)
        assert verify_root(str(root)) == []

    def test_it_is_not_done_twice_and_interrupted_it_ends_with_the_same_networks(
        self, archive: tuple[Path, Path], root: Path, weights: Path, tmp_path: Path
    ) -> None:
        model = root / "SSL/zones_model/zones.model"
        before = model.stat().st_mtime_ns
        assert not train(archive, root, weights=weights).is_new and model.stat().st_mtime_ns == before
        for after in (2, 5):  # in the finder of the first member, in the second member
            with pytest.raises(KeyboardInterrupt):
                train(archive, tmp_path, Stop(after), weights)
        assert train(archive, tmp_path, weights=weights).is_new
        assert (tmp_path / "SSL/zones_model/zones.model").read_bytes() == model.read_bytes()

    def test_weights_that_saw_more_channels_see_zeros_in_them(self, weights: Path) -> None:
        whole, first = (MNet(channels, 3, (2, 2, 2, 2, 2)).double() for channels in (6, 1))
        whole.load_state_dict(read_weights(weights).tensors)
        first.load_state_dict(read_weights(weights).with_channels(1).tensors)
        t2w = torch.rand(1, 1, 4, 16, 16, dtype=torch.float64)
        blank = torch.cat([t2w, torch.zeros(1, 5, 4, 16, 16, dtype=torch.float64)], dim=1)
        torch.testing.assert_close(first(t2w), whole(blank))

    def test_one_patient_or_one_zone_is_too_little(self, archive: tuple[Path, Path], tmp_path: Path) -> None:
        images, masks = archive
        (tmp_path / "one").mkdir()
        first, *others = sorted(masks.glob("*.nii.gz"))
        shutil.copy(first, tmp_path / "one")
        with pytest.raises(InputError, match=r"1 labelled cases of 1 patients .*at least two patients"):
            train((images, tmp_path / "one"), tmp_path / "root")
        for file in others:
            mask = read_image(file)
            write_image(image_like((array_of(mask) == 1).astype(np.uint8), mask), tmp_path / "one" / file.name)
        with pytest.raises(InputError, match=r"1 labelled cases of 1 patients"):
            train((images, tmp_path / "one"), tmp_path / "root")
        with pytest.raises(ArchiveError, match="no zonal mask"):
            train((images, tmp_path / "root"), tmp_path / "root")

    def test_a_case_whose_mask_is_there_twice_is_left_out_by_name(
        self, archive: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        first, second, *_ = sorted(archive[1].glob("*.nii.gz"))
        (tmp_path / "two/again").mkdir(parents=True)
        for file in (first, second):
            shutil.copy(file, tmp_path / "two")
        shutil.copy(first, tmp_path / "two/again")
        with pytest.raises(InputError, match=r"1 labelled cases of 1 patients"):
            train((archive[0], tmp_path / "two"), tmp_path / "root")
        (left_out,) = (one for one in caplog.messages if one.startswith("left out"))
        assert first.name.removesuffix(".nii.gz") in left_out and "twice" in left_out

    def test_weights_of_fewer_channels_are_refused_before_anything_is_read(
        self, archive: tuple[Path, Path], tmp_path: Path
    ) -> None:
        torch.save({"state_dict": MNet(1, 3, (2, 2, 2, 2, 2)).state_dict()}, tmp_path / "one.model")
        config = ZonesConfig(preset="cpu", channels="t2w,adc,dwi", device="cpu")
        with pytest.raises(
            CheckpointError, match=r"one.model: has 1 input channels, fewer than --channels t2w,adc,dwi"
        ):
            train_zones(*archive, tmp_path / "root", tmp_path / "one.model", config=config)
        assert not (tmp_path / "root").exists()


def segment(
    root: Path, archive: tuple[Path, Path], output: Path, progress: Progress | None = None, given: Path | None = None
) -> SegmentSummary:
    runner = PlainRunner(progress, workers=1)
    return segment_zones(root, archive[0], output, zonal_mask_path=given, config=CPU, runner=runner)


class TestSegmentation:
    def test_masks_are_the_same_after_an_interruption_and_are_not_made_twice(
        self, root: Path, archive: tuple[Path, Path], tmp_path: Path
    ) -> None:
        done = segment(root, archive, tmp_path / "whole")
        assert done.new == 6 and done.made + len(done.doubtful) == 6
        assert segment(root, archive, tmp_path / "whole").new == 0
        with pytest.raises(KeyboardInterrupt):
            segment(root, archive, tmp_path / "broken", Stop(3))
        assert segment(root, archive, tmp_path / "broken").new in (3, 4)
        assert digests(tmp_path / "whole") == digests(tmp_path / "broken")

    def test_given_masks_and_those_of_a_person_are_kept_and_doubtful_ones_not_used(
        self, root: Path, archive: tuple[Path, Path], tmp_path: Path
    ) -> None:
        images, masks = archive
        first, second, third, *_ = sorted(masks.glob("*.nii.gz"))
        (tmp_path / "given").mkdir()
        shutil.copy(first, tmp_path / "given")
        output = tmp_path / "masks"
        output.mkdir()
        shutil.copy(second, output)  # a person's
        done = segment(root, archive, output, given=tmp_path / "given")
        assert (done.given, done.persons, done.made + len(done.doubtful)) == (1, 1, 4)
        assert (output / first.name).read_bytes() == first.read_bytes()
        assert done.doubtful  # so little was learnt
        usable = {case.id for case in take_inventory(open_storage(images), open_storage(output)).cases}
        assert len(usable) == 6 - len(done.doubtful) and not usable & done.doubtful.keys()
        moved = sorted(output.glob("doubtful/*.nii.gz"))[0]
        moved.rename(output / moved.name)
        shutil.copy(third, output / first.name)  # corrected by hand
        again = segment(root, archive, output, given=tmp_path / "given")
        assert (again.given, again.persons) == (0, 3)
        assert (output / first.name).read_bytes() == third.read_bytes()
        assert segment(root, archive, output, given=tmp_path / "given").new == 0

    def test_of_two_given_masks_none_is_taken_by_chance(
        self, root: Path, archive: tuple[Path, Path], tmp_path: Path
    ) -> None:
        first, *_ = sorted(archive[1].glob("*.nii.gz"))
        shutil.copytree(archive[1], tmp_path / "given")
        (tmp_path / "given/again").mkdir()
        shutil.copy(first, tmp_path / "given/again")
        done = segment(root, archive, tmp_path / "masks", given=tmp_path / "given")
        ((case_id, reason),) = done.left_out.items()
        assert first.name == f"{case_id}.nii.gz" and "the id is there twice" in reason
        assert (done.given, done.made, (tmp_path / "masks" / first.name).exists()) == (5, 0, False)

    def test_what_a_person_left_in_doubtful_stays_and_is_not_used(
        self, root: Path, archive: tuple[Path, Path], tmp_path: Path
    ) -> None:
        _, masks = archive
        first, second, *_ = sorted(masks.glob("*.nii.gz"))
        output, doubtful = tmp_path / "masks", tmp_path / "masks/doubtful"
        segment(root, archive, output, given=masks)
        doubtful.mkdir()
        (output / first.name).rename(doubtful / first.name)  # refused by hand
        done = segment(root, archive, output)
        assert "move it beside the others" in done.doubtful[first.name.removesuffix(".nii.gz")]
        assert (done.persons, (output / first.name).exists()) == (0, False)
        shutil.copy(second, doubtful / first.name)  # changed again
        segment(root, archive, output)
        assert segment(root, archive, output).new == 0
        assert (doubtful / first.name).read_bytes() == second.read_bytes()
        (doubtful / first.name).rename(output / first.name)
        assert segment(root, archive, output).persons == 1

    def test_the_mask_of_an_image_that_is_stored_in_another_order_lies_on_its_own_grid(
        self, root: Path, archive: tuple[Path, Path], tmp_path: Path
    ) -> None:
        (tmp_path / "imagesTr").mkdir()
        t2w = read_image(next(archive[0].rglob("*_0000.nii.gz")))
        for name, stored in (
            ("lps", t2w),
            ("ras", sitk.DICOMOrient(t2w, "RAS")),
            ("pls", sitk.DICOMOrient(t2w, "PLS")),
        ):
            write_image(stored, tmp_path / f"imagesTr/{name}_0000.nii.gz")
        segment(root, (tmp_path, tmp_path), tmp_path / "masks")
        masks = {file.name[:3]: read_image(file) for file in (tmp_path / "masks").rglob("*.nii.gz")}
        assert set(masks) == {"lps", "ras", "pls"}
        for name, mask in masks.items():
            stored = read_image(tmp_path / f"imagesTr/{name}_0000.nii.gz")
            assert mask.GetSize() == stored.GetSize()
            assert np.allclose(mask.GetDirection(), stored.GetDirection(), atol=1e-6)
            assert np.allclose(mask.GetOrigin(), stored.GetOrigin(), atol=1e-4)
            ordered = sitk.DICOMOrient(mask, "LPS")
            assert (array_of(ordered) == array_of(masks["lps"])).mean() > 0.999 and array_of(ordered).any()

    def test_an_image_that_cannot_be_used_is_left_out_with_its_reason(
        self, root: Path, archive: tuple[Path, Path], tmp_path: Path
    ) -> None:
        images = tmp_path / "imagesTr"
        images.mkdir()
        source = read_image(next((archive[0]).rglob("*_0000.nii.gz")))
        write_image(source[:, :, :1], images / "thin_0000.nii.gz")
        write_image(source, images / "whole_0000.nii.gz")
        (images / "cut_0000.nii.gz").write_bytes((images / "whole_0000.nii.gz").read_bytes()[:5000])
        done = segment(root, (tmp_path, tmp_path), tmp_path / "masks")
        assert set(done.left_out) == {"thin", "cut"} and done.new == 1
        assert "cubic interpolation needs 4 voxels" in done.left_out["thin"]
        assert "truncated" in done.left_out["cut"]

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda content: content.update(members=[]), "no members"),
            (lambda content: content["members"][0]["zones"].update(frequencies=torch.ones(2)), "of 2 classes"),
            (lambda content: next(iter(content["members"][1]["finder"]["state_dict"].values())).mul_(torch.nan), "NaN"),
        ],
    )
    def test_networks_that_cannot_predict_are_refused(
        self, root: Path, archive: tuple[Path, Path], tmp_path: Path, change, words: str
    ) -> None:
        content = torch.load(root / "SSL/zones_model/zones.model")
        change(content)
        torch.save(content, tmp_path / "a.model")
        with pytest.raises(CheckpointError, match=rf"a.model: .*{words}"):
            segment(tmp_path / "a.model", archive, tmp_path / "masks")
        (tmp_path / "a.model").write_bytes((tmp_path / "a.model").read_bytes()[:-999])
        with pytest.raises(CheckpointError, match=r"a.model: is no file of networks, or damaged .*; copy it again"):
            segment(tmp_path / "a.model", archive, tmp_path / "masks")

    def test_what_is_no_model_is_refused(self, archive: tuple[Path, Path], tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"no zones\.model there; train one"):
            segment(tmp_path, archive, tmp_path / "masks")
        torch.save({"state_dict": {}}, tmp_path / "zones.model")
        with pytest.raises(CheckpointError, match="is no ensemble of 'zssmnet train-zones'"):
            segment(tmp_path, archive, tmp_path / "masks")


def test_a_run_takes_masks_or_networks(archive: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no zonal masks: give --zonal_mask_path, or --zones-model"):
        run_pipeline(archive[0], None, tmp_path)
