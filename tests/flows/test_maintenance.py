"""The flows that roll back and clean, and the page of a root's models, on a real server."""

from pathlib import Path
from uuid import uuid4

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import Artifact

from flows.maintenance import clean, rollback
from tasks.models_page import artifact_key, publish_models_page
from tests.model_record import model_record
from zssmnet.errors import CheckpointError
from zssmnet.registry.rollbacks import rollbacks
from zssmnet.registry.versions import publish, stable_model
from zssmnet.storage import LocalStorage, open_storage
from zssmnet.storage.layout import Layout
from zssmnet.storage.verification import verify_root

pytestmark = pytest.mark.integration


@pytest.fixture
def root(tmp_path: Path, prefect_api: str) -> str:
    """A working root with two models and a checkpoint."""
    root = str(tmp_path / f"root-{uuid4()}")
    weights = open_storage(Layout(root).weights)
    for run_id in ("aaaa", "bbbb"):
        (tmp_path / "best").write_text(f"the weights of {run_id}")
        publish(weights, model_record(run_id), tmp_path / "best")
    weights.publish_bytes("training/aaaa/last.pt", b"x" * 1_000_000)
    return root


def weights_of(root: str) -> LocalStorage:
    found = open_storage(Layout(root).weights)
    assert isinstance(found, LocalStorage)
    return found


def artifacts(client: SyncPrefectClient, key: str) -> list[Artifact]:
    return client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))


def test_a_rollback_keeps_its_comment_and_brings_the_page_up_to_date(root: str) -> None:
    """One artifact a root, which belongs to no run and is not deleted with one."""
    publish_models_page(weights_of(root))
    state = rollback(root, "the new one *misses* small lesions", return_state=True)
    assert (state.name, state.message) == (
        "Rolled back",
        "model aaaa is the stable one again: the new one *misses* small lesions",
    )
    stable = stable_model(weights_of(root))
    assert stable
    assert stable.run_id == "aaaa"
    (made,) = rollbacks(weights_of(root))
    assert (made.version, made.replaced, made.comment) == ("aaaa", "bbbb", "the new one *misses* small lesions")
    assert made.by.startswith("run 'rollback root-")
    assert verify_root(root) == []
    with get_client(sync_client=True) as client:
        (page,) = artifacts(client, artifact_key(root))
    assert page.flow_run_id is None
    assert "**`aaaa`**" in str(page.data)
    assert "the new one &#42;misses&#42; small lesions" in str(page.data)


def test_a_rollback_to_nothing_is_one_line(root: str) -> None:
    with pytest.raises(CheckpointError, match="no version cccc; there are"):
        rollback(root, "why not", "cccc")
    assert rollbacks(weights_of(root)) == []


def test_cleaning_lists_and_removes_only_if_wanted(root: str) -> None:
    file = Path(Layout(root).weights) / "training" / "aaaa" / "last.pt"
    state = clean(root, return_state=True)
    assert (state.name, state.message) == ("Listed", "1 folders could be removed, 1.0 MB")
    assert file.exists()
    state = clean(root, dry_run=False, return_state=True)
    assert (state.name, state.message) == ("Cleaned", "1 folders removed, 1.0 MB")
    assert not file.exists()
