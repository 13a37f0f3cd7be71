"""Credentials come from the environment, and stand in no log, no file, and nothing that Prefect keeps."""

import os
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs

from tests.phantoms import QUICK_SETTINGS, small_archive
from tests.reliability.ledger import Ledger
from tests.zssmnet.examinations import Archive

pytestmark = pytest.mark.integration

SECRET, TOKEN, PASSWORD = "PlantedSecret0123/abc+def", "PlantedToken4567", "PlantedPassword89"
PLANTED = (SECRET, SECRET.replace("/", "%2F").replace("+", "%2B"), TOKEN, PASSWORD)


@pytest.fixture(scope="module")
def archive(s3_endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An archive in a bucket."""
    folder = tmp_path_factory.mktemp("archive")
    for seed, case_id in enumerate("ab"):
        Archive(folder).add(case_id, seed=seed)
    bucket = s3fs.S3FileSystem(use_listings_cache=False)
    bucket.mkdir("planted")
    bucket.put(f"{folder}/", "planted/archive/", recursive=True)
    return "s3://planted/archive"


@pytest.fixture
def guarded(s3_endpoint: str) -> Iterator[None]:
    """The endpoint asks for keys, and refuses those that it does not know."""
    _after_requests(s3_endpoint, "0")
    yield
    _after_requests(s3_endpoint, "inf")


def _after_requests(endpoint: str, count: str) -> None:
    address, head = f"{endpoint}/moto-api/reset-auth", {"Content-Type": "text/plain"}
    request = urllib.request.Request(address, count.encode(), head, method="POST")
    with urllib.request.urlopen(request, timeout=30):
        pass


def found_in(text: bytes) -> list[str]:
    return [secret for secret in PLANTED if secret.encode() in text]


class Commands:
    """Commands in processes of their own, with planted secrets around them.

    Args:
        folder: all that they leave is below it.
        server: Prefect's settings, for commands that are flows.
    """

    def __init__(self, folder: Path, server: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.environment = (
            {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
            | {
                "AWS_ACCESS_KEY_ID": "planted-key",
                "AWS_SECRET_ACCESS_KEY": SECRET,
                "AWS_SESSION_TOKEN": TOKEN,
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_MAX_ATTEMPTS": "1",
                "ZSSMNET_CACHE": str(folder / "cache"),
                "HOME": str(folder / "home"),
                "TMPDIR": str(folder / "tmp"),
            }
            | (server or {})
        )
        for name in ("home", "tmp"):
            (folder / name).mkdir()

    def run(self, *arguments: str, status: int, **environment: str) -> str:
        """What a command says; no secret stands in it, nor in any file that it leaves."""
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", *arguments],
            env=self.environment | environment,
            capture_output=True,
            timeout=600,
            check=False,
        )
        output = done.stdout + done.stderr
        assert found_in(output) == []
        assert done.returncode == status, output.decode()[-2000:]
        assert b"Traceback" not in done.stderr
        for path in self.folder.rglob("*"):
            assert not path.is_file() or found_in(path.read_bytes()) == [], path
        return output.decode()


@pytest.fixture(params=["plain", "flow"])
def commands(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Commands]:
    """Plain ones, and flows, of which Prefect's server keeps no secret."""
    if request.param == "plain":
        yield Commands(tmp_path)
        return
    api = request.getfixturevalue("prefect_api")
    database = request.getfixturevalue("prefect_database")
    yield Commands(tmp_path, {"PREFECT_API_URL": api, "PREFECT_LOGGING_LEVEL": "DEBUG"})
    assert found_in(_content(database)) == []


FLOW_IS_LONG = pytest.mark.parametrize(
    "commands", ["plain", pytest.param("flow", marks=pytest.mark.long)], indirect=True
)


def _content(file: Path) -> bytes:
    """All that Prefect's server keeps: its database with what is not yet written back, and what is deleted in it."""
    with sqlite3.connect(file) as database:
        assert database.execute("select count(*) from flow_run").fetchone()[0] > 0
    return b"".join(part.read_bytes() for part in file.parent.glob(f"{file.name}*"))


def test_in_good_runs(commands: Commands, archive: str, s3_endpoint: str, s3_root: str, ledger: Ledger) -> None:
    inputs = ["--images_path", f"{archive}/images", "--zonal_mask_path", f"{archive}/masks"]
    prepare = ["prepare", *inputs, "--output_path", f"{s3_root}/SSL/data", "-v"]
    with ledger.tried("planted secret", "a good run"):
        assert "2 cases prepared" in commands.run(*prepare, status=0, AWS_ENDPOINT_URL=s3_endpoint)
    with ledger.tried("planted secret", "checking what was published"):
        commands.run("verify", "--output", s3_root, status=0, AWS_ENDPOINT_URL=s3_endpoint)
    _nothing_in_the_bucket(s3_root)


@pytest.mark.long
def test_in_a_run_of_all_stages(
    commands: Commands, archive: str, s3_endpoint: str, s3_root: str, ledger: Ledger
) -> None:
    """On images of a folder; the bucket is there with the archive."""
    images, masks = small_archive(commands.folder)
    settings = commands.folder / "quick.toml"
    settings.write_text(QUICK_SETTINGS)
    inputs = ["--images_path", str(images), "--zonal_mask_path", str(masks)]
    run = ["run", *inputs, "--output", s3_root, "--config", str(settings), "--epochs", "1", "-v"]
    with ledger.tried("planted secret", "a good run"):
        assert f"weights:  {s3_root}" in commands.run(*run, status=0, AWS_ENDPOINT_URL=s3_endpoint)
    _nothing_in_the_bucket(s3_root)


def _nothing_in_the_bucket(root: str) -> None:
    bucket = s3fs.S3FileSystem(use_listings_cache=False)
    keys = bucket.find(root)
    assert keys
    for key in keys:
        assert found_in(key.encode() + bucket.cat_file(key)) == [], key


@FLOW_IS_LONG
@pytest.mark.parametrize(
    ("fault", "endpoint", "place"),
    [
        ("an endpoint that is not there, with a password in its address", "http://somebody:{}@127.0.0.1:9", "planted"),
        pytest.param("no endpoint", "http://127.0.0.1:9", "planted", marks=pytest.mark.long),
        pytest.param("a missing bucket", "", "no-such-bucket", marks=pytest.mark.long),
        pytest.param("an endpoint with a password in its address", "password", "planted", marks=pytest.mark.long),
    ],
)
def test_in_runs_that_fail(
    commands: Commands, s3_endpoint: str, ledger: Ledger, fault: str, endpoint: str, place: str
) -> None:
    chosen = {"": s3_endpoint, "password": s3_endpoint.replace("://", f"://somebody:{PASSWORD}@")}
    address, place = chosen.get(endpoint, endpoint.format(PASSWORD)), f"s3://{place}/x"
    with ledger.tried("planted secret", fault):
        command = ["prepare", "-v", "--images_path", place, "--zonal_mask_path", place, "--output_path", place]
        last = commands.run(*command, status=1, AWS_ENDPOINT_URL=address).splitlines()[-1]
        assert last.startswith(f"zssmnet: error: {place}")


@pytest.mark.long
def test_with_a_key_that_is_refused(
    commands: Commands, archive: str, s3_endpoint: str, guarded: None, ledger: Ledger
) -> None:
    with ledger.tried("planted secret", "a key that is refused"):
        command = ["prepare", "-v", "--images_path", archive, "--zonal_mask_path", archive, "--output_path", "x"]
        last = commands.run(*command, status=1, AWS_ENDPOINT_URL=s3_endpoint).splitlines()[-1]
        assert last.startswith(f"zssmnet: error: {archive}: cannot be listed: ")


@pytest.mark.parametrize(
    "address",
    [
        f"s3://planted-key:{SECRET}@planted/archive",
        f"s3://{PASSWORD}@planted/archive",
        f"s3://planted-key:{PASSWORD}",
        f"https://somebody:{PASSWORD}@127.0.0.1:9/planted",
    ],
)
def test_in_an_address(ledger: Ledger, tmp_path: Path, address: str) -> None:
    place = str(tmp_path / "x")
    for flag in ("--images_path", "--zonal_mask_path", "--output_path", "--splits_path"):
        chosen = {"--images_path": place, "--zonal_mask_path": place, "--output_path": place} | {flag: address}
        with ledger.tried("planted secret", "a secret in an address"):
            said = _refused("prepare", *(word for pair in chosen.items() for word in pair))
            assert "AWS_SECRET_ACCESS_KEY" in said
            assert len(said.splitlines()) == 1
    for command in ("versions", "verify", "rollback"):
        with ledger.tried("planted secret", "a secret in an address"):
            assert "AWS_SECRET_ACCESS_KEY" in _refused(command, "--output", address)


def _refused(*arguments: str) -> str:
    """What a command says when it is refused at once."""
    import contextlib
    import io

    from flows import cli

    stream = io.StringIO()
    with contextlib.redirect_stderr(stream), contextlib.redirect_stdout(stream), pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 1
    assert found_in(stream.getvalue().encode()) == []
    return stream.getvalue()
