"""One step that makes all the service needs on its Prefect server: ``make deploy``. It can be repeated at any time.

It makes what is not there: the bucket, the block of the result storage, the work pools ``cpu`` and ``gpu``, the
deployments of ``prefect.yaml`` and the automations that see to crashed runs (``automations.py``). Work pools that are
there keep their type and their limits, since these say what machines there are.
"""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolCreate
from prefect.exceptions import ObjectNotFound
from prefect.filesystems import RemoteFileSystem
from prefect.settings import PREFECT_API_URL, get_current_settings

from deployments.automations import ask_for_signs_of_life, automations, make
from zssmnet.errors import ServiceError, ZssmnetError, without_credentials
from zssmnet.storage.s3 import make_bucket

HOUSE = Path(__file__).resolve().parents[1]
PREFECT_FILE = HOUSE / "deployments" / "prefect.yaml"
POOLS = {
    "cpu": ("Preparation, cubes, and the flows that wait for training", None),
    "gpu": ("Training: as many runs at a time as there are GPUs", 1),
}
"""Description and concurrency limit of the work pools."""
PARAMETERS = {
    "images_path": "ZSSMNET_IMAGES",
    "zonal_mask_path": "ZSSMNET_MASKS",
    "splits_path": "ZSSMNET_SPLITS",
    "root": "ZSSMNET_ROOT",
}
"""Parameters that deployments start with, and the variables that name them; else the run form asks for them."""
RESULTS = "zssmnet-results"


def main() -> int:
    """Make everything; the exit status."""
    if not PREFECT_API_URL.value():
        print(
            "zssmnet: error: no Prefect server is named: set PREFECT_API_URL, or start one with 'make service' and "
            "take its settings with '. .service/env'",
            file=sys.stderr,
        )
        return 1
    try:
        make_result_storage()
        make_work_pools()
        deploy()
        give_parameters()
        make_automations()
    except (ZssmnetError, httpx.HTTPError, RuntimeError) as error:  # Prefect's client raises the last one, too
        told = without_credentials(f"{PREFECT_API_URL.value()}: {' '.join(str(error).split())}")
        print(f"zssmnet: error: {told}", file=sys.stderr)
        return 1
    return 0


def make_result_storage() -> None:
    """The bucket and the block for the results of runs, where a bucket is named; else results stay on local disks."""
    if not (bucket := os.environ.get("ZSSMNET_BUCKET")):
        return
    if make_bucket(bucket):
        print(f"bucket {bucket} is made")
    block = RemoteFileSystem(basepath=f"s3://{bucket}/results")  # endpoint and keys come from the environment
    block.save(RESULTS, overwrite=True)
    print(f"results of runs go to s3://{bucket}/results")


def make_work_pools() -> None:
    """The work pools that are not there, of type process."""
    with get_client(sync_client=True) as client:
        for name, (description, limit) in POOLS.items():
            try:
                there = client.read_work_pool(name)
                print(f"work pool {name} is there: type {there.type}, limit {there.concurrency_limit or 'none'}")
            except ObjectNotFound:
                new = WorkPoolCreate(name=name, type="process", description=description, concurrency_limit=limit)
                client.create_work_pool(new)
                print(f"work pool {name} is made: type process, limit {limit or 'none'}")


def deploy() -> None:
    """The deployments of ``prefect.yaml``.

    Raises:
        ServiceError: Prefect's command failed.
    """
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(PREFECT_FILE)]
    settings = get_current_settings().to_environment_variables(exclude_unset=True, include_secrets=True)
    done = subprocess.run(
        command,
        cwd=HOUSE,
        env=os.environ | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ServiceError(f"'prefect deploy' failed: {done.stdout[-2000:]}")


def give_parameters() -> None:
    """Give the deployments the parameters that the environment names, where they have them."""
    named = {name: value for name, variable in PARAMETERS.items() if (value := os.environ.get(variable))}
    with get_client(sync_client=True) as client:
        for name in deployment_names():
            deployment = client.read_deployment_by_name(name)
            taken = deployment.parameter_openapi_schema["properties"]  # type: ignore[index]
            given = {parameter: value for parameter, value in named.items() if parameter in taken}
            if given:
                update = DeploymentUpdate(parameters={**deployment.parameters, **given})
                client.update_deployment(deployment.id, update)
            told = ", ".join(f"{parameter}={value}" for parameter, value in given.items())
            print(f"deployment {name} is made" + (f" with {told}" if told else ""))


def deployment_names() -> list[str]:
    """The deployments of ``prefect.yaml``, each as flow/deployment: the flows have the same names."""
    content = yaml.safe_load(PREFECT_FILE.read_text())
    return [f"{one['name']}/{one['name']}" for one in content["deployments"]]


def make_automations() -> None:
    """The automations by which the server sees to lost and crashed runs."""
    with get_client(sync_client=True) as client:
        for wanted in automations():
            done = make(client, wanted)
            print(f"automation {wanted.name!r} is {'made' if done else 'there'}")
        if running := ask_for_signs_of_life(client):
            print(f"{running} runs are asked for a sign of life")


if __name__ == "__main__":
    sys.exit(main())
