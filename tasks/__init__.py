"""Prefect tasks: each a few lines around one library call; small records and addresses in and out, never arrays."""

from tasks.logs import set_up_logs

set_up_logs()
