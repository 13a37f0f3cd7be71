"""A corpus of broken inputs, through the command line: each is a one-line error, and spoils nothing else."""

import glob
import gzip
import html
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from tests.reliability.command import Ended, zssmnet
from tests.reliability.corpus import cases, meta_image, nifti
from tests.reliability.corpus.archive import built
from tests.reliability.corpus.member import ARCHIVE, BrokenCase, GoodCase
from tests.reliability.ledger import Ledger
from tests.zssmnet.examinations import Archive, as_array, as_image, noise, read
from zssmnet.preparation.prepare import PreparedCase
from zssmnet.report.archive_page import PAGE
from zssmnet.storage import LocalStorage
from zssmnet.storage.keys import printable
from zssmnet.storage.layout import reports_beside
from zssmnet.storage.records import read_record, record_names

MARGIN_MM = 3.0
CONTROLS = ("control-1", "control-2")


@dataclass(frozen=True)
class Prepared:
    """An archive full of broken cases after preparation.

    Attributes:
        data: the prepared cases.
        used: the cases that the archive's page shows as used, by id, with their warnings by their records.
        left_out: those that it shows as left out, with reason and file.
    """

    archive: Archive
    data: Path
    ended: Ended
    used: dict[str, tuple[str, ...]]
    left_out: dict[str, str]


def prepared(root: Path, members: list[BrokenCase | GoodCase], controls: tuple[str, ...], form: str) -> Prepared:
    """All members in one archive, prepared by one command."""
    archive = built(root, [*controls, *(member.id for member in members)], form)
    for member in members:
        member.make(archive, member.id)
    settings = root / "settings.toml"
    settings.write_text(f"[preparation]\nmargin_mm = {MARGIN_MM}\n")
    ended = zssmnet("prepare", *options(archive), "--config", settings, "--output_path", root / "data")
    assert ended.status == 0, ended
    used, left_out = shown(Path(reports_beside(str(root / "data")), PAGE))
    records = LocalStorage(root / "data")
    found = [read_record(records, name, PreparedCase) for name in record_names(records)]
    warnings = {record.case_id: record.warnings for record in found if record}
    assert used == {printable(case_id) for case_id in warnings}
    return Prepared(archive, root / "data", ended, warnings, left_out)


def shown(page: Path) -> tuple[set[str], dict[str, str]]:
    """The ids of the cases that an archive's page shows as used; those that are left out, with the reason."""
    text = page.read_text()
    used = {html.unescape(case_id) for case_id in re.findall("<tr><td><b>(.*?)</b>", text)}
    table = text.partition("<h2>Left out</h2><table>")[2].partition("</table>")[0]
    return used, {
        html.unescape(case_id): html.unescape(reason)
        for case_id, _, reason in (row.partition("<td>") for row in table.split("<tr><td>")[1:])
    }


def options(archive: Archive) -> list[str | Path]:
    return ["--images_path", archive.root / "images", "--zonal_mask_path", archive.root / "masks"]


BROKEN = [*nifti.broken_cases(), *cases.broken_masks(), *cases.broken_archive()]
GOOD = [*nifti.good_cases(), *cases.good_masks(), *cases.good_ids()]
BROKEN_MHA = dict(meta_image.broken_cases())
GOOD_MHA = dict(meta_image.good_cases())
ODD = {
    "one voxel",
    "one voxel in the first corner",
    "one voxel in the last corner",
    "two far corners",
    "peripheral zone alone",
}
"""Good cases with a warning: one zone alone, or parts of the mask far from each other."""
MHA_CONTROLS = ("10001_1000001", "10002_1000002")


@pytest.fixture(scope="module")
def nnunet(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepared(tmp_path_factory.mktemp("nnunet"), [*BROKEN, *GOOD], CONTROLS, "nnunet")


@pytest.fixture(scope="module")
def picai(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    members = [*BROKEN_MHA.values(), *GOOD_MHA.values()]
    return prepared(tmp_path_factory.mktemp("picai"), members, MHA_CONTROLS, "picai")


def check_left_out(found: Prepared, case: BrokenCase) -> None:
    """The page and the log name the case, the file and the reason; nothing of the case is published."""
    remark = found.left_out[printable(case.id)]
    assert remark.isprintable()
    assert len(remark) < 600
    reason, _, file = remark.rpartition(": ")
    assert f"{printable(case.id)} ({file}: {reason})" in found.ended.err
    assert printable(case.id) in file
    assert re.search(case.says, reason), reason
    assert not list(found.data.glob(f"*/{glob.escape(case.id)}_000?.nii.gz"))
    assert not (found.data / "records" / f"{case.id}.json").exists()


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.id)
def test_broken_case_is_left_out(nnunet: Prepared, ledger: Ledger, case: BrokenCase) -> None:
    with ledger.tried(case.area, case.fault):
        check_left_out(nnunet, case)


@pytest.mark.parametrize("name", BROKEN_MHA)
def test_broken_meta_image_is_left_out(picai: Prepared, ledger: Ledger, name: str) -> None:
    case = BROKEN_MHA[name]
    with ledger.tried(case.area, case.fault):
        check_left_out(picai, case)


def files_of(data: Path, case_id: str) -> list[Path]:
    """A prepared case's T2W, ADC, DWI and mask."""
    suffixes = ("_0000.nii.gz", "_0001.nii.gz", "_0002.nii.gz", ".nii.gz")
    (folder,) = {path.parent for path in data.glob(f"subset?/{glob.escape(case_id)}_0002.nii.gz")}
    return [folder / f"{case_id}{suffix}" for suffix in suffixes]


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.id)
def test_odd_case_is_prepared_right(nnunet: Prepared, ledger: Ledger, case: GoodCase) -> None:
    with ledger.tried(case.area, case.fault):
        assert case.id in nnunet.used
        archive = nnunet.archive
        volumes = [as_image(noise(channel)) for channel in range(3)] + [read(archive.mask_path(case.id))]
        expected = by_sitk(volumes, read(archive.image_path(0, CONTROLS[0])))
        for image, one in zip(map(read, files_of(nnunet.data, case.id)), expected, strict=True):
            assert np.abs(as_array(image).astype(float) - as_array(one)).max() <= 1e-3
            assert np.allclose(image.GetOrigin(), one.GetOrigin(), atol=1e-4)
            assert np.allclose(image.GetSpacing(), one.GetSpacing())
            assert np.allclose(image.GetDirection(), one.GetDirection(), atol=1e-6)


