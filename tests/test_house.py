"""The order of the house: dependencies point one way, zssmnet <- tasks <- flows <- deployments."""

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ROOT / "zssmnet" / "__main__.py"
"""Starts the programs of all packages; nothing imports it."""
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
    """Full names of what a module imports, with the names taken from there; anywhere in it, if no part is named."""
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
        if (name.split(".")[0] in FORBIDDEN[package] and path != PROGRAMS) or name == name_of(PROGRAMS)
    ]
    assert wrong == []


BELOW: dict[str, set[str]] = {
    "errors": set(),
    "runner": set(),
    "config": {"errors"},
    "storage": {"errors", "config"},
    "mnet": {"errors", "config"},
    "corruption": {"errors", "config"},
    "data": {"errors", "config", "storage"},
    "preparation": {"errors", "config", "storage", "data"},
    "training": {"errors", "config", "storage", "data", "preparation", "mnet", "corruption"},
}
"""What each room of the library may import from, beside itself."""
BELOW["registry"] = BELOW["training"] | {"training"}
BELOW["handoff"] = BELOW["registry"] | {"registry"}
BELOW["finetuning"] = BELOW["handoff"] | {"handoff"}  # it begins with what the next step would load
BELOW["probe"] = BELOW["finetuning"] | {"finetuning"}
BELOW["zones"] = BELOW["finetuning"] | {"finetuning"}
BELOW["report"] = BELOW["phantom"] = BELOW["probe"] | {"probe", "zones"}
BELOW["stages"] = BELOW["report"] | {"report", "phantom", "runner"}


@pytest.mark.parametrize("path", modules("zssmnet"), ids=name_of)
def test_rooms_of_the_library_are_in_layers(path: Path):
    room = name_of(path).split(".")[1] if path.parent != ROOT / "zssmnet" or path.stem != "__init__" else None
    if room is None or path == PROGRAMS:  # the public surface takes from everywhere
        return
    used = {name.split(".")[1] for name in imports(path) if name.startswith("zssmnet.")}
    assert used - {room} <= BELOW[room], path


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


PICKLES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
ARCHIVES = {"tarfile"}  # of zip files, which PyTorch writes, the checksums may be looked at
FORBIDDEN_CALLS = {"eval", "exec", "compile", "os.system", "os.popen", "yaml.load", "np.load", "numpy.load"}


def unsafe(tree: ast.AST) -> Iterator[str]:
    """What could run code that comes from data, or write where data tells."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=function, keywords=keywords):
                name = ast.unparse(function)
                if name in FORBIDDEN_CALLS or name.endswith((".extract", ".extractall")):
                    yield name
                given = {one.arg: one.value for one in keywords}
                if name == "torch.load" and ast.unparse(given.get("weights_only", ast.Constant(None))) != "True":
                    yield name
                if ast.unparse(given.get("shell", ast.Constant(False))) != "False":
                    yield f"{name}(shell=...)"
                if ast.unparse(given.get("allow_pickle", ast.Constant(False))) != "False":
                    yield f"{name}(allow_pickle=...)"
            case ast.Import(names=names) if found := {one.name.split(".")[0] for one in names} & (PICKLES | ARCHIVES):
                yield from found
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in PICKLES | ARCHIVES:
                yield module


@pytest.mark.parametrize("package", FORBIDDEN)
def test_nothing_can_run_code_that_comes_from_data(package: str):
    found = [f"{name_of(path)}: {what}" for path in modules(package) for what in unsafe(ast.parse(path.read_text()))]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "import os, cloudpickle as c",
        "from joblib import load",
        "from tarfile import open",
        "torch.load(a)",
        "torch.load(a, weights_only=False)",
        "np.load(a)",
        "np.lib.format.read_array(a, allow_pickle=True)",
        "eval(a)",
        "yaml.load(a)",
        "subprocess.run(a, shell=True)",
        "os.system(a)",
        "archive.extract(a)",
        "archive.extractall()",
    ],
)
def test_what_could_is_found(line: str):
    assert list(unsafe(ast.parse(line)))
