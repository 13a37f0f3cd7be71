import json
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from zssmnet.data.archive import PICAI_PATIENT, patient_of
from zssmnet.data.splits import SUBSETS, choose_subsets, read_folds, reference_subsets, stable_subset
from zssmnet.errors import ConfigError, InputError, SplitsError

IDS = [f"{10000 + patient}_{1000000 + patient * 3 + study}" for patient in range(6000) for study in range(2)]


def as_json(folds: Any) -> bytes:
    return json.dumps(folds).encode()


def folds_of(*vals: list[str]) -> list[dict[str, list[str]]]:
    every = [case for val in vals for case in val]
    return [{"train": [case for case in every if case not in val], "val": val} for val in vals]


class TestReference:
    def test_golden(self, golden: Path, tmp_path: Path):
        known = json.loads((golden / "splits_small.json").read_text())
        splits = tmp_path / "splits.json"
        splits.write_bytes(as_json(known["splits"]))
        folds = read_folds(splits.read_bytes(), "splits.json")
        subsets = reference_subsets(folds)
        assert subsets == known["subsets"]
        every = [case for subset in subsets for case in subset]
        assigned = choose_subsets(every, str(splits))
        assert assigned == {case: number for number, subset in enumerate(subsets) for case in subset}

    def test_every_case_has_one_subset(self):
        folds = [[f"{fold}-{number}" for number in range(size)] for fold, size in enumerate((0, 1, 2, 9, 10))]
        subsets = reference_subsets(folds)
        assert [len(subset) for subset in subsets] == [0, 0, 1, 7, 8, 6]
        assert sorted(case for subset in subsets for case in subset) == sorted(case for fold in folds for case in fold)

    def test_sizes_on_picai(self):
        sizes = (300, 298, 302, 304, 296)
        subsets = reference_subsets([[f"{fold}_{number}" for number in range(size)] for fold, size in enumerate(sizes)])
        assert [len(subset) for subset in subsets] == [240, 238, 241, 243, 236, 302]

    def test_leaves_the_given_lists_and_python_s_random_alone(self):
        folds = [[str(number) for number in range(20)]] * 5
        state = random.getstate()
        reference_subsets(folds)
        assert folds[0] == [str(number) for number in range(20)]
        assert random.getstate() == state

    def test_cases_that_only_the_archive_or_the_splits_have_are_logged(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ):
        caplog.set_level("INFO")
        splits = str(tmp_path / "splits.json")
        Path(splits).write_bytes(as_json(folds_of(["a"], ["b", "gone"], [], [], [])))
        assigned = choose_subsets(["b", "new", "a"], splits)
        assert assigned == {"b": 5, "a": 5}
        assert list(assigned) == ["b", "a"]
        assert caplog.messages == [
            f"1 cases are not in {splits} and are left out: new",
            f"1 cases of {splits} cannot be found: gone",
            "reference split: 0 + 0 + 0 + 0 + 0 cases for training, 2 for validation",
        ]
        with pytest.raises(InputError, match="no case is left: the archive and the splits have none in common"):
            choose_subsets(["new"], splits, "reference")

    def test_patients_on_both_sides_are_logged(self, tmp_path: Path, caplog: pytest.LogCaptureFixture):
        ids = [f"{patient}_{patient}{study}" for patient in range(10, 15) for study in (1, 2)]
        (tmp_path / "splits.json").write_bytes(as_json(folds_of(*(ids[2 * fold : 2 * fold + 2] for fold in range(5)))))
        choose_subsets(ids, tmp_path / "splits.json")
        assert "5 patients are in training and in validation" in caplog.text
        caplog.clear()
        choose_subsets(ids[::2], tmp_path / "splits.json")
        assert "in training and in validation" not in caplog.text

    def test_names_in_another_unicode_form_are_the_same(self, tmp_path: Path, caplog: pytest.LogCaptureFixture):
        composed, decomposed = "Jos\u00e9_1", "Jose\u0301_1"
        (tmp_path / "splits.json").write_bytes(as_json(folds_of([decomposed, "2_2"], ["3_3"], ["4_4"], ["5_5"], [])))
        assert composed in choose_subsets([composed, "2_2", "3_3", "4_4", "5_5"], str(tmp_path / "splits.json"))
        assert not [record for record in caplog.records if record.levelname == "WARNING"]
        assert stable_subset(composed) == stable_subset(decomposed)

    def test_needs_folds_and_the_stable_split_takes_none(self):
        with pytest.raises(SplitsError, match=r"needs a splits\.json"):
            choose_subsets(["a"], split_mode="reference")
        with pytest.raises(SplitsError, match=r"^/s\.json: the stable split takes no splits\.json"):
            choose_subsets(["a"], "/s.json", "stable")


