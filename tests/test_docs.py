"""The documentation tells of the program as it is."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

from flows import cli
from flows.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def shell_commands() -> list[list[str]]:
    joined = "\n".join(block.replace("\\\n", " ") for page in PAGES for block in blocks(page, "sh"))
    return [words for line in joined.splitlines() if (words := shlex.split(line, comments=True))]


def test_commands_in_the_pages_are_taken_by_the_command_line() -> None:
    commands = [words[1:] for words in shell_commands() if words[0].endswith("zssmnet")]
    assert commands
    for arguments in commands:
        cli._parser().parse_args(arguments)


def test_commands_of_dask_in_the_pages_are_taken_by_it() -> None:
    from distributed.cli import dask_scheduler, dask_worker

    programs = {"scheduler": dask_scheduler.main, "worker": dask_worker.main}
    commands = [words[1:] for words in shell_commands() if words[0] == "dask"]
    assert {name for name, *_ in commands} == set(programs)
    for name, *arguments in commands:
        programs[name].make_context(name, arguments)


def test_make_targets_in_the_pages_are_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {words[1] for words in shell_commands() if words[0] == "make"}
    assert {"demo", "test"} <= named <= targets


def test_the_configuration_page_shows_every_default() -> None:
    (example,) = blocks(ROOT / "docs" / "configuration.md", "toml")
    shown = tomllib.loads(example)
    assert Settings.model_validate(shown) == Settings()
    assert shown == Settings().model_dump(mode="json")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_versions_agree() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    deployments = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text())["deployments"]
    assert {one["version"] for one in deployments} == {version}
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"].values()
    ours = {one["image"].split(":")[1] for one in services if one["image"].startswith("zssmnet:")}
    assert {tag.rpartition("-")[0] for tag in ours} == {version}
