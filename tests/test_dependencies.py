"""What the library imports is declared, so that `pip install zssmnet` gives a library that works."""

import ast
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DISTRIBUTION = {
    "PIL": "pillow",
    "aiohttp": "aiobotocore",  # comes with it, as the next one does
    "botocore": "aiobotocore",
    "contourpy": "matplotlib",  # comes with it
    "report_guided_annotation": "picai_eval",  # comes with it
    "typing_extensions": "typing-extensions",
}


def test_every_import_of_the_library_is_a_dependency_or_an_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = [
        *project["dependencies"],
        *(one for extra in project["optional-dependencies"].values() for one in extra),
    ]
    declared = {re.match(r"[\w-]+", one)[0] for one in required}  # type: ignore[index]
    undeclared = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sorted((ROOT / "zssmnet").rglob("*.py"))
        for name in imported(path)
        if name not in {*sys.stdlib_module_names, "zssmnet"} and DISTRIBUTION.get(name, name) not in declared
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
