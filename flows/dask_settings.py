"""Which Dask cluster the environment names. Nothing of Dask is imported here."""

import json
import os
from typing import Any

from zssmnet.errors import ConfigError

ADDRESS = "ZSSMNET_DASK_ADDRESS"
"""The scheduler of a cluster that is there."""
CLUSTER = "ZSSMNET_DASK_CLUSTER"
"""The class of a cluster that is started for a flow, and ended with it."""
ARGUMENTS = "ZSSMNET_DASK_CLUSTER_ARGUMENTS"
"""What the cluster is started with, as a JSON object."""


def is_asked_for() -> bool:
    """Whether the environment says anything about a Dask cluster."""
    return any(os.environ.get(name) for name in (ADDRESS, CLUSTER, ARGUMENTS))


def check_server_is_named() -> None:
    """Raise a ConfigError if there is no Prefect server that tasks on other machines can report to."""
    from prefect.settings import PREFECT_API_URL

    if not PREFECT_API_URL.value():
        name = ADDRESS if os.environ.get(ADDRESS) else CLUSTER
        raise ConfigError(
            f"{name}={os.environ.get(name)}: tasks on Dask's workers report to a Prefect server, and none is named: "
            f"set PREFECT_API_URL to one that all machines reach ('zssmnet-service start' starts one), or unset {name}"
        )


def cluster_arguments() -> dict[str, Any]:
    """The cluster's arguments. They may hold passwords, so that a message names only the place of the fault."""
    try:
        arguments = json.loads(os.environ.get(ARGUMENTS) or "{}")
    except ValueError as error:
        raise ConfigError(f'{ARGUMENTS}: not JSON: {error}; write an object like {{"n_workers": 2}}') from error
    if not isinstance(arguments, dict):
        kind = type(arguments).__name__
        raise ConfigError(f'{ARGUMENTS}: a {kind}, not an object; write one like {{"n_workers": 2}}')
    return arguments
