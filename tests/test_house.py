"""The order of the house: dependencies point one way, zssmnet <- tasks <- flows <- deployments."""

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {
    "zssmnet": {"prefect", "tasks", "flows", "deployments", "benchmarks", "tests"},
    "tasks": {"flows", "deployments", "benchmarks", "tests"},
    "flows": {"deployments", "benchmarks", "tests"},
    "deployments": {"benchmarks", "tests"},
}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, nodes: list[ast.AST] | None = None) -> Iterator[str]:
    """Full names of what a module imports, with the names taken from there; anywhere in it, if not told where."""
    for node in nodes if nodes is not None else ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                package = path.relative_to(ROOT).parent.parts
                base = [*package[: len(package) - level + 1], *([module] if module else [])] if level else [module]
                yield from (".".join([*map(str, base), alias.name]) for alias in names)
            case ast.Call(func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__")):
                first = node.args[0] if node.args else None
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    yield first.value


@pytest.mark.parametrize("package", FORBIDDEN)
def test_dependencies_point_one_way(package: str):
    assert modules(package)
    wrong = [
        f"{name_of(path)} imports {name}"
        for path in modules(package)
        for name in imports(path)
        if name.split(".")[0] in FORBIDDEN[package]
    ]
    assert wrong == []


def test_the_parser_finds_every_kind_of_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / "package/module.py"
    path.parent.mkdir()
    path.write_text(
        "import a, b.c as d\nfrom e import f\nfrom . import g\nfrom ..tasks import h\n"
        "def later():\n    from i.j import k\nimportlib.import_module('l')\n__import__('m')\n"
    )
    expected = {"a", "b.c", "e.f", "package.g", "tasks.h", "i.j.k", "l", "m"}
    assert set(imports(path)) == expected


def test_no_circles():
    """Modules of the library import each other in one order (imports within functions aside)."""
    names = {name_of(path) for path in modules("zssmnet")}
    needs = TopologicalSorter[str]()
    for path in modules("zssmnet"):
        found = set(imports(path, list(ast.iter_child_nodes(ast.parse(path.read_text())))))
        found |= {name.rpartition(".")[0] for name in found}
        needs.add(name_of(path), *((found & names) - {name_of(path), "zssmnet"}))
    assert set(needs.static_order()) == names  # raises CycleError


@pytest.mark.parametrize("package", ["flows", "tasks"])
def test_no_module_hides_one_of_python_s_own(package: str):
    """A worker that starts a flow from its file has that file's folder first on its path."""
    own = {path.stem for path in modules(package)} - {"__init__", "__main__"}
    assert own
    assert own & set(sys.stdlib_module_names) == set()
