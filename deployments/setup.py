"""``zssmnet-deploy``: create or update all that the service needs on its Prefect server. Repeatable at any time.

It makes what is not there: the bucket, the block of the result storage, the work pools ``cpu`` and ``gpu``, the
deployments of ``prefect.yaml`` and the automations of ``automations.yaml``. Of what is there, it brings up to date what
belongs to the program (code, run forms) and leaves what belongs to its users: schedules, parameters, descriptions,
tags, pools and their limits, blocks, automations that were changed or switched off. It prints both.
"""

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound
from prefect.filesystems import RemoteFileSystem
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.settings import PREFECT_API_URL, get_current_settings
from prefect.utilities.callables import parameter_schema

from deployments.automations import announce_crashes, automations, expect_heartbeats, make, messages
from deployments.messages import BLOCK, webhook
from flows.exit_handling import run_to_its_end, say
from tasks.server import UNANSWERED, reason_of
from zssmnet.errors import ServiceError, ZssmnetError
from zssmnet.storage.environment import variable
from zssmnet.storage.s3 import make_bucket

HOUSE = Path(__file__).resolve().parents[1]
PREFECT_FILE = HOUSE / "deployments" / "prefect.yaml"
POOLS = {
    "cpu": "Preparation, cubes, and the flows that wait for training",
    "gpu": "Training: as many runs at a time as there are workers",
}
"""The work pools and their descriptions."""
PARAMETERS = {
    "images_path": "ZSSMNET_IMAGES",
    "zonal_mask_path": "ZSSMNET_MASKS",
    "zones_model": "ZSSMNET_ZONES_MODEL",
    "splits_path": "ZSSMNET_SPLITS",
    "root": "ZSSMNET_ROOT",
}
"""Parameters that deployments start with, and the variables that name them; else the run form asks for them."""
RESULTS = "zssmnet-results"


def main() -> int:
    """Create or update everything; the exit status."""
    return run_to_its_end(_make_everything)


def _make_everything() -> None:
    if not PREFECT_API_URL.value():
        raise ServiceError(
            "PREFECT_API_URL names no Prefect server: set it, or start one with 'zssmnet-service start' and take its "
            "settings with '. .service/env'"
        )
    try:
        make_result_storage()
        make_work_pools()
        deploy()
        make_automations()
    except (ZssmnetError, *UNANSWERED) as error:
        raise ServiceError(f"{PREFECT_API_URL.value()}: {reason_of(error)}") from error


def make_result_storage() -> None:
    """The bucket and the block for the results of runs, where a bucket is named; else results stay on local disks."""
    if not (bucket := variable("ZSSMNET_BUCKET")):
        return
    if make_bucket(bucket):
        say(f"bucket {bucket} is created")
    with get_client(sync_client=True) as client:
        try:
            client.read_block_document_by_name(RESULTS, "remote-file-system")
            say(f"block remote-file-system/{RESULTS} exists: results of runs go where it leads")
        except ObjectNotFound:
            block = RemoteFileSystem(basepath=f"s3://{bucket}/results")  # endpoint and keys come from the environment
            block.save(RESULTS)
            say(f"results of runs go to s3://{bucket}/results")


def make_work_pools() -> None:
    """Create the missing work pools, of type process."""
    with get_client(sync_client=True) as client:
        for name, description in POOLS.items():
            limit = variable("ZSSMNET_GPU_WORKERS") if name == "gpu" else None
            try:
                there = client.read_work_pool(name)
                say(f"work pool {name} exists: type {there.type}, limit {there.concurrency_limit or 'none'}")
            except ObjectNotFound:
                new = WorkPoolCreate(name=name, type="process", description=description, concurrency_limit=limit)
                client.create_work_pool(new)
                say(f"work pool {name} is created: type process, limit {limit or 'none'}")


