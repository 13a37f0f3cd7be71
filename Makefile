# `make demo` and `make test` work on a fresh machine with Python 3.11+, make and a C compiler; each sets up .venv first.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
RESULTS := benchmarks/results
AUDIT := .audit
NNUNET := .nnunet
# of `make evidence`: cpu, or gpu, which wants a process for every second core
REGIME ?= cpu
PROCESSES ?= 2
# nnU-Net needs torchvision, which must be built for the same PyTorch
NNUNET_TORCH ?= torch==2.14.1 torchvision==0.29.1
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# uv does not read pip's variables: a mirror and its certificate serve both
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif
ifdef PIP_CERT
export SSL_CERT_FILE ?= $(PIP_CERT)
endif

.PHONY: help setup demo evidence evidence-page service service-stop deploy test format lint types tests tests-long test-nnunet reliability-page bench bench-gpu gpu-check bench-nnunet bench-page docs wheel fix lock audit clean

help:  ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## install everything, pinned, into .venv (TORCH=torch==2.11.0 for another build)

$(READY): uv.lock pyproject.toml .ci/pin
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { echo "zssmnet needs Python 3.11 to 3.13; choose one with PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python .ci/pin uv | $(BIN)/pip install --quiet --require-hashes -r /dev/stdin
	@# exported, not `uv sync`: the lock names files of PyPI, a requirements file is taken from any index or mirror
	$(BIN)/uv export --quiet --frozen --all-extras --no-extra nnunet --no-emit-project --output-file $(VENV)/requirements.txt
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(VENV) --require-hashes -r $(VENV)/requirements.txt
	$(BIN)/pip install --quiet "$(TORCH)"
	$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

demo: setup  ## synthetic examinations through every stage as a Prefect flow, with a small MNet, on the CPU
	$(BIN)/zssmnet demo --prefect --output demo

evidence: setup  ## can the probe tell, and do the recipes' weights help? Runs and docs/evidence.md; continues in .evidence
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.evidence --regime $(REGIME) --root .evidence/$(REGIME) --processes $(PROCESSES)

evidence-page:  ## docs/evidence.md anew from the figures in benchmarks/evidence.json
	$(BIN)/python -m benchmarks.evidence --regime $(REGIME)

service: setup  ## the service on this machine without containers: server, workers
	$(BIN)/zssmnet-service start

service-stop:  ## end it
	$(BIN)/zssmnet-service stop

deploy: setup  ## work pools, deployments and automations on the server that PREFECT_API_URL names, else on that of `make service`
	@if [ -z "$$PREFECT_API_URL" ] && [ -f .service/env ]; then . ./.service/env; fi; $(BIN)/zssmnet-deploy

test: format lint types tests  ## everything that CI checks

format: setup
	$(BIN)/ruff format --check .

lint: setup
	$(BIN)/ruff check .

types: setup
	$(BIN)/mypy

tests: setup
	@# side by side: some tests wait for services, others compute
	$(BIN)/pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder --durations 30 && \
	  echo "processor time, user and system, of make and of the tests:" && times

tests-long: setup  ## all tests, the long ones too (three quarters of an hour); the report of what went wrong also in benchmarks/results
	$(BIN)/pytest tests/reliability/test_soak.py --long --durations 30 --reliability-report=$(RESULTS)/long_runs.json
	$(BIN)/pytest --ignore tests/reliability/test_soak.py --long --timeout 3600 --numprocesses 4 --dist loadfile --no-loadscope-reorder --durations 30 \
	  --reliability-report=$(RESULTS)/reliability.json
	@$(BIN)/python -m tests.reliability.ledger - $(RESULTS)/reliability.json $(RESULTS)/long_runs.json

$(NNUNET)/.ready: uv.lock pyproject.toml .ci/pin
	$(PYTHON) -m venv $(NNUNET)
	$(NNUNET)/bin/python .ci/pin uv | $(NNUNET)/bin/pip install --quiet --require-hashes -r /dev/stdin
	$(NNUNET)/bin/uv export --quiet --frozen --all-extras --no-emit-project --output-file $(NNUNET)/requirements.txt
	$(NNUNET)/bin/uv pip install --quiet --compile-bytecode --python $(NNUNET) --require-hashes -r $(NNUNET)/requirements.txt
	$(NNUNET)/bin/pip install --quiet $(NNUNET_TORCH)
	$(NNUNET)/bin/pip install --quiet --no-deps --no-build-isolation -e .
	$(NNUNET)/bin/pip install --quiet --no-deps nnunet==1.7.1
	@touch $@

test-nnunet: $(NNUNET)/.ready  ## the next step in the real nnU-Net v1 and v2, in an environment of its own (.nnunet, 6 GB), on the CPU
	$(NNUNET)/bin/pytest tests/zssmnet/handoff --long --timeout 3600 --capture tee-sys

reliability-page:  ## put these reports into docs/reliability.md
	$(BIN)/python -m tests.reliability.ledger docs/reliability.md $(RESULTS)/reliability.json $(RESULTS)/long_runs.json

bench: setup  ## timings against the plain way, twenty minutes; figures also in benchmarks/results
	@mkdir -p $(RESULTS)
	$(BIN)/python -m benchmarks.preparation --json $(RESULTS)/preparation.json
	$(BIN)/python -m benchmarks.cubes --json $(RESULTS)/cubes.json
	$(BIN)/python -m benchmarks.corruption --json $(RESULTS)/corruption.json
	$(BIN)/python -m benchmarks.training --json $(RESULTS)/training.json
	$(BIN)/python -m benchmarks.traffic --json $(RESULTS)/traffic.json
	$(BIN)/python -m benchmarks.loss_curves --json $(RESULTS)/loss_curves.json --png $(RESULTS)/loss_curves.png
	$(BIN)/python -m benchmarks.orchestration --json $(RESULTS)/orchestration.json

bench-gpu: setup  ## everything about the GPU, within ten minutes; figures also in benchmarks/results
	@mkdir -p $(RESULTS)
	$(BIN)/python -m benchmarks.gpu --json $(RESULTS)/gpu.json --png $(RESULTS)/gpu_loss_curves.png

gpu-check: setup  ## what ten minutes on a card have to answer, most valuable first; continues with what is missing
	@mkdir -p $(RESULTS)
	$(BIN)/python -m benchmarks.gpu_check --json $(RESULTS)/gpu_check.json

bench-nnunet: $(NNUNET)/.ready  ## fine-tuning in nnU-Net v2 from weights and from scratch, on synthetic cases; half an hour
	@mkdir -p $(RESULTS)
	$(NNUNET)/bin/python -m benchmarks.fine_tuning --json $(RESULTS)/fine_tuning.json --png $(RESULTS)/fine_tuning.png

bench-page: setup  ## put these figures into docs/performance.md
	$(BIN)/python -m benchmarks.report docs/performance.md $(wildcard $(RESULTS)/*.json)

docs: setup  ## the documentation's pages, into site/
	$(BIN)/mkdocs build --strict --quiet

wheel: setup  ## the package for pip, into dist/
	$(BIN)/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

fix: setup  ## format the code and mend what the linter can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: setup  ## pin the dependencies of pyproject.toml anew, with hashes, in uv.lock
	$(BIN)/uv lock --quiet --upgrade --default-index https://pypi.org/simple

audit: setup  ## look the pinned packages up among the known vulnerabilities (asks https://pypi.org; no part of `make test`)
	@$(PYTHON) -m venv $(AUDIT) && $(AUDIT)/bin/pip install --quiet pip-audit==2.10.1
	@$(BIN)/uv export --quiet --frozen --all-extras --group image --no-emit-project --output-file $(AUDIT)/requirements.txt
	@$(AUDIT)/bin/pip-audit --requirement $(AUDIT)/requirements.txt --require-hashes --disable-pip --strict --progress-spinner off || \
	  { echo "Not audited, or with the findings above. \"Not found on PyPI\" or a failed connection means that https://pypi.org"; \
	    echo "could not be asked from here: nothing is known then, good or bad. Run it where it can be reached."; exit 1; }

clean:  ## remove what make made
	rm -rf $(VENV) $(AUDIT) $(NNUNET) demo .evidence site dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
