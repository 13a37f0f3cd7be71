"""A command's own server depends on nothing that is meant for other servers."""

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from flows import embedded
from zssmnet.errors import ConfigError, ServiceError

CHOOSE = """
import os
from flows import embedded
if not embedded.server_is_named():
    embedded.own_environment()
from prefect.settings import PREFECT_API_URL, PREFECT_API_AUTH_STRING, PREFECT_HOME
from prefect.client.orchestration import get_client
os.environ["PREFECT_API_URL"] = "http://127.0.0.1:1/api"
from prefect.context import refresh_global_settings_context
refresh_global_settings_context()
with get_client(sync_client=True) as client:
    for transport in client._client._mounts.values():
        assert transport is None
print(PREFECT_HOME.value(), PREFECT_API_AUTH_STRING.value())
"""


OF_OTHER_SERVERS = {
    "ALL_PROXY": "socks5://127.0.0.1:9",
    "http_proxy": "socks5h://127.0.0.1:9",
    "PREFECT_API_AUTH_STRING": "admin:pw",
    "PREFECT_SERVER_API_AUTH_STRING": "admin:pw",
    "PREFECT_PROFILE": "no such profile",
    "PREFECT_SERVER_DATABASE_CONNECTION_URL": "postgresql+asyncpg://elsewhere/prefect",
}


@pytest.mark.parametrize("variables", [{}, OF_OTHER_SERVERS], ids=len)
def test_its_environment_is_its_own(variables: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "profiles.toml").write_text("[broken")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    done = subprocess.run(
        [sys.executable, "-c", CHOOSE],
        env=kept | {"PREFECT_HOME": str(tmp_path)} | variables,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout == f"{tmp_path / ('zssmnet-' + metadata.version('prefect'))} None\n", done.stderr


def test_proxies_for_s3_stay_and_the_own_server_is_asked_directly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [*os.environ]:  # restored in the end
        monkeypatch.setenv(name, os.environ[name])
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", "s3.local")
    monkeypatch.delenv("no_proxy", raising=False)
    for name in ("no_proxy", "PREFECT_PROFILES_PATH", *embedded.SETTINGS):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    embedded.own_environment()
    assert os.environ["HTTPS_PROXY"] == "http://proxy:3128"
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == "s3.local,127.0.0.1"


@pytest.mark.parametrize(
    ("address", "error", "line"),
    [
        ("localhost:4200", ConfigError, "PREFECT_API_URL=localhost:4200: no address of a server"),
        ("http://127.0.0.1:9/api", ServiceError, "PREFECT_API_URL=http://127.0.0.1:9/api: no Prefect server that can"),
    ],
)
def test_a_named_server_that_cannot_be_used_is_one_line(address: str, error: type[Exception], line: str) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: address}), pytest.raises(error) as caught:
        embedded.check_named_server()
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (("http://", "https://"), "it speaks http://, not https://"),
        (("/api", "/v1"), "the address of its API ends in /api"),
    ],
)
def test_an_address_that_is_nearly_right_is_put_right(change: tuple[str, str], hint: str, prefect_api: str) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    address = prefect_api.replace(*change)
    with temporary_settings({PREFECT_API_URL: address}), pytest.raises(ServiceError) as caught:
        embedded.check_named_server()
    assert str(caught.value).endswith(f"; {hint}, or unset PREFECT_API_URL to work without it")
