"""The documentation describes the program as it is, in plain technical English."""

import ast
import pkgutil
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from benchmarks.random_cubes import write_set
from flows import cli
from flows.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
READ = [
    *PAGES,
    ROOT / "SECURITY.md",
    ROOT / ".env.example",
    ROOT / "docker-compose.yml",
    ROOT / "deployments" / "prefect.yaml",
    *sorted(path for room in ("zssmnet", "tasks", "flows", "deployments") for path in (ROOT / room).rglob("*.py")),
]
UNUSUAL = """
told, tells of, tell of, tells which, says so, in a line, in the midst, manners, lease of, holds the lock
holding a lock, leader, follower, handed round, hand round, patience of storage, again and again, news, doubt
doubts, learner, first miss, number type, number types, known_if_true, tells_of, by chance, what the whole
at most so many, get their best one, any number with, learnt no better, rounded factors, are looked at
recognised by itself, started again by itself, what human prostates have, what identifies patients
it is tried again, run lives, it is waited for, nothing has come, did not take, see to it, sees to lost
trained together ended, was being changed, finished now, file of its record, seen as something else, mended, meaned
sign of life, signs of life, without a word, goes on where it was, sent again
"""
"""Words that nobody searches for; the field has better ones, such as lock, retry, dtype, worker, probability."""


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


def test_the_page_on_installing_lists_every_extra() -> None:
    page = (ROOT / "docs/tutorial.md").read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras and all(f"\n| `{extra}` |" in page for extra in extras)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_names_in_the_reference_are_there() -> None:
    names = [
        name
        for page in (ROOT / "docs/reference").glob("*.md")
        for name in re.findall("^::: (.+)", page.read_text(), re.M)
    ]
    assert names
    assert all(pkgutil.resolve_name(name) for name in names)


def test_versions_agree() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    deployments = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text())["deployments"]
    assert {one["version"] for one in deployments} == {version}
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"].values()
    ours = {one["image"].split(":")[1] for one in services if one["image"].startswith("zssmnet:")}
    assert {tag.rpartition("-")[0] for tag in ours} == {version}


def test_the_snippet_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (snippet,) = blocks(ROOT / "README.md", "python")
    write_set(tmp_path / "workdir/SSL/generated_cubes", training=5, validation=1, size=(32, 32, 4), kind="smooth")
    monkeypatch.chdir(tmp_path)
    after: dict[str, Any] = {}
    torch.manual_seed(0)
    exec(snippet, after)  # noqa: S102
    assert after["input_NCZYX"].shape[1:] == (6, 4, 32, 32)
    assert 0 < after["loss"].item() < 1
    assert all(weight.isfinite().all() for weight in after["model"].parameters())


def test_words_are_those_that_a_newcomer_knows() -> None:
    unusual = re.compile(rf"\b(?:{'|'.join(UNUSUAL.strip().replace(chr(10), ', ').split(', '))})\b", re.IGNORECASE)
    found = {}
    for file in READ:
        text = file.read_text()
        if file.suffix == ".py":
            literals = (node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant))
            text = " | ".join(literal for literal in literals if isinstance(literal, str))
        if words := unusual.findall(" ".join(text.split())):
            found[str(file.relative_to(ROOT))] = words
    assert not found
