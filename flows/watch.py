"""Flow: a cheap check of the marker file of new data."""

import hashlib
import logging

from prefect import flow
from prefect.events import Event
from prefect.variables import Variable

from tasks.attention import check_disks
from tasks.folders import check_valid_everywhere, given
from tasks.run_names import named_after
from tasks.server import send_events
from zssmnet.errors import InputError
from zssmnet.storage import open_storage
from zssmnet.storage.address import S3, local_path
from zssmnet.storage.upload import MARKER

log = logging.getLogger("zssmnet.flows")

ARRIVED = "zssmnet.data.arrived"
"""The event that starts ``retrain-on-new-data``."""


@flow(name="watch-for-data", flow_run_name=named_after("images_path"), persist_result=False)  # 288 runs a day
def watch_for_data(images_path: str | None = None, marker: str = MARKER) -> bool:
    """Emit an event when the marker exists and has changed since the last check; the marker stays.

    Args:
        images_path: Folder or s3://bucket/prefix of the archive.
        marker: File below the archive, written with new content (a date, for example) after an upload.
    """
    (images_path,) = given(images_path=images_path)
    check_valid_everywhere(images_path)
    check_disks()
    archive = open_storage(images_path)
    seen = f"zssmnet_marker_{hashlib.sha256(archive.where(marker).encode()).hexdigest()[:16]}"
    entry = archive.stat(marker)
    if entry is None:
        if not images_path.startswith(S3) and not local_path(images_path).is_dir():
            raise InputError(f"{images_path}: no such folder; name the folder of the archive, as its workers see it")
        Variable.unset(seen)
        log.info("no %s: no new data", archive.where(marker))
        return False
    if Variable.get(seen) == entry.version:
        log.info("%s is unchanged: no new data", archive.where(marker))
        return False
    resource = {"prefect.resource.id": f"zssmnet.archive.{images_path}"}
    payload = {"marker": archive.where(marker), "version": entry.version}
    send_events(Event(event=ARRIVED, resource=resource, payload=payload))
    Variable.set(seen, entry.version, overwrite=True)
    log.info("%s is new: sent %s", archive.where(marker), ARRIVED)
    return True
