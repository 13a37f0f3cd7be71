"""The base job templates are whole; test_kubernetes.py has more of those for Kubernetes."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from prefect.workers.process import ProcessWorker

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = sorted((ROOT / "deployments" / "job_templates").glob("*.json"))
_PLACEHOLDER = re.compile(r"\{\{ *([a-z_]+) *\}\}")


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((ROOT / "deployments" / "job_templates" / name).read_text())
    return content


def defaults(template: dict[str, Any]) -> dict[str, Any]:
    properties = template["variables"]["properties"]
    return {name: schema["default"] for name, schema in properties.items() if "default" in schema}


def filled(template: dict[str, Any]) -> Any:
    """The job configuration with the variables' defaults."""
    values = defaults(template)

    def fill(part: Any) -> Any:
        match part:
            case dict():
                return {key: fill(value) for key, value in part.items()}
            case list():
                return [fill(value) for value in part]
            case str() if found := _PLACEHOLDER.fullmatch(part):
                return values.get(found[1])
        return part

    return fill(template["job_configuration"])


def test_there_is_one_for_each_pool_and_one_for_keys_in_blocks():
    names = ["docker-cpu", "docker-gpu", "kubernetes-cpu", "kubernetes-gpu", "process-s3-blocks"]
    assert [path.stem for path in TEMPLATES] == names


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_placeholders_and_variables_are_the_same(path: Path):
    template = read(path.name)
    placeholders = set(_PLACEHOLDER.findall(json.dumps(template["job_configuration"])))
    assert placeholders == set(template["variables"]["properties"])


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_variables_are_a_json_schema_that_takes_its_own_defaults(path: Path):
    template = read(path.name)
    schema = template["variables"]
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(defaults(template), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"env": ["not", "a", "mapping"]}, schema)


def test_docker_asks_for_all_gpus_and_shared_memory():
    kwargs = filled(read("docker-gpu.json"))["container_create_kwargs"]
    assert kwargs["device_requests"] == [{"Driver": "nvidia", "Count": -1, "Capabilities": [["gpu"]]}]
    assert kwargs["shm_size"] == "8g"
    assert filled(read("docker-cpu.json"))["container_create_kwargs"] == {"init": True}


@pytest.mark.parametrize("name", ["docker-cpu.json", "docker-gpu.json"])
def test_docker_shares_cache_and_network_with_the_compose_file_and_has_keys_from_blocks(name: str):
    configuration = filled(read(name))
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert configuration["volumes"] == [f"{compose['name']}_cache:/cache"]
    assert configuration["networks"] == [f"{compose['name']}_default"]
    assert {"cache", "default"} <= {*compose["volumes"], *compose["networks"]}
    own = defaults(read("process-s3-blocks.json"))["env"]
    assert configuration["env"] == own | {"AWS_ENDPOINT_URL": "http://s3:7070"}


def test_kubernetes_asks_for_one_gpu_and_shared_memory_and_waits_for_a_node():
    configuration = filled(read("kubernetes-gpu.json"))
    pod = configuration["job_manifest"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert {"name": "shared-memory", "mountPath": "/dev/shm"} in container["volumeMounts"]
    assert {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}} in pod["volumes"]
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert pod["nodeSelector"] == {}
    assert configuration["pod_watch_timeout_seconds"] >= 600


def test_no_job_can_ask_for_no_gpu():
    schema = read("kubernetes-gpu.json")["variables"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"gpu_count": 0}, schema)


def test_the_template_for_keys_in_blocks_is_prefect_s_own_but_for_the_keys():
    template, own = read("process-s3-blocks.json"), ProcessWorker.get_default_base_job_template()
    keys = template["variables"]["properties"]["env"].pop("default")
    assert template == own
    assert set(keys) == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}


@pytest.mark.parametrize("path", [path for path in TEMPLATES if "pu" in path.stem], ids=lambda path: path.stem)
def test_the_image_is_that_of_the_compose_file(path: Path):
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    pool = path.stem.partition("-")[2]
    assert defaults(read(path.name))["image"] == compose["services"][f"{pool}-worker"]["image"]
