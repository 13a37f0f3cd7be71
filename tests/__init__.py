"""All tests. Settings of Prefect and PyTorch are made here, before anything imports these."""

import gc
import os

from flows.cli import ENVIRONMENT

os.environ.update({name: value for name, value in ENVIRONMENT.items() if name not in os.environ})
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side: more threads would only wait for each other
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # commands in processes of their own are compiled once, not each time
gc.set_threshold(50_000)  # collecting garbage as often as usual takes a tenth of the processor time