def by_sitk(volumes: list[sitk.Image], grid: sitk.Image) -> list[sitk.Image]:
    """Three images and a mask, resampled and cropped around the gland by SimpleITK alone."""
    target = (0.5, 0.5, 3.0)
    size = [round(n * step / wanted) for n, step, wanted in zip(grid.GetSize(), grid.GetSpacing(), target, strict=True)]
    spacing = [n * step / new for n, step, new in zip(grid.GetSize(), grid.GetSpacing(), size, strict=True)]
    whole = []
    for number, volume in enumerate(volumes):
        is_mask = number == 3
        volume = volume if is_mask else sitk.Cast(volume, sitk.sitkFloat32)
        volume.CopyInformation(grid)
        interpolator = sitk.sitkNearestNeighbor if is_mask else sitk.sitkBSpline3
        place = (grid.GetOrigin(), spacing, grid.GetDirection())
        whole.append(sitk.Resample(volume, size, sitk.Transform(), interpolator, *place, 0))
    z, y, x = np.nonzero(as_array(whole[3]))
    parts = []
    for axis, margin, end in zip((x, y, z), [int(MARGIN_MM // step) for step in target], size, strict=True):
        parts.append(slice(max(0, int(axis.min()) - margin), min(end, int(axis.max()) + margin + 1)))
    return [volume[tuple(parts)] for volume in whole]


@pytest.mark.parametrize("name", GOOD_MHA)
def test_odd_meta_image_is_prepared_as_a_plain_one(picai: Prepared, ledger: Ledger, name: str) -> None:
    case = GOOD_MHA[name]
    with ledger.tried(case.area, case.fault):
        ours, plain = (files_of(picai.data, case_id) for case_id in (case.id, MHA_CONTROLS[0]))
        assert [path.read_bytes() for path in ours] == [path.read_bytes() for path in plain]


class TestTheOthers:
    """What a broken case does to the good ones: nothing."""

    def test_come_out_bit_for_bit_as_without_the_broken_ones(
        self, nnunet: Prepared, tmp_path: Path, ledger: Ledger
    ) -> None:
        clean = prepared(tmp_path, list(GOOD), CONTROLS, "nnunet")
        counts = f"0 up to date, 0 left out, {len(ODD)} with warnings"
        assert clean.ended.out == f"{len(GOOD) + 2} cases prepared, {counts}: {clean.data}\n"
        with ledger.tried(ARCHIVE, "good cases beside broken ones", len(GOOD) + 2):
            assert self.published(clean.data) == self.published(nnunet.data)

    def published(self, data: Path) -> dict[str, bytes]:
        """Header and voxels of every file."""
        return {str(path.relative_to(data)): gzip.decompress(path.read_bytes()) for path in data.glob("subset*/*")}

    @pytest.mark.parametrize("form", ["nnunet", "picai"])
    def test_are_counted(self, form: str, request: pytest.FixtureRequest) -> None:
        found: Prepared = request.getfixturevalue(form)
        good, broken = (len(GOOD), len(BROKEN)) if form == "nnunet" else (len(GOOD_MHA), len(BROKEN_MHA))
        assert found.ended.status == 0
        odd = {case_id for case_id, warnings in found.used.items() if warnings}
        assert odd == (ODD if form == "nnunet" else set())
        counts = f"0 up to date, {broken} left out" + (f", {len(odd)} with warnings" if odd else "")
        assert found.ended.out == f"{good + 2} cases prepared, {counts}: {found.data}\n"
        assert (len(found.used), len(found.left_out)) == (good + 2, broken)

    def test_strict_ends_with_one_line(self, picai: Prepared, tmp_path: Path, ledger: Ledger) -> None:
        ended = zssmnet("prepare", *options(picai.archive), "--strict", "--output_path", tmp_path / "data")
        with ledger.tried(ARCHIVE, "--strict", len(BROKEN_MHA)):
            assert ended.status == 1
            assert ended.out == ""
            assert f"{len(BROKEN_MHA)} of {len(picai.used) + len(picai.left_out)} cases cannot be used: " in ended.line
            for case in BROKEN_MHA.values():
                assert f"{case.id} ({meta_image.file(picai.archive, case.id)}: " in ended.line
