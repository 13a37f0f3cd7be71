"""What a flow returns is its summary, also where Prefect has stored it, or where the server has lost it."""

from pathlib import Path

import pytest
from flows.states import ended, state_after, summary_of
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.events.clients import NullEventsClient
from prefect.events.worker import EventsWorker
from prefect.exceptions import MissingResult
from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

from tests.reliability.faulty_s3 import Exchange, Rule, answer_lost, faulty_proxy, pass_on
from tests.runs import runs_over
from zssmnet.stages.prepare import PreparationSummary

SUMMARY = PreparationSummary(
    data_path="data", prepared=1, up_to_date=2, left_out={"1_1": "no mask"}, removed=0, warnings=1
)


def test_a_stored_summary_comes_back(prefect_api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_LOCAL_STORAGE_PATH", str(tmp_path / "results"))

    @flow(name="stored", flow_run_name="stored", persist_result=True, result_serializer="json")
    def stored(place: str) -> PreparationSummary:
        return ended(SUMMARY, *state_after(SUMMARY))

    assert stored(str(tmp_path)) == SUMMARY
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(runs_over(tmp_path)["stored"].id).state
    assert state
    assert (state.name, state.message) == ("Cases left out", "3 of 4 cases used, 1 with warnings")


def test_a_summary_is_not_lost_with_the_answer_to_the_end_of_a_run(
    prefect_api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end is sent a second time then, and the server, which has it, gives its own state."""
    lost: list[str] = []

    def lose_the_end(exchange: Exchange) -> None:
        if exchange.path.endswith("/set_state") and b'"COMPLETED"' in exchange.body and exchange.path not in lost:
            lost.append(exchange.path)
            return answer_lost(exchange)
        return pass_on(exchange)

    @flow(name="unanswered")
    def unanswered() -> PreparationSummary:
        return ended(SUMMARY, *state_after(SUMMARY))

    monkeypatch.setattr(EventsWorker, "_client_override", (NullEventsClient, ()))  # the proxy takes no WebSockets
    with faulty_proxy(prefect_api.removesuffix("/api")) as proxy:
        proxy.rules.append(Rule(lose_the_end))
        with temporary_settings({PREFECT_API_URL: f"{proxy.address}/api", PREFECT_LOGGING_TO_API_ENABLED: False}):
            assert summary_of(unanswered) == SUMMARY
            with pytest.raises(MissingResult):
                unanswered()
    assert len(lost) == 2
