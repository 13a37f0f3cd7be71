"""The page on evidence is made from figures, and says no more than they do."""

import json
from pathlib import Path

import pytest

from benchmarks import evidence
from tests.zssmnet.probe.test_gate import result_of
from zssmnet.probe.arms import POSITIVE
from zssmnet.probe.result import ProbeResult

ROOT = Path(__file__).resolve().parents[2]


def figures_of(result: ProbeResult) -> dict:
    results = {"zones": evidence._small(result.model_dump(mode="json"))}
    return {"regime": "cpu", "cpu_s": {"probe": 60.0}, "real_masks": 0, "results": results}


def test_the_page_names_what_helps_and_what_was_not_run() -> None:
    page = evidence.page(figures_of(result_of({POSITIVE: 0.1, "masked": 0.06})))
    assert "The probe can tell: the gate is open." in page and "helps: masked." in page
    assert "Zones: nothing about per-channel, reference: that part was not run" in page


def test_where_the_gate_is_closed_the_page_shows_no_recipe() -> None:
    result = result_of({POSITIVE: 0.0, "masked": 0.06})
    page = evidence.page(figures_of(result))
    assert page.count("no verdict counts") == page.count(result.gate[2].sentence) == 1
    assert "| (c) the positive control helps | **no** |" in page
    assert "| masked" not in page and "Recommended" not in page


def test_the_page_in_the_docs_is_that_of_the_figures() -> None:
    file = ROOT / "benchmarks/evidence.json"
    if not file.exists():
        pytest.skip("benchmarks/evidence.json is not there: make evidence has not ended yet")
    page = evidence.page(json.loads(file.read_text()))
    assert (ROOT / "docs/evidence.md").read_text() == page


@pytest.mark.parametrize("regime", evidence.REGIMES)
def test_a_page_names_the_files_and_the_size_of_its_regime(regime: str) -> None:
    page = evidence.page(figures_of(result_of({POSITIVE: 0.1, "masked": 0.06})) | {"regime": regime})
    spacing, stem = {"cpu": ("2.7 x 2.7 x 4 mm", "evidence"), "gpu": ("0.5 x 0.5 x 3 mm", "evidence_gpu")}[regime]
    assert spacing in page and f"images/{stem}_zones.png" in page and f"benchmarks/{stem}.json" in page
