"""What a flow returns is its summary, also where Prefect has stored it, or where the server has lost it."""

from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.events.clients import NullEventsClient
from prefect.events.worker import EventsWorker
from prefect.exceptions import MissingResult
from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

from flows.of_stages import as_flow, summary_of
from tests.reliability.faulty_s3 import Exchange, Rule, answer_lost, faulty_proxy, pass_on
from tests.runs import runs_over
from zssmnet.runner import Runner
from zssmnet.stages.prepare import PreparationSummary

SUMMARY = PreparationSummary(
    data_path="data", prepared=1, up_to_date=2, left_out={"1_1": "no mask"}, removed=0, warnings=1
)


def a_stage(place_path: str, runner: Runner | None = None) -> PreparationSummary:
    """Do nothing.

    Args:
        place_path: a folder.
    """
    return SUMMARY


def test_a_stored_summary_comes_back(prefect_api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_LOCAL_STORAGE_PATH", str(tmp_path / "results"))
    stored = as_flow(a_stage, "stored", "place_path").with_options(persist_result=True, result_serializer="json")
    assert stored(str(tmp_path)) == SUMMARY
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(runs_over(tmp_path)["stored"].id).state
    assert state
    assert (state.name, state.message) == ("Cases left out", "3 of 4 cases used, 1 with warnings")


def test_a_summary_is_not_lost_with_the_answer_to_the_end_of_a_run(
    prefect_api: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The end is sent a second time then, and the server, which has it, gives its own state."""
    lost: list[str] = []

    def lose_the_end(exchange: Exchange) -> None:
        if exchange.path.endswith("/set_state") and b'"COMPLETED"' in exchange.body and exchange.path not in lost:
            lost.append(exchange.path)
            return answer_lost(exchange)
        return pass_on(exchange)

    unanswered = as_flow(a_stage, "unanswered", "place_path")
    monkeypatch.setattr(EventsWorker, "_client_override", (NullEventsClient, ()))  # the proxy takes no WebSockets
    with faulty_proxy(prefect_api.removesuffix("/api")) as proxy:
        proxy.rules.append(Rule(lose_the_end))
        with temporary_settings({PREFECT_API_URL: f"{proxy.address}/api", PREFECT_LOGGING_TO_API_ENABLED: False}):
            assert summary_of(unanswered, {"place_path": str(tmp_path)}) == SUMMARY
            with pytest.raises(MissingResult):
                unanswered(str(tmp_path))
    assert len(lost) == 2
