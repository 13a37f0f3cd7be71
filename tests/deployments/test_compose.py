"""docker-compose.yml, the Dockerfile and .env.example: valid, pinned, closed to others, and in step with each other.

``compose-spec.json`` is the schema of the compose specification (https://github.com/compose-spec/compose-spec,
schema/compose-spec.json, Apache License 2.0), unchanged, as check-jsonschema 0.39.0 carries it.
"""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from packaging.requirements import Requirement

from deployments import compose

ROOT = Path(__file__).resolve().parents[2]
TEXT = compose.COMPOSE_FILE.read_text()
FILE = compose.read_compose()
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
STEPS = {"setup"}
"""Services that do one thing and end."""
SECRETS = {"POSTGRES_PASSWORD", "PREFECT_API_AUTH_STRING", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
DOCKERFILE = (ROOT / "deployments" / "Dockerfile").read_text()
_VARIABLE = re.compile(r"\$\{(\w+)([^}]*)\}")
_PINNED = re.compile(r"(:v?\d+\.\d+\.\d+|^postgres:\d+\.\d+)(-[\w.-]+)?$|@sha256:[0-9a-f]{64}$")
"""A version to its last number, of which PostgreSQL's have two."""


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of the Dockerfile by stage, the first of each being FROM."""
    joined = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", DOCKERFILE, flags=re.MULTILINE))
    found: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for line in filter(None, (line.strip() for line in joined.splitlines())):
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            name = rest.split()[2]
            found[name] = []
        found[name].append((instruction, rest.strip()))
    return found


def lineage(stage: str) -> list[tuple[str, str]]:
    """The instructions of a stage and of those it is built from."""
    instructions = stages()[stage]
    origin = instructions[0][1].split()[0]
    return (lineage(origin) if origin in stages() else []) + instructions


def test_it_keeps_to_the_specification():
    schema = json.loads(Path(__file__).with_name("compose-spec.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    assert [error.message for error in validator.iter_errors(FILE)] == []
    wrong = {**FILE, "services": {"a": {"image": "b", "comand": "c"}}}
    assert not validator.is_valid(wrong)


def test_all_services_are_there():
    expected = {"postgres", "redis", "server", "services", "s3", "setup", "cpu-worker", "gpu-worker"}
    assert set(SERVICES) == expected


def test_ports_are_open_to_this_machine_only():
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("${ZSSMNET_LISTEN:-127.0.0.1}:") for port in ports)


def test_secrets_have_no_defaults():
    used = [(name, rest) for name, rest in _VARIABLE.findall(TEXT) if name in SECRETS]
    assert {name for name, _ in used} == SECRETS
    assert all(rest.startswith(":?") for _, rest in used)
    for service in SERVICES.values():
        for name, value in (service.get("environment") or {}).items():
            if re.search("PASSWORD|SECRET|AUTH_STRING", name):
                assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", value), name


def test_images_are_pinned():
    for name, service in SERVICES.items():
        assert _PINNED.search(service["image"]), name
    for stage in stages().values():
        image = stage[0][1].split()[0]
        assert image in stages() or _PINNED.search(image), image
    for tag in ("postgres", "postgres:latest", "postgres:17", "redis:alpine", "python:3.11-slim", "a/b:v1"):
        assert not _PINNED.search(tag)


def test_variables_are_explained():
    explained = set(re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    passed = {
        name
        for service in SERVICES.values()
        for name, value in (service.get("environment") or {}).items()
        if value is None
    }
    assert {name for name, _ in _VARIABLE.findall(TEXT)} | passed <= explained


def test_defaults_in_the_example_are_those_of_the_file():
    example = dict(re.findall(r"^#([A-Z_]+)=(.+)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    defaults = {name: rest.removeprefix(":-") for name, rest in _VARIABLE.findall(TEXT) if rest.startswith(":-")}
    assert defaults
    assert {name: example[name] for name in defaults} == defaults


@pytest.mark.parametrize("name", sorted(set(SERVICES) - STEPS))
def test_services_are_watched_and_restarted(name: str):
    service = SERVICES[name]
    assert service["healthcheck"]["test"][0] == "CMD"
    assert service["restart"] == "unless-stopped"


def test_setup_runs_once_and_workers_wait_for_it():
    assert SERVICES["setup"]["restart"] == "no"
    assert {name: each["condition"] for name, each in SERVICES["setup"]["depends_on"].items()} == {
        "server": "service_healthy",
        "services": "service_healthy",
        "s3": "service_healthy",
    }
    for worker in ("cpu-worker", "gpu-worker"):
        assert SERVICES[worker]["depends_on"] == {"setup": {"condition": "service_completed_successfully"}}


def test_the_order_of_starting_has_no_circle():
    order = TopologicalSorter({name: set(service.get("depends_on", {})) for name, service in SERVICES.items()})
    assert set(order.static_order()) == set(SERVICES)  # raises CycleError


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_is_root(name: str):
    service = SERVICES[name]
    if "build" in service:
        users = [user for instruction, user in lineage(service["build"]["target"]) if instruction == "USER"]
        assert users
        assert users[-1] not in ("root", "0")
        assert service.get("user", "1000") in ("1000", "${ZSSMNET_UID:-1000}")
    else:
        assert service["user"] not in ("root", "0", "0:0")
    assert service["cap_drop"] == ["ALL"]


def test_the_gpu_worker_has_all_gpus_and_one_run():
    (device,) = SERVICES["gpu-worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    command = SERVICES["gpu-worker"]["command"]
    assert command[command.index("--limit") + 1] == "1"
    assert SERVICES["gpu-worker"]["shm_size"]


def test_named_volumes_are_used_and_inputs_cannot_be_written():
    mounts = [mount for service in SERVICES.values() for mount in service.get("volumes", [])]
    named = {mount.split(":")[0] for mount in mounts if not mount.startswith("$")}
    assert named == set(FILE["volumes"])
    assert all(mount.endswith((":/archive:ro", ":/certificates:ro")) for mount in mounts if mount.startswith("$"))


@pytest.mark.parametrize("name", ["cpu-worker", "gpu-worker"])
def test_user_memory_addresses_and_certificates_of_a_worker_are_settings(name: str):
    service = SERVICES[name]
    settings = [service["user"], service["mem_limit"]]
    settings += [service["environment"][one] for one in ("PREFECT_API_URL", "AWS_ENDPOINT_URL")]
    assert all(_VARIABLE.match(one) for one in settings)
    assert {"PREFECT_API_SSL_CERT_FILE", "AWS_CA_BUNDLE"} <= set(service["environment"])
    writable = [line for _, line in lineage(service["build"]["target"]) if "1777" in line]
    assert "/cache" in writable[0], "another user than that of the image can write there"


def test_the_database_and_redis_are_out_of_the_reach_of_runs():
    assert FILE["networks"]["backend"] == {"internal": True}
    for name in ("postgres", "redis"):
        assert SERVICES[name]["networks"] == ["backend"]
    for name in ("cpu-worker", "gpu-worker", "setup", "s3"):
        assert "networks" not in SERVICES[name]


def test_notifications_can_leave():
    """The background services send them; a network that is internal leads nowhere."""
    ways = [name for name in SERVICES["services"]["networks"] if not (FILE["networks"][name] or {}).get("internal")]
    assert ways == ["default"]
    assert "ports" not in SERVICES["services"]


def test_old_runs_and_events_are_deleted():
    """By the server's services, as soon as Prefect knows the settings (`test_settings_are_known_to_prefect`)."""
    for name in ("server", "services"):
        environment = SERVICES[name]["environment"]
        assert environment["PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED"] == "events,flow_runs"
        assert "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD" in environment


def test_settings_are_known_to_prefect():
    """A setting with a wrong name is passed over in silence."""
    import prefect.settings

    names = {name for service in SERVICES.values() for name in service.get("environment") or {}}
    names |= {name for stage in stages() for name in re.findall(r"\b(PREFECT_\w+)=", str(stages()[stage]))}
    of_redis = {"PREFECT_REDIS_MESSAGING_URL", "PREFECT_REDIS_WORKER_CLEANUP_QUEUE_URL"}  # of the package prefect-redis
    for name in names - of_redis:
        if name.startswith("PREFECT_"):
            assert hasattr(prefect.settings, name), name


def test_targets_of_the_dockerfile_are_those_that_are_built():
    targets = {service["build"]["target"] for service in SERVICES.values() if "build" in service}
    assert targets == {"server", "cpu", "cuda", "s3"}
    assert targets <= set(stages())


def test_what_the_dockerfile_copies_is_there_and_reaches_the_builder():
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    sources = [
        source
        for stage in stages().values()
        for instruction, rest in stage
        if instruction == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    ]
    assert {"zssmnet", "tasks", "flows", "deployments"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert source.split("/")[0] in allowed, source


def test_dependencies_are_checked_by_their_hashes():
    installs = [line for line in DOCKERFILE.splitlines() if "pip install" in line and "--requirement" in line]
    assert len(installs) == 2  # uv, and by uv the rest
    assert all("--require-hashes" in line for line in installs)


def test_images_hold_no_tools():
    """What the lock's part for the images holds, exported as the Dockerfile does it."""
    (words,) = re.findall(r"^RUN (uv export .*?)--output-file", DOCKERFILE.replace("\\\n", " "), re.MULTILINE)
    program, *arguments = shlex.split(words)
    exported = subprocess.run(
        [Path(sys.executable).with_name(program), *arguments, "--offline"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    names = set(re.findall(r"^([a-z0-9._-]+)==[^ ;]+", exported.stdout, re.MULTILINE))
    assert {"prefect", "prefect-redis", "s3fs", "pydicom", "prefect-dask", "hatchling"} <= names
    assert not {"pytest", "moto", "playwright", "mypy", "ruff", "uv", "torch"} & names
    assert not [line for line in lineage("server") if "torch" in line[1]]


def test_versions_agree():
    (torch,) = re.findall(r"^TORCH \?= torch==(\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert re.findall(r"torch==([^\s+]+)", DOCKERFILE) == [torch, torch]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (wanted,) = (one for one in map(Requirement, project["dependencies"]) if one.name == "torch")
    assert torch in wanted.specifier
    version = project["version"]
    own = {service["image"] for service in SERVICES.values() if "build" in service}
    assert {image.rpartition(":")[2].partition("-")[0] for image in own} == {version}


def test_variables_are_replaced():
    text = "a ${A} b ${B:-or else} c ${C:-}"
    assert compose.substitute(text, {"A": "1"}) == "a 1 b or else c "
    assert compose.substitute(text, {"A": "1", "B": "2", "C": "3"}) == "a 1 b 2 c 3"
    with pytest.raises(KeyError, match="A"):
        compose.substitute("${A:?say it}", {})


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_can_get_at_the_machine(name: str):
    service = SERVICES[name]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["pids_limit"] > 0
    powers = {"privileged", "cap_add", "devices", "network_mode", "pid", "ipc", "userns_mode", "volumes_from"}
    assert powers & set(service) == set()
    assert not any("docker.sock" in str(mount) for mount in service.get("volumes", []))


def test_no_secret_gets_into_an_image():
    """Neither by an argument of the building, which stays in the image's history, nor by a file that is copied."""
    assert not [instruction for stage in stages().values() for instruction, _ in stage if instruction in ("ARG", "ADD")]
    assert all("args" not in service["build"] for service in SERVICES.values() if "build" in service)
    assert not re.search(r"PASSWORD|SECRET|AUTH_STRING|TOKEN", DOCKERFILE)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in ignored if line and not line.startswith("#")]
    assert rules[0] == "*"
    exceptions = max(number for number, rule in enumerate(rules) if rule.startswith("!"))
    assert {"**/.env*", "**/.service"} <= set(rules[exceptions:])
