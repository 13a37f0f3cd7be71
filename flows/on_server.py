"""Commands as flows: on the Prefect server that the environment names, or on Prefect's own temporary one."""

import logging
from typing import Any

from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL

from flows.of_stages import summary_of
from tasks.logs import hide_tracebacks
from tasks.runner import DASK_ADDRESS
from tasks.server import reason_of
from zssmnet.errors import ConfigError, ServiceError, without_credentials
from zssmnet.storage.environment import variable

log = logging.getLogger("zssmnet.flows")
_HINTS = {
    "'401 ": "set its password in PREFECT_API_AUTH_STRING",
    "'404 ": "the address of its API ends in /api",
    "WRONG_VERSION_NUMBER": "it speaks http://, not https://",
}
"""What to do about an answer of a server that was named wrongly."""


def run_flow(flow: Any, arguments: dict[str, Any]) -> Any:
    """Run a flow in this process; its summary.

    Raises:
        ConfigError: the server's address is none, or tasks are to run on Dask without one.
        ServiceError: no Prefect server answers there, or it does not accept this user; no scheduler of Dask's answers.
    """
    hide_tracebacks()
    address = variable(DASK_ADDRESS)
    if PREFECT_API_URL.value():
        _check_server(str(PREFECT_API_URL.value()))
    elif address:
        raise ConfigError(
            f"{DASK_ADDRESS}={address}: tasks on Dask's workers report to a Prefect server, and none is named: set "
            f"PREFECT_API_URL to one that all machines reach, or unset {DASK_ADDRESS}"
        )
    try:
        return summary_of(flow, arguments)
    except OSError as error:
        if address and address in str(error):  # Dask's client names it
            raise ServiceError(f"{DASK_ADDRESS}={address}: {error}; check the cluster, or unset it") from error
        raise


def _check_server(address: str) -> None:
    named = f"PREFECT_API_URL={without_credentials(address)}"
    if not address.startswith(("http://", "https://")):
        raise ConfigError(f"{named}: no address of a server; write one like http://host:4200/api, or unset it")
    try:
        with get_client(sync_client=True) as client:
            client.api_version()
    except Exception as error:  # whatever a foreign server, a proxy or no server at all leads to
        reason = reason_of(error).partition(" - For more information")[0] or type(error).__name__
        hint = next((hint for sign, hint in _HINTS.items() if sign in reason), "check the server")
        raise ServiceError(
            f"{named}: no usable Prefect server: {reason}; {hint}, or unset PREFECT_API_URL to work without it"
        ) from error
