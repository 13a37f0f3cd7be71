"""Prefect flows: they compose tasks. The command line is here as well."""
