"""The page of a whole archive: whole in one file, odd cases first, and only what is new is read."""

import base64
import io
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.zssmnet.examinations import Archive, as_image, gland, noise, write
from tests.zssmnet.interruption import leave_half_written
from zssmnet.config import PreparationConfig
from zssmnet.data.archive import take_inventory
from zssmnet.preparation.prepare import PreparedCase, publish_prepared
from zssmnet.report.archive_page import NAME, PAGE, ROWS, ArchivePage, archive_page, in_order, publish_archive_page
from zssmnet.report.archive_rows import CaseRow, draw_row, oddities
from zssmnet.report.thumbnails import SIDE, jpeg, outlines, squared
from zssmnet.storage import LocalStorage, sha256_of
from zssmnet.storage.records import publish_record, read_record
from zssmnet.storage.verification import verify_stage

CASES = ("1_1", "2_1", "3_1")
LEFT_OUT = [("9_1", "the mask has <no> foreground: masks/9_1.nii.gz"), ("8_1", "missing")]


class Root(Archive):
    """Three prepared cases, the second with a warning, and their reports."""

    def prepare(self) -> list[PreparedCase]:
        cases = take_inventory(self.images, self.masks).cases
        config = PreparationConfig(margin_mm=3.5)
        return [publish_prepared(case, 0, self.images, self.masks, self.data, config)[0] for case in cases]

    @property
    def data(self) -> LocalStorage:
        return LocalStorage(self.root / "data")

    @property
    def reports(self) -> LocalStorage:
        return LocalStorage(self.root / "reports")

    def publish(self, records: list[PreparedCase]) -> tuple[list[str], str]:
        """The cases in the page's order, and the page."""
        rows = publish_archive_page(self.data, self.reports, records, LEFT_OUT)
        return [row.case_id for row, _ in rows], (self.root / "reports" / PAGE).read_text()


@pytest.fixture
def root(tmp_path: Path) -> Root:
    root = Root(tmp_path)
    for number, case_id in enumerate(CASES):
        root.add(case_id, seed=number)
    write(as_image(np.array([0, 2, 1], np.uint8)[gland()]), root.mask_path("2_1"))
    return root


@pytest.fixture
def row(root: Root) -> CaseRow:
    return draw_row(root.prepare()[0], root.data)


