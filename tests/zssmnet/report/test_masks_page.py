"""All masks on one page, those with findings first; by the command as well."""

import re
from pathlib import Path

import numpy as np
import pytest

from tests.reliability.command import zssmnet
from tests.zssmnet.data.test_mask_checks import labels, mask
from tests.zssmnet.examinations import Archive, as_image, noise, oblique, write
from tests.zssmnet.interruption import leave_half_written
from zssmnet.data.mask_checks import check_mask
from zssmnet.report import masks_page
from zssmnet.report.masks_page import PAGE, ROWS, publish_masks_page
from zssmnet.storage import LocalStorage


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """Three cases: a good one, one whose zones are swapped, one whose mask lies on another grid."""
    archive = Archive(tmp_path)
    for number, case_id in enumerate(("1_1", "2_1", "3_1")):
        shown = noise(number, (80, 80, 20)) + np.uint16(300) * (labels() > 0)
        images = [as_image(shown, (1, 1, 3), (0, 0, 30.0 * (number == 2)), oblique(0)) for _ in range(3)]
        zones = np.array([0, 2, 1], np.uint8)[labels()] if number == 1 else labels()
        archive.add(case_id, *images, mask(zones))
    return archive


def test_findings_come_first_and_what_lies_elsewhere_is_drawn_alone(archive: Archive, tmp_path: Path):
    left = leave_half_written(tmp_path / "out")
    found = publish_masks_page(archive.masks, LocalStorage(tmp_path / "out"), archive.images)
    assert not left.exists()
    assert [(one.case_id, len(one.check.findings)) for one in found] == [("3_1", 2), ("2_1", 1), ("1_1", 0)]
    first, second, third = found
    assert "of the gland lie outside the field of the T2W image" in first.check.findings[0]
    assert "lies up to 30 mm away from T2W's grid" in first.check.findings[1]
    assert len({first.picture, second.picture, third.picture}) == 3
    page = (tmp_path / "out" / PAGE).read_text()
    assert page.index("3_1") < page.index("2_1") < page.index("1_1")
    assert "3 masks, 2 with findings" in page
    assert "rest of the gland" in page and "transition zone" not in page, "label 2 has more than the transition zone"
    assert page.count("data:image/jpeg;base64,") == 3
    names = re.findall(r'id="([^"]+)"', page)
    assert len(names) == len(set(names))
    assert not re.search(r"https?:|url\(|<script|<link", page)


def test_without_images_their_place_is_not_checked(archive: Archive, tmp_path: Path):
    found = publish_masks_page(archive.masks, LocalStorage(tmp_path / "out"))
    assert {one.case_id: len(one.check.findings) for one in found} == {"1_1": 0, "2_1": 1, "3_1": 0}


def test_masks_without_a_case_unreadable_and_wrong_ones_are_findings(archive: Archive, tmp_path: Path):
    write(mask(labels()), archive.mask_path("4_1"))
    archive.mask_path("1_1").write_bytes(b"no image")
    write(mask(labels() * 0), archive.mask_path("2_1"))
    found = publish_masks_page(archive.masks, LocalStorage(tmp_path / "out"), archive.images)
    findings = {one.case_id: "; ".join(one.check.findings) for one in found}
    assert "the archive has no whole case of this id" in findings["4_1"]
    assert "is no readable image" in findings["1_1"]
    assert "no foreground" in findings["2_1"]


def test_a_mask_that_is_there_twice_is_a_finding(archive: Archive, tmp_path: Path):
    again = archive.mask_path("1_1").parent / "again/1_1.nii.gz"
    again.parent.mkdir()
    again.write_bytes(archive.mask_path("1_1").read_bytes())
    found = publish_masks_page(archive.masks, LocalStorage(tmp_path / "out"), archive.images)
    (finding,) = next(one.check.findings for one in found if one.case_id == "1_1")
    assert finding.startswith("the id is there twice, in ")


class TestContinuing:
    def publish(self, archive: Archive, **more):
        return publish_masks_page(archive.masks, LocalStorage(archive.root / "out"), archive.images, **more)

    def test_an_interrupted_run_leaves_a_page_and_goes_on(self, archive: Archive, monkeypatch: pytest.MonkeyPatch):
        """Ctrl-C after the second mask: the page has those before, and a second run checks the others alone."""
        monkeypatch.setattr(masks_page, "_MASKS_AT_ONCE", 1)
        counted = iter([None, KeyboardInterrupt()])

        def advance() -> None:
            if error := next(counted):
                raise error

        with pytest.raises(KeyboardInterrupt):
            self.publish(archive, advance=advance)
        assert "1 of 3 masks so far" in (archive.root / "out" / PAGE).read_text()
        checked = []
        monkeypatch.setattr(masks_page, "check_mask", lambda *given: checked.append(1) or check_mask(*given))
        found = self.publish(archive)
        assert len(checked) == 2
        assert found == self.publish(archive)
        assert len(checked) == 2
        assert "3 masks, 2 with findings" in (archive.root / "out" / PAGE).read_text()

    @pytest.mark.parametrize("change", ["mask", "image", "images given", "rows damaged", "markup in the rows"])
    def test_what_changed_is_checked_again(self, archive: Archive, change: str):
        (before, *_) = [one for one in self.publish(archive) if one.case_id == "1_1"]
        rows = archive.root / "out" / ROWS
        if change == "mask":
            write(mask(np.array([0, 2, 1], np.uint8)[labels()]), archive.mask_path("1_1"))
        elif change == "image":
            write(as_image(noise(9, (80, 80, 20)), (1, 1, 3), (0, 0, 30), oblique(0)), archive.image_path(0, "1_1"))
        elif change == "images given":
            archive.image_path(0, "1_1").unlink()
        else:
            rows.write_text(
                "no rows" if change == "rows damaged" else rows.read_text().replace('"picture":"', '"picture":"<b>')
            )
        (after, *_) = [one for one in self.publish(archive) if one.case_id == "1_1"]
        assert (after.check != before.check) is (change in ("mask", "image", "images given"))
        assert "<b>" not in rows.read_text()


class TestCommand:
    def run(self, archive: Archive, *more: str):
        words = ["--zonal_mask_path", archive.root / "masks", "--output", archive.root / "out", *more]
        return zssmnet("check-masks", *words)

    def test_findings_end_in_status_1_and_the_page_s_address(self, archive: Archive):
        ended = self.run(archive, "--images_path", str(archive.root / "images"))
        assert ended.status == 1
        assert [line.partition(": ")[0] for line in ended.out.splitlines()] == ["3_1", "2_1"]
        assert f"2 of 3 masks have findings: look at {archive.root / 'out' / PAGE}" in ended.line

    def test_none_end_in_status_0(self, archive: Archive):
        archive.mask_path("2_1").unlink()
        ended = self.run(archive)
        assert (ended.status, ended.out) == (0, f"2 masks, no findings: {archive.root / 'out' / PAGE}\n")

    def test_no_masks_are_one_line(self, tmp_path: Path):
        ended = self.run(Archive(tmp_path))
        assert ended.status == 1
        assert "no zonal mask <case>.nii.gz found" in ended.line
