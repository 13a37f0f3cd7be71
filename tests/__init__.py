"""All tests. Settings of Prefect and PyTorch are made here, before anything imports these."""

from flows import embedded

embedded.set_defaults()
