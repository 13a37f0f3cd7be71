"""What a subflow returns is its summary, also where Prefect has stored it for a run that is started again."""

from pathlib import Path

import pytest
from prefect import flow
from prefect.client.orchestration import get_client

from flows.prepare_data import PreparationSummary
from flows.states import as_summary, ended
from tests.runs import runs_over


def test_a_stored_summary_comes_back(prefect_api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_LOCAL_STORAGE_PATH", str(tmp_path / "results"))
    summary = PreparationSummary(
        data_path="data", prepared=1, up_to_date=2, left_out={"1_1": "no mask"}, removed=0, warnings=1
    )

    @flow(name="stored", flow_run_name="stored", persist_result=True, result_serializer="json")
    def stored(place: str) -> PreparationSummary:
        return ended(summary, summary.state, summary.message)

    assert as_summary(PreparationSummary, stored(str(tmp_path))) == summary
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(runs_over(tmp_path)["stored"].id).state
    assert state
    assert as_summary(PreparationSummary, state.result(_sync=True)) == summary