class Addresses(HTMLParser):
    """All that a browser would fetch, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [str(value) for name, value in attrs if name in ("href", "src", "action", "data")]

    def handle_data(self, data: str) -> None:
        self.text += data


class TestPage:
    def test_all_cases_those_with_warnings_first_and_left_out_ones_with_reasons(self, root: Root):
        order, page = root.publish(root.prepare())
        assert order == ["2_1", "1_1", "3_1"]
        text = Addresses(page).text
        assert "3 cases, 1 with something odd, 2 left out" in text
        assert "are the zones swapped?" in text
        assert text.index("8_1") < text.index("9_1") < text.index("2_1") < text.index("1_1")
        assert "<no> foreground" in text
        assert "1 scanner grids" in text
        assert "24 × 20 × 8" in text

    def test_it_is_whole_by_itself(self, root: Root):
        _, page = root.publish(root.prepare())
        fetched = Addresses(page).fetched
        pictures = [one for one in fetched if one.startswith("data:image/jpeg;base64,")]
        assert len(pictures) == 3
        assert all(one.startswith("#") for one in set(fetched) - set(pictures))
        for picture in pictures:
            with Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2]))) as image:
                assert (image.size, image.mode) == ((3 * SIDE, SIDE), "L")
        assert not re.search(r"url\(|@import|<script|<link", page)

    def test_names_of_shapes_are_unique_and_known(self, root: Root):
        _, page = root.publish(root.prepare())
        names = re.findall(r'id="([^"]+)"', page)
        assert len(names) == len(set(names)) == 6  # outlines of three cases, the archive's histograms
        assert set(re.findall(r'href="#([^"]+)"', page)) == set(names)

    def test_what_comes_from_data_is_text(self, row: CaseRow):
        odd = row.model_copy(update={"case_id": "<b>&\n", "warnings": ("<script>alert(1)</script>",)})
        page = archive_page(in_order([odd]), [("<i>", "\ud83d <script>")])
        assert "<script" not in page
        assert "&lt;b&gt;&amp;\\n" in page

    def test_of_nothing(self, tmp_path: Path):
        assert publish_archive_page(LocalStorage(tmp_path / "data"), LocalStorage(tmp_path), [], LEFT_OUT) == []
        assert "0 cases, 0 with something odd, 2 left out" in (tmp_path / PAGE).read_text()


class TestAgain:
    def test_only_new_cases_are_read(self, root: Root):
        records = root.prepare()
        first = root.publish(records)
        shutil.move(root.root / "data", root.root / "gone")
        assert root.publish(records) == first
        shutil.move(root.root / "gone", root.root / "data")
        write(as_image(noise(77)), root.image_path(0, "3_1"))
        again = root.prepare()
        (root.root / "data/subset0/1_1_0000.nii.gz").unlink()  # which is not read
        rows = {row.case_id: row for row, _ in publish_archive_page(root.data, root.reports, again, [])}
        kept = map(CaseRow.model_validate_json, root.reports.local(ROWS).read_text().splitlines())
        assert {row.case_id: row for row in kept} == rows
        assert rows["3_1"].source != next(one.identity() for one in records if one.case_id == "3_1")

    def test_a_page_that_is_there_is_not_written_again(self, root: Root):
        records = root.prepare()
        root.publish(records)
        before = [(path, path.stat().st_mtime_ns) for path in (root.root / "reports").rglob("*.*")]
        left = leave_half_written(root.root / "reports")
        root.publish(records)
        assert not left.exists()
        assert [(path, path.stat().st_mtime_ns) for path, _ in before] == before

    @pytest.mark.parametrize("name", [PAGE, ROWS])
    @pytest.mark.parametrize("content", [b"", b"another page"])
    def test_a_changed_or_missing_file_is_made_anew(self, root: Root, content: bytes, name: str):
        records, file = root.prepare(), root.root / "reports" / name
        first, before = root.publish(records), file.read_bytes()
        file.write_bytes(content)
        assert root.publish(records) == first
        file.unlink()
        assert root.publish(records) == first
        assert file.read_bytes() == before

    def test_rows_that_would_bring_markup_count_as_none(self, root: Root):
        """Also where their record is changed with them."""
        records = root.prepare()
        _, page = root.publish(records)
        rows = root.root / "reports" / ROWS
        rows.write_text(re.sub(r'"picture":"[^"]*"', '"picture":"\\"/><script>"', rows.read_text()))
        known = read_record(root.reports, NAME, ArchivePage)
        assert known is not None and "<script>" in rows.read_text()
        changed = known.outputs[0].model_copy(update={"size": rows.stat().st_size, "sha256": sha256_of(rows)})
        publish_record(root.reports, NAME, known.model_copy(update={"outputs": (changed,), "source": ""}))
        assert root.publish(records)[1] == page


class TestLargeArchive:
    def test_the_page_goes_on_in_others(self, root: Root, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("zssmnet.report.archive_page.MOST_ROWS", 2)
        records = root.prepare()
        order, first = root.publish(records)
        second = (root.root / "reports" / "archive-2.html").read_text()
        assert [re.findall(r"<b>(\w+)</b>", page) for page in (first, second)] == [order[:2], order[2:]]
        assert "href=archive-2.html" in first and "href=archive.html" in second
        assert all(page.count("<p>") == page.count("</p>") for page in (first, second))
        assert "Page 2 of 2" in second
        assert [finding for finding in verify_stage(root.reports) if "archive" in finding.file] == []

    def test_pages_that_are_too_many_go(self, root: Root, monkeypatch: pytest.MonkeyPatch):
        records = root.prepare()
        with monkeypatch.context() as patch:
            patch.setattr("zssmnet.report.archive_page.MOST_ROWS", 1)
            root.publish(records)
            assert len(list((root.root / "reports").glob("*.html"))) == 3
        root.publish(records[:2])
        assert [path.name for path in (root.root / "reports").glob("*.html")] == [PAGE]


class TestOdd:
    """What lies far from the archive's median is odd; what nearly all have is not."""

    @pytest.fixture
    def rows(self, row: CaseRow) -> list[CaseRow]:
        return [row.model_copy(update={"case_id": str(number)}) for number in range(20)]

    def test_nothing_among_equals(self, rows: list[CaseRow]):
        assert oddities(rows) == [[]] * 20

    @pytest.mark.parametrize(
        ("change", "remark"),
        [
            ({"transition_ml": 300.0}, "gland of 30"),
            ({"spacing_before": (0.6, 0.55, 5.0)}, "slices 5 mm apart"),
            ({"spacing_before": (1.2, 0.55, 3.3)}, "pixels of 1.2 mm"),
            ({"medians": (500.0, 5.0, 500.0)}, "ADC's median in the gland is 5"),
            ({"histograms": ((1.0, *[0.0] * 23),) * 3}, "T2W's histogram differs in "),
        ],
    )
    def test_one_that_differs_comes_first(self, rows: list[CaseRow], change: dict[str, object], remark: str):
        rows[13] = rows[13].model_copy(update=change)
        first, *others = in_order(rows)
        assert first[0].case_id == "13"
        assert any(one.startswith(remark) for one in first[1])
        assert all(not remarks for _, remarks in others)

    def test_two_scanners_are_nothing_odd(self, rows: list[CaseRow]):
        rows[:8] = [one.model_copy(update={"spacing_before": (0.3, 0.3, 3.6)}) for one in rows[:8]]
        rows[8] = rows[8].model_copy(update={"spacing_before": (0.35, 0.35, 3.0)})
        assert oddities(rows) == [[]] * 20

    def test_few_cases_are_not_compared(self, rows: list[CaseRow]):
        rows[1] = rows[1].model_copy(update={"transition_ml": 300.0})
        assert oddities(rows[:9]) == [[]] * 9
        assert oddities(rows[:10])[1] != []


