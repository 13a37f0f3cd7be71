"""Every environment variable that the code reads is declared, and the page of settings has the same table."""

import ast
from collections.abc import Iterator
from pathlib import Path

from zssmnet.storage.environment import Environment

HOUSE = Path(__file__).resolve().parents[1]


def rows() -> list[str]:
    """The table of the page."""
    lines = ["| variable | type | default | meaning |", "| --- | --- | --- | --- |"]
    for name, field in Environment.model_fields.items():
        schema = Environment.model_json_schema()["properties"][name]
        schema = schema.get("anyOf", [schema])[0] | schema
        kind = {"string": "text", "integer": "whole number", "number": "number"}[schema["type"]]
        kind = schema["title"] if "folder" in schema["title"] else kind
        if "minimum" in schema:
            kind += f", {schema['minimum']:g} " + (f"to {schema['maximum']:g}" if "maximum" in schema else "or more")
        kind += f", `{schema['pattern']}`" if "pattern" in schema else ""
        default = "" if field.default in ("", None) else f"`{field.default}`"
        lines.append(f"| `{name}` | {kind} | {default} | {field.description} |")
    return lines


def read_in(tree: ast.AST, constants: dict[str, str]) -> Iterator[str]:
    """Names of the variables that a module reads from ``os.environ``, or with ``variable``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = ast.unparse(node.func)
            names = node.args[:1] if function in ("os.environ.get", "os.getenv", "variable") else []
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
            names = [node.slice]
        elif isinstance(node, ast.Compare) and any(ast.unparse(one) == "os.environ" for one in node.comparators):
            names = [node.left]
        else:
            continue
        for name in names:
            if isinstance(name, ast.Constant):
                yield str(name.value)
            elif isinstance(name, ast.Name) and name.id in constants:
                yield constants[name.id]


def test_the_page_has_every_variable() -> None:
    assert "\n".join(rows()) in (HOUSE / "docs" / "configuration.md").read_text()


def test_every_variable_that_is_read_is_declared() -> None:
    files = [file for room in ("zssmnet", "tasks", "flows", "deployments") for file in (HOUSE / room).rglob("*.py")]
    trees = [ast.parse(file.read_text()) for file in files]
    constants = {
        target.id: node.value.value
        for tree in trees
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name) and node.value.value.isupper()
    }
    found = {name for tree in trees for name in read_in(tree, constants)}
    assert {"ZSSMNET_CACHE", "ZSSMNET_CACHE_GB", "ZSSMNET_WEIGHTS", "TORCHELASTIC_RUN_ID"} <= found
    assert found <= set(Environment.model_fields)
