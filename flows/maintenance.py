"""Flows on a working root that run without training: rolling back, and cleaning."""

import logging

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed

from tasks.announcement import announce
from tasks.folders import check_valid_everywhere, given
from tasks.models_page import publish_models_page
from tasks.run_names import named_after
from tasks.runner import flow_runner
from zssmnet.registry.clean import removable, remove
from zssmnet.registry.versions import roll_back
from zssmnet.report.markdown import code
from zssmnet.storage import Storage, open_storage
from zssmnet.storage.layout import Layout

log = logging.getLogger("zssmnet.flows")


@flow(name="rollback", flow_run_name=named_after("root"))
def rollback(root: str, comment: str, version: str | None = None) -> State:
    """Make an earlier model the stable one again.

    Args:
        root: Working root; all files lie in SSL/ below it.
        comment: Why; it is kept, and stands on the page of models.
        version: Run id of the model; none: the one that the present one replaced.
    """
    weights = _weights(root)
    with flow_runner():
        model = roll_back(weights, version, comment)
    announce(weights, "rollback")
    publish_models_page(weights)
    return Completed(name="Rolled back", message=f"model {model.run_id} is the stable one again: {comment}")


@flow(name="clean", flow_run_name=named_after("root"))
def clean(root: str | None = None, unpublished: bool = False, dry_run: bool = True) -> State:
    """List what of a working root's weights is no longer needed: checkpoints, logs, old versions; remove it if wanted.

    Args:
        root: Working root; all files lie in SSL/ below it.
        unpublished: Also checkpoints of trainings without a published model.
        dry_run: Only list; switch it off to remove.
    """
    (root,) = given(root=root)
    weights = _weights(root)
    items = [one for one in removable(weights) if unpublished or one.kind != "unpublished"]
    rows = [f"| {code(one.folder)} | {one.kind} | {one.size / 1e6:,.1f} |" for one in items]
    create_markdown_artifact("\n".join(["| folder | kind | MB |", "| --- | --- | --- |", *rows]), key="summary")
    with flow_runner():
        removed = items if dry_run else remove(weights, items)
    what = "could be removed" if dry_run else "removed"
    message = f"{len(removed)} folders {what}, {sum(one.size for one in removed) / 1e6:,.1f} MB"
    return Completed(name="Listed" if dry_run else "Cleaned", message=message)


def _weights(root: str) -> Storage:
    check_valid_everywhere(root)
    return open_storage(Layout(root).weights)
