"""The page of a root's models as one artifact without a run, so that it is not deleted with one."""

import hashlib
import re

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.filters import ArtifactFilter

from tasks.server import server_may_be_away
from zssmnet.report.models_page import models_page
from zssmnet.storage import Storage
from zssmnet.storage.layout import ROOT_FOLDER


def publish_models_page(weights: Storage) -> None:
    """Create or update the artifact; a server that does not answer gets it with the next model."""
    if not (page := models_page(weights)):
        return
    root = weights.uri.partition(f"/{ROOT_FOLDER}/")[0]
    with server_may_be_away(), get_client(sync_client=True) as client:
        wanted = ArtifactFilter(key={"any_": [artifact_key(root)]})
        if found := client.read_artifacts(artifact_filter=wanted):
            client.update_artifact(found[0].id, ArtifactUpdate(data=page))
        else:
            new = {"key": artifact_key(root), "type": "markdown", "description": f"Models of {root}", "data": page}
            client.create_artifact(ArtifactCreate(**new))


def artifact_key(root: str) -> str:
    """The artifact's key: letters, digits and dashes; the digest tells roots of one name apart."""
    name = re.sub("[^a-z0-9]+", "-", root.rpartition("/")[2].lower()).strip("-")
    return f"models-{name}-{hashlib.sha256(root.encode()).hexdigest()[:6]}"
