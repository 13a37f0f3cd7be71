"""What a parent sends, and what it takes over when it is started again, on a real Prefect server without workers."""

from typing import Any
from uuid import UUID

import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.states import Completed, Crashed, State

from flows.of_stages import pretrain
from tasks.hand_off import HandOff, _send, hand_over
from zssmnet.config import PretrainConfig
from zssmnet.errors import ServiceError
from zssmnet.stages.pretrain import Training

PARAMETERS = {"cubes_path": "s3://bucket/cubes", "output_path": "s3://bucket/weights"}


@pytest.fixture(scope="module")
def deployment(prefect_api: str) -> str:
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="nobody", type="process"))
        flow_id = client.create_flow(pretrain)
        client.create_deployment(flow_id, name="by-nobody", work_pool_name="nobody", enforce_parameter_schema=False)
    return "pretrain/by-nobody"


def sent_by_one_parent(deployment: str, *ends: State[Any] | None) -> list[UUID]:
    """Ids of the runs that one parent gets when it sends again and again; after each, the run ends as given."""

    @task
    def send() -> UUID:
        with get_client(sync_client=True) as client:
            return _send(client, deployment, PARAMETERS).id

    @flow
    def parent() -> list[UUID]:
        ids = []
        for end in ends:
            ids.append(send())
            if end:
                with get_client(sync_client=True) as client:
                    client.set_flow_run_state(ids[-1], end, force=True)
        return ids

    found: list[UUID] = parent()
    return found


def test_a_live_run_is_taken_over(deployment: str) -> None:
    first, second = sent_by_one_parent(deployment, None, None)
    assert first == second


def test_a_completed_run_is_taken_over(deployment: str) -> None:
    first, second = sent_by_one_parent(deployment, Completed(), None)
    assert first == second


def test_a_crashed_run_is_sent_again_and_again(deployment: str) -> None:
    first, second, third, fourth = sent_by_one_parent(deployment, Crashed(), Crashed(), None, None)
    assert len({first, second, third}) == 3
    assert third == fourth


def test_each_parent_sends_its_own(deployment: str) -> None:
    assert sent_by_one_parent(deployment, None) != sent_by_one_parent(deployment, None)


def test_an_unknown_deployment_is_named_with_the_way_out(prefect_api: str) -> None:
    @flow
    def parent() -> None:
        work = Training(cubes_path="/cubes", output_path="/weights", config=PretrainConfig(), reports_path="/reports")
        hand_over(work, HandOff(deployment="pretrain/unknown"))

    with pytest.raises(ServiceError, match=r"no deployment 'pretrain/unknown' .* 'zssmnet-deploy'"):
        parent()