class TestThumbnails:
    def test_a_slice_is_squared_with_the_odd_voxel_at_the_end(self):
        assert np.array_equal(squared(np.ones((2, 5), int))[:, 0], [0, 1, 1, 0, 0])
        assert np.array_equal(squared(np.ones((4, 4), int)), np.ones((4, 4)))

    def test_outlines_lie_where_the_zones_are(self):
        zones = np.zeros((48, 96), np.uint8)
        zones[10:20, 30:60] = 1
        first, second = outlines(zones)
        points = np.array(re.findall(r"(\d+) (\d+)", first), int)
        assert second == ""
        assert np.array_equal(points.min(0), [30, 10 + 24])
        assert np.array_equal(points.max(0), [60, 20 + 24])

    def test_a_picture_shows_the_slices_side_by_side(self):
        ramp = np.tile(np.linspace(0, 1000, 64, dtype=np.float32), (64, 1))
        with Image.open(io.BytesIO(base64.b64decode(jpeg([ramp, ramp.T])))) as image:
            pixels = np.asarray(image).astype(int)
        left, right = pixels[:, :SIDE], pixels[:, SIDE:]
        assert (np.abs(left - np.linspace(0, 255, SIDE)) < 12).all()
        assert np.abs(left - right.T).max() < 12

    def test_a_constant_slice_is_drawn(self):
        assert jpeg([np.full((5, 5), 7.0, np.float32)])


def test_the_row_of_a_real_case_is_small_enough_for_1500(shared: Path, tmp_path: Path):
    images, masks = LocalStorage(shared / "data/nnunet_raw"), LocalStorage(shared / "data/zonal_masks")
    (case,) = take_inventory(images, masks).cases
    data, reports = LocalStorage(tmp_path / "data"), LocalStorage(tmp_path / "reports")
    record, _ = publish_prepared(case, 0, images, masks, data, PreparationConfig())
    ((row, remarks),) = publish_archive_page(data, reports, [record], [])
    assert remarks == []
    assert row.gland_ml == pytest.approx(52, abs=15)
    empty = len(archive_page([], []).encode())
    assert 1500 * ((tmp_path / "reports" / PAGE).stat().st_size - empty) < 15_000_000
