"""What the Kubernetes files ask of a cluster, as Prefect's own worker sends it, checked against Kubernetes' schemas.

No cluster is needed: a server of this test takes the job that the worker makes. The schemas are those that the package
kubernetes-validate carries, in their strict form, which knows no fields but Kubernetes' own.
"""

import asyncio
import json
import shlex
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import jsonschema
import kubernetes_validate
import prefect.settings
import pytest
import yaml
from prefect.client.schemas.objects import FlowRun

from tests.test_docs import blocks

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "deployments" / "kubernetes"
PAGE = ROOT / "docs" / "kubernetes.md"
KUBERNETES = ("1.31", "1.37")
POOLS = ("cpu", "gpu")
WANTED_BY_PREFECT_ALONE = ("completions", "parallelism")
"""Prefect's worker refuses a job without these fields of its pod, of which Kubernetes knows nothing: it drops them."""


def values(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((FILES / f"{name}-values.yaml").read_text())
    return content


def worker_environment() -> dict[str, str]:
    """The settings of a worker, with the password that it gets from its secret."""
    listed = values("worker")["worker"]["extraEnvVars"]
    return {one["name"]: one.get("value", "user:PASSWORD") for one in listed}


def commands() -> list[list[str]]:
    joined = "\n".join(block.replace("\\\n", " ") for block in blocks(PAGE, "sh"))
    return [words for line in joined.splitlines() if (words := shlex.split(line, comments=True))]


def secrets_on_the_page() -> dict[str, set[str]]:
    """The entries of each secret that the page makes."""
    return {
        words[words.index("generic") + 1]: {
            words[place + 1].partition("=")[0] for place, word in enumerate(words) if word == "--from-literal"
        }
        for words in commands()
        if "secret" in words
    }


@contextmanager
def cluster() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Takes jobs, as a cluster's API does; its address, and what was sent."""
    sent: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            sent.append(json.loads(body))
            self.send_response(201)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", sent
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def send_job(pool: str, address: str) -> None:
    """Let Prefect's worker make the job of a run of a pool, with the defaults of its template."""
    # imported here: only the process that runs these tests need wait for it
    from kubernetes_asyncio.client import ApiClient, Configuration
    from prefect_kubernetes.worker import KubernetesWorker, KubernetesWorkerJobConfiguration

    template = json.loads((ROOT / "deployments" / "job_templates" / f"kubernetes-{pool}.json").read_text())
    configuration = await KubernetesWorkerJobConfiguration.from_template_and_values(template, {})
    configuration.prepare_for_flow_run(FlowRun(id=uuid4(), flow_id=uuid4(), name="a run"))
    async with ApiClient(Configuration(host=address)) as client:
        await KubernetesWorker(work_pool_name=pool)._create_job(configuration, client)


@pytest.fixture
def job(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, prefect_api: str) -> dict[str, Any]:
    """The job of a run of a pool, as it arrives at the cluster."""
    settings = {}
    for name, value in worker_environment().items():
        monkeypatch.setenv(name, value)
        if hasattr(prefect.settings, name):
            settings[getattr(prefect.settings, name)] = value
    with prefect.settings.temporary_settings(settings), cluster() as (address, sent):
        asyncio.run(send_job(request.param, address))
    (job,) = sent
    return job


def check(resource: dict[str, Any]) -> None:
    for version in KUBERNETES:
        assert kubernetes_validate.validate(resource, version, strict=True) == version


@pytest.mark.parametrize("job", POOLS, indirect=True)
def test_jobs_keep_to_the_schemas_of_kubernetes(job: dict[str, Any]) -> None:
    pod = job["spec"]["template"]["spec"]
    for field in WANTED_BY_PREFECT_ALONE:
        del pod[field]
    check(job)
    pod["nodeSelektor"] = {}
    with pytest.raises(jsonschema.ValidationError):
        check(job)


@pytest.mark.parametrize("job", POOLS, indirect=True)
def test_keys_come_from_secrets_that_the_page_makes(job: dict[str, Any]) -> None:
    assert "PASSWORD" not in json.dumps(job)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    (password,) = (one for one in container["env"] if one["name"] == "PREFECT_API_AUTH_STRING")
    reference = password["valueFrom"]["secretKeyRef"]
    made = secrets_on_the_page()
    assert reference["key"] in made[reference["name"]]
    (source,) = container["envFrom"]
    assert {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= made[source["secretRef"]["name"]]
    settings = {one["name"]: one.get("value") for one in container["env"]}
    assert settings["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30", "else a lost run is found late"


@pytest.mark.parametrize("job", POOLS, indirect=True)
def test_runs_share_the_cache_and_are_not_root(job: dict[str, Any]) -> None:
    (claim,) = yaml.safe_load_all((FILES / "cache.yaml").read_text())
    check(claim)
    pod = job["spec"]["template"]["spec"]
    assert job["metadata"]["namespace"] == claim["metadata"]["namespace"]
    names = {one["name"]: one.get("persistentVolumeClaim", {}).get("claimName") for one in pod["volumes"]}
    mounts = {one["mountPath"]: names[one["name"]] for one in pod["containers"][0]["volumeMounts"]}
    assert mounts["/cache"] == claim["metadata"]["name"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == 1000
    assert pod["containers"][0]["resources"]["limits"]["memory"]


def test_settings_of_the_charts_are_known_to_prefect(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect_kubernetes.settings import KubernetesSettings

    names = [*worker_environment(), *(one["name"] for one in values("server")["global"]["prefect"]["env"])]
    own = [name for name in names if name.startswith("PREFECT_INTEGRATIONS_KUBERNETES_")]
    for name in names:
        assert name in own or name == "DO_NOT_TRACK" or hasattr(prefect.settings, name), name
    for name in own:
        monkeypatch.setenv(name, "as it was set")
    assert str(KubernetesSettings().model_dump()).count("as it was set") == len(own)


def test_charts_and_images_are_pinned_and_of_the_same_prefect() -> None:
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    (prefect_version,) = (one["version"] for one in lock["package"] if one["name"] == "prefect")
    server, worker = values("server")["global"]["prefect"]["image"], values("worker")["worker"]["image"]
    assert server["prefectTag"] == f"{prefect_version}-python3.11"
    assert worker["prefectTag"] == f"{prefect_version}-python3.11-kubernetes"
    installs = [words for words in commands() if words[:2] == ["helm", "install"]]
    versions = {words[words.index("--version") + 1] for words in installs}
    assert len(installs) == 3
    assert len(versions) == 1
    for name in ("server", "worker"):
        assert f"prefect-{name} {versions.copy().pop()} " in (FILES / f"{name}-values.yaml").read_text()


def test_the_values_name_secrets_and_hold_none() -> None:
    made = secrets_on_the_page()
    server = values("server")
    assert "auth-string" in made[server["server"]["basicAuth"]["existingSecret"]]
    assert server["secret"]["create"] is False
    assert "connection-string" in made[server["secret"]["name"]]
    for one in values("worker")["worker"]["extraEnvVars"]:
        if "AUTH_STRING" in one["name"] and "SECRET" not in one["name"]:
            assert set(one) == {"name", "valueFrom"}
            reference = one["valueFrom"]["secretKeyRef"]
            assert reference["key"] in made[reference["name"]]


def test_files_on_the_page_are_there() -> None:
    named = {word for words in commands() for word in words if word.startswith("deployments/")}
    assert len(named) == 6
    assert all((ROOT / name).is_file() for name in named)