def deploy() -> None:
    """Create the missing deployments of ``prefect.yaml``, and update what belongs to the program in the others.

    Raises:
        ServiceError: Prefect's command failed.
    """
    wanted = {one["name"]: one for one in yaml.safe_load(PREFECT_FILE.read_text())["deployments"]}
    named = {parameter: value for parameter, name in PARAMETERS.items() if (value := variable(name))}
    with get_client(sync_client=True) as client:
        new = [name for name in wanted if _deployment(client, name) is None]
        if new:
            _make(new)
        for name, settings in wanted.items():
            there = client.read_deployment_by_name(f"{name}/{name}")
            form = run_form(settings["entrypoint"])
            if name in new:
                given = {parameter: value for parameter, value in named.items() if parameter in form["properties"]}
                changes = {"parameters": {**there.parameters, **given}}
                lines = _of_a_new_one(there, given, form["properties"])
            else:
                changes = {"entrypoint": settings["entrypoint"], "version": settings["version"]}
                lines = _of_an_old_one(there, named, settings["version"])
            changes["parameter_openapi_schema"] = form
            client.request("PATCH", "/deployments/{id}", path_params={"id": there.id}, json=changes)
            say(*lines)


def _deployment(client: SyncPrefectClient, name: str) -> DeploymentResponse | None:
    """A deployment, which has the same name as its flow."""
    with suppress(ObjectNotFound):
        return client.read_deployment_by_name(f"{name}/{name}")
    return None


def _make(names: list[str]) -> None:
    command = [sys.executable, "-P", "-m", "prefect", "--no-prompt", "deploy", "--prefect-file", str(PREFECT_FILE)]
    settings = get_current_settings().to_environment_variables(exclude_unset=True, include_secrets=True)
    done = subprocess.run(
        [*command, *(word for name in names for word in ("--name", name))],
        cwd=HOUSE,
        env=os.environ | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ServiceError(f"'prefect deploy' failed: {done.stdout[-2000:]}")


def run_form(entrypoint: str) -> dict[str, Any]:
    """The schema of a flow's parameters, whose sections show their fields in order and by name.

    Prefect numbers and names the parameters alone; the database does not keep the order of what is not numbered.
    """
    flow: Flow[Any, Any] = load_flow_from_entrypoint(entrypoint)
    schema = parameter_schema(flow).model_dump_for_openapi()
    for section in schema.get("definitions", {}).values():
        for position, (name, field) in enumerate(section.get("properties", {}).items()):
            field |= {"position": position, "title": name}
    return schema


def _of_an_old_one(there: DeploymentResponse, named: Mapping[str, str], version: str) -> Iterator[str]:
    """What is reported of a deployment that is updated: what is left to its users."""
    schedules = ", ".join(f"{_shown(one.schedule)} {'on' if one.active else 'off'}" for one in there.schedules)
    yield (
        f"deployment {there.name} is updated to version {version}; left as they are: "
        f"schedules ({schedules or 'none'}), parameters ({', '.join(there.parameters) or 'none'})"
    )
    for name, value in named.items():
        if there.parameters.get(name, value) != value:
            yield f"deployment {there.name} keeps {name}={there.parameters[name]}, not {value} of {PARAMETERS[name]}"


def _of_a_new_one(new: DeploymentResponse, given: Mapping[str, str], taken: Iterable[str]) -> Iterator[str]:
    """What is reported of a new deployment: the parameters that the environment names, and those that it lacks."""
    described = ", ".join(f"{parameter}={value}" for parameter, value in given.items())
    yield f"deployment {new.name} is created" + (f" with {described}" if described else "")
    has = {**new.parameters, **given}
    optional = {"splits_path", "zones_model", "zonal_mask_path" if has.get("zones_model") else ""}
    missing = [one for one in PARAMETERS if one in taken and one not in optional and not has.get(one)]
    if missing and new.schedules:
        yield (
            f"note: deployment {new.name} cannot run by schedule or event before it has {', '.join(missing)}: set them "
            f"in its parameters, or {', '.join(PARAMETERS[one] for one in missing)} before it is created"
        )


def _shown(schedule: Any) -> str:
    return next(str(value) for name in ("cron", "interval", "rrule") if (value := getattr(schedule, name, None)))


def make_automations() -> None:
    """The automations by which the server handles lost and crashed runs."""
    with get_client(sync_client=True) as client:
        block, is_new = webhook(client)
        if is_new:
            say(f"block webhook/{BLOCK} is created: set your address in it before you switch messages on")
        for wanted in [*automations(), *messages(block)]:
            say(f"automation {wanted.name!r} is {make(client, wanted)}")
        if running := expect_heartbeats(client):
            say(f"{running} running runs must send a heartbeat")
        if crashed := announce_crashes(client):
            say(f"{crashed} crashed runs are announced to the automations again")


if __name__ == "__main__":
    sys.exit(main())
