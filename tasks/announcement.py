"""The event of a new model under the stable name: sent at least once for every model.

A record beside the model names the one announced last. It is written when the server has accepted the event: a run
that is killed in between, or whose server is away, leaves it to the next run to announce the model.
"""

import logging

from prefect.events import Event, RelatedResource
from prefect.runtime import flow_run

from tasks.server import UNANSWERED, reason_of, send_events
from zssmnet.registry.versions import MODEL, PretrainedModel, stable_model, version_key
from zssmnet.storage import Storage
from zssmnet.storage.records import Record, publish_record, read_record

log = logging.getLogger("zssmnet.tasks")

PUBLISHED = "zssmnet.model.published"
ANNOUNCED = "announced"
"""The record of the last announcement, in the weights' folder."""
METHOD = 1


class Announcement(Record):
    """The model that was announced last, by its run id and SHA-256."""

    run_id: str
    sha256: str


def announce(weights: Storage, reason: str) -> None:
    """Send the event, for automations to hang on, if the stable model is not the one that was announced last.

    A server that does not take it is no reason to fail: the model is published all the same.
    """
    model = stable_model(weights)
    if model is None:
        return
    announcement = Announcement(
        method=METHOD, inputs=(), outputs=(), run_id=model.run_id, sha256=model.outputs[0].sha256
    )
    if read_record(weights, ANNOUNCED, Announcement) == announcement:
        return
    try:
        send_events(_event(weights, model, reason))
    except UNANSWERED as error:
        log.warning("could not send %s; the next run retries: %s", PUBLISHED, reason_of(error))
    else:
        publish_record(weights, ANNOUNCED, announcement)


def _event(weights: Storage, model: PretrainedModel, reason: str) -> Event:
    run_id = flow_run.id
    run = {"prefect.resource.id": f"prefect.flow-run.{run_id}", "prefect.resource.role": "flow-run"}
    return Event(
        event=PUBLISHED,
        resource={"prefect.resource.id": f"zssmnet.model.{weights.where(MODEL)}", "prefect.resource.name": MODEL},
        related=[RelatedResource(run)] if run_id else [],
        payload={
            "model": weights.where(MODEL),
            "version": model.run_id,
            "version_model": weights.where(version_key(model.run_id)),
            "replaces": model.replaces,
            "sha256": model.outputs[0].sha256,
            "validation_loss": model.best_validation_loss,
            "reason": reason,
        },
    )