class TestStable:
    def test_known_values(self):
        """The assignment is a promise: it may never change between versions."""
        known = {"10000_1000000": 2, "11373_1001396": 3, "10001_1000001": 5, "prostate-007": 1, "Łódź": 2}
        known |= {"59784": 0, "198410": 5}  # the hashes next to 0.8
        assert {case_id: stable_subset(case_id) for case_id in known} == known

    def test_a_patient_is_on_one_side(self):
        subsets: dict[str, set[int]] = {}
        for case_id, subset in choose_subsets(IDS).items():
            subsets.setdefault(patient_of(case_id), set()).add(subset)
        assert len(subsets) == 6000
        assert all(len(found) == 1 for found in subsets.values())

    def test_pattern_tells_the_patient(self):
        ids = [f"p{patient}-scan{scan}" for patient in range(40) for scan in range(5)]
        by_scan = choose_subsets(ids)
        by_patient = choose_subsets(ids, patient_pattern=r"(?P<patient>p\d+)-")
        assert len({by_scan[case_id] for case_id in ids if case_id.startswith("p7-")}) > 1
        for patient in range(40):
            assert len({by_patient[f"p{patient}-scan{scan}"] for scan in range(5)}) == 1

    def test_a_pattern_that_matches_nothing_is_an_error(self):
        ids = [f"p{n:03}_{study}" for n in range(40) for study in "ab"]
        with pytest.raises(
            ConfigError, match=r"finds a patient in none of 80 case ids .*p000_a, p000_b, p001_a and 77"
        ):
            choose_subsets(ids, patient_pattern=r"^(?P<patient>P\d+)_")

    @pytest.mark.parametrize("pattern", [PICAI_PATIENT, r"(?P<patient>\d*)_"])
    def test_a_pattern_that_matches_some_is_a_counted_warning(self, pattern: str, caplog: pytest.LogCaptureFixture):
        choose_subsets(["1_1", "1_2", "p_1", "2_1"], patient_pattern=pattern)
        assert "1 of 4 case ids have no patient" in caplog.text
        assert "patients of their own: p_1" in caplog.text

    def test_ids_of_another_form_need_no_pattern(self, caplog: pytest.LogCaptureFixture):
        assert len(choose_subsets(["a", "b_1"])) == 2
        assert not [record for record in caplog.records if record.levelname == "WARNING"]

    def test_a_bad_pattern_is_said(self):
        with pytest.raises(InputError, match="no group"):
            choose_subsets(["a"], patient_pattern=r"\d+")

    def test_neither_other_cases_nor_their_order_matter(self):
        everything = choose_subsets(IDS)
        few = choose_subsets(IDS[100:90:-1])
        assert few == {case_id: everything[case_id] for case_id in few}
        assert list(few) == IDS[100:90:-1]

    def test_shares(self):
        """80 % for training in five equal parts, over 6000 independent patients, within 4 sigma."""
        counts = Counter(stable_subset(case_id) for case_id in IDS[::2])
        assert sorted(counts) == list(SUBSETS)
        for subset, share in [*((subset, 0.16) for subset in range(5)), (5, 0.2)]:
            assert abs(counts[subset] - 6000 * share) < 4 * math.sqrt(6000 * share * (1 - share))


class TestReadFolds:
    def test_vals_in_order(self):
        folds = folds_of(["a", "b"], ["c"], [], ["d"], ["e"])
        assert read_folds(as_json(folds), "s") == [["a", "b"], ["c"], [], ["d"], ["e"]]

    def test_byte_order_mark_and_other_encodings(self):
        text = json.dumps(folds_of(["é"], [], [], [], []), ensure_ascii=False)
        for encoding in ("utf-8", "utf-8-sig", "utf-16"):
            assert read_folds(text.encode(encoding), "s")[0] == ["é"]

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "not a JSON file"),
            (b"[", "not a JSON file"),
            (b"hello", "not a JSON file"),
            (b"\xff\xfe\x00", "not a JSON file"),
            (b'{"a": \xe9}', "not a JSON file"),
            (b"[" * 100_000, "not a JSON file"),
            (b"null", "a NoneType; expected a list of 5"),
            (b"{}", "a dict; expected a list of 5"),
            (b"[]", "a list of 0; expected a list of 5"),
            (as_json(folds_of(["a"], ["b"], ["c"], ["d"])), "a list of 4; expected"),
            (as_json(folds_of(["a"], ["b"], ["c"], ["d"], ["e"], ["f"])), "a list of 6; expected"),
            (as_json([["a"], ["b"], ["c"], ["d"], ["e"]]), 'fold 0: expected an object with "val"'),
            (as_json([{"val": ["a"]}, {"train": ["b"]}, {}, {}, {}]), 'fold 1: expected an object with "val"'),
            (as_json([{"val": "abc"}] * 5), 'fold 0: expected an object with "val", a list'),
            (as_json([{"val": None}] * 5), 'fold 0: expected an object with "val", a list'),
            (as_json([{"val": ["a", 7]}] * 5), 'fold 0: expected an object with "val", a list of case ids'),
            (as_json(folds_of(["a"], ["b"], ["a"], ["d"], ["e"])), "overlap; given more than once: a"),
            (as_json(folds_of(["a", "a"], [], [], [], [])), "overlap; given more than once: a"),
            (as_json(folds_of(["two\nlines"] * 2, [], [], [], [])), r"more than once: two\\nlines"),
            (as_json(folds_of([], [], [], [], [])), "all val lists are empty"),
        ],
    )
    def test_malformed(self, content: bytes, reason: str):
        with pytest.raises(SplitsError, match=rf"^/data/splits\.json: .*{reason}") as caught:
            read_folds(content, "/data/splits.json")
        assert "\n" not in str(caught.value)

    def test_long_lists_of_overlaps_are_shortened(self):
        names = [f"case{number}" for number in range(100)]
        with pytest.raises(SplitsError, match="case0, case1, case10, case11, case12 and 95 more"):
            read_folds(as_json(folds_of(names, names, [], [], [])), "s")
