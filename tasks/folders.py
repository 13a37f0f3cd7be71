"""Addresses of a run: the same for each of its processes, or refused before any work."""

from prefect.context import FlowRunContext

from zssmnet.errors import InputError
from zssmnet.storage.environment import variable

STARTED_BY_WORKER = "PREFECT__FLOW_RUN_ID"
"""A variable that Prefect sets for the runs of deployments."""


def check_valid_everywhere(*addresses: str | None, elsewhere: bool = False) -> None:
    """Check that addresses mean the same in every process that a run has.

    Args:
        addresses: folders and files; None is none.
        elsewhere: whether a part of the run works in another process, though the run itself was started here.

    Raises:
        InputError: one depends on the current folder or on the user, in a run of a deployment, whose current folder
            is temporary, or in a run with parts elsewhere.
    """
    context = FlowRunContext.get()
    deployed = bool(variable(STARTED_BY_WORKER) or (context and context.flow_run and context.flow_run.deployment_id))
    for address in addresses if deployed or elsewhere else ():
        if address and "://" not in address and not address.startswith("/"):
            raise InputError(
                f"{address}: depends on the current folder or the user, so other processes of this run do not find it; "
                "give an absolute path or s3://bucket/prefix"
            )


def given(**parameters: str | None) -> tuple[str, ...]:
    """The values of parameters that schedules and events must find in the deployment.

    Prefect starts no run, or one that crashes with a traceback, where a required parameter is missing: the flows that
    schedules and events start require none, and a run without it fails with one line.

    Raises:
        InputError: one is missing.
    """
    if missing := ", ".join(name for name, value in parameters.items() if not value):
        raise InputError(
            f"not given: {missing}; set it once in the deployment's parameters (in the UI: Deployments, Edit), where "
            "every schedule and event finds it"
        )
    return tuple(str(value) for value in parameters.values())
