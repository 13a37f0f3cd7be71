"""Dependencies are declared and locked with hashes; hooks and workflows call what is there."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = tomllib.loads((ROOT / "uv.lock").read_text())
DISTRIBUTION = {
    "PIL": "pillow",
    "aiohttp": "s3fs",  # comes with it, as the next one does
    "botocore": "s3fs",
    "contourpy": "matplotlib",  # comes with it
    "report_guided_annotation": "picai_eval",  # comes with it
    "triton": "torch",  # comes with its builds for GPUs
    "typing_extensions": "typing-extensions",
}


def test_every_import_of_the_library_is_a_dependency_or_an_extra() -> None:
    project = PROJECT["project"]
    required = [
        *project["dependencies"],
        *(one for extra in project["optional-dependencies"].values() for one in extra),
    ]
    declared = {re.match(r"[\w-]+", one)[0] for one in required}  # type: ignore[index]
    undeclared = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sorted((ROOT / "zssmnet").rglob("*.py"))
        for name in imported(path)
        if name not in {*sys.stdlib_module_names, "zssmnet", "flows", "deployments"}
        and DISTRIBUTION.get(name, name) not in declared
    ]
    assert undeclared == []


def imported(path: Path) -> set[str]:
    """First parts of the names of imported modules, anywhere in a module."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def test_every_dependency_is_pinned_with_its_hash_and_comes_from_pypi() -> None:
    packages = [one for one in LOCK["package"] if one["source"] != {"editable": "."}]
    assert len(packages) == len(LOCK["package"]) - 1 > 100
    for one in packages:
        assert one["source"] == {"registry": "https://pypi.org/simple"}, one["name"]
        files = [*one.get("wheels", ()), *([one["sdist"]] if "sdist" in one else ())]
        assert files, one["name"]
        for file in files:
            assert re.fullmatch("sha256:[0-9a-f]{64}", file["hash"]), file
            assert file["url"].startswith("https://files.pythonhosted.org/"), file


def test_the_lock_is_of_what_is_declared() -> None:
    (own,) = (one["metadata"] for one in LOCK["package"] if one["source"] == {"editable": "."})
    project = PROJECT["project"]
    declared = list(project["dependencies"])
    for extra, needed in project["optional-dependencies"].items():
        declared += [f"{one} ; extra == '{extra}'" for one in needed]
    assert locked(own["requires-dist"]) == {described(one) for one in declared}
    groups = PROJECT["dependency-groups"]
    assert set(groups) == set(own["requires-dev"])
    for group in groups:
        assert locked(own["requires-dev"][group]) == {described(one) for one in members(group)}, group


def members(group: str) -> list[str]:
    """What a group of pyproject.toml holds, with the groups that it includes."""
    found: list[str] = []
    for one in PROJECT["dependency-groups"][group]:
        found += [one] if isinstance(one, str) else members(one["include-group"])
    return found


def described(requirement: str) -> tuple[str, frozenset[str], str, str]:
    one = Requirement(requirement)
    name = re.sub(r"[-_.]+", "-", one.name).lower()
    return name, frozenset(one.extras), str(one.specifier), str(one.marker or "").replace('"', "'")


def locked(requirements: list[dict[str, object]]) -> set[tuple[str, frozenset[str], str, str]]:
    return {
        described(
            f"{one['name']}[{','.join(one.get('extras', ()))}]{one.get('specifier', '')}"  # type: ignore[arg-type]
            + (f" ; {one['marker']}" if "marker" in one else "")
        )
        for one in requirements
    }


def test_the_installer_is_taken_by_its_hashes() -> None:
    """`make setup` and the images get uv itself from the lock."""
    command = [sys.executable, str(ROOT / ".ci" / "pin"), "uv"]
    line = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(r"uv==[\d.]+( --hash=sha256:[0-9a-f]{64})+\n", line)
    for file in ("Makefile", "deployments/Dockerfile"):
        assert re.search(r"\.ci/pin uv \| \S*pip install (--quiet )?--require-hashes", (ROOT / file).read_text()), file


def commands() -> list[str]:
    """What the hooks, the workflow and CI run."""
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())["jobs"]
    return [
        *(hook["entry"] for repository in hooks for hook in repository["hooks"]),
        *(step["run"] for job in jobs.values() for step in job["steps"] if "run" in step),
        (ROOT / ".ci" / "run").read_text().splitlines()[-1],
    ]


def test_hooks_and_workflows_call_make_targets_that_are_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = [command.split() for command in commands()]
    assert ["make", "test"] in called
    for program, *arguments in called:
        assert program == "make"
        assert arguments
        assert set(arguments) <= targets


def test_hooks_need_nothing_but_the_project() -> None:
    for repository in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]:
        assert repository["repo"] == "local"
        assert all(hook["language"] == "system" for hook in repository["hooks"])


def test_the_workflow_tries_every_python_that_the_package_names() -> None:
    (job,) = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())["jobs"].values()
    named = [one.rpartition(" ")[2] for one in PROJECT["project"]["classifiers"] if "Python :: 3" in one]
    assert job["strategy"]["matrix"]["python"] == named


@pytest.mark.parametrize("name", PROJECT["project"]["scripts"])
def test_programs_are_functions_that_are_there(name: str) -> None:
    module, _, function = PROJECT["project"]["scripts"][name].partition(":")
    assert callable(getattr(import_module(module), function))
