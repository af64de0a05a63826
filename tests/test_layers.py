"""Imports inside ortlite/ point downwards: from a layer to those below it, without circles."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parent.parent / "ortlite"
# Modules and packages of ortlite/, the lowest first; those of one line do not import each other.
LAYERS = [line.split() for line in """
errors dtypes forks cache version progress processors atomic heap
limits graph derived
stopping primitives
namespace schema
ops
infer provider
load partition
save plan
sizes steps
bounded inline run
specialise
steady
compile
guard memory evaluate
optimize
parameters pipeline
api
compare batches datasets backend
tools dask
ray spark capi
as_onnxruntime
children cli
demo __main__
""".strip().splitlines()]  # fmt: skip
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names}
# Each makes the other, when a program asks for it: onnxruntime has two classes of sessions.
LATE = {("ortlite.api.inner", "ortlite.api.session")}

MODULES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
}


def imported(tree: ast.AST) -> Iterator[str]:
    """What a module imports anywhere, but for type checkers alone: modules, and names behind them."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports are not read here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        yield from imported(node)


def module_of(name: str) -> str | None:
    """The module that a dotted name is, or is in."""
    return name if name in MODULES else name.rpartition(".")[0] if name.rpartition(".")[0] in MODULES else None


IMPORTS = {
    module: {found for name in imported(ast.parse(path.read_text())) if (found := module_of(name))} - {module}
    for module, path in MODULES.items()
}


def layer(module: str) -> str:
    return module.split(".")[1]


def test_every_module_has_its_layer():
    assert {layer(module) for module in MODULES if module != "ortlite"} == HEIGHT.keys()


def test_modules_import_only_from_below():
    for module, others in IMPORTS.items():
        for other in others - {"ortlite"}:
            if module != "ortlite" and layer(other) != layer(module):
                assert HEIGHT[layer(other)] < HEIGHT[layer(module)], f"{module} imports {other}"
        if "ortlite" in others:  # the public names are for those who stand above all of them
            assert HEIGHT[layer(module)] >= HEIGHT["as_onnxruntime"], f"{module} imports ortlite"


def test_there_are_no_circles():
    inside = {module: {other for other in found if (module, other) not in LATE} for module, found in IMPORTS.items()}
    TopologicalSorter(inside).prepare()  # raises CycleError


def test_only_load_save_schema_the_backend_the_examples_and_the_second_judge_import_onnx():
    allowed = {"load", "save", "schema", "backend", "datasets", "cli"}
    for module, path in MODULES.items():
        names = {name.partition(".")[0] for name in imported(ast.parse(path.read_text()))}
        if "onnx" in names and module != "ortlite.compare.reference":
            assert layer(module) in allowed, module
