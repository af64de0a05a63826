"""Imports point downwards: in ortlite/ from a layer to those below it, in backends to providers and what is below.

Nowhere are there circles.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "ortlite"
BACKENDS = ROOT.parent / "backends"
# Modules and packages of ortlite/, the lowest first; those of one line do not import each other.
LAYERS = [line.split() for line in """
errors dtypes forks cache version progress processors atomic heap pages ordered
limits graph garbage room
derived
stopping primitives race
namespace schema
ops
infer provider
load partition transfer
save plan
sizes steps
bounded inline run
specialise
steady stand_in signatures
compile
guard memory evaluate
optimize
parameters pipeline rows
api
compare batches datasets backend
tools dask
ray spark capi
as_onnxruntime
children cli
demo __main__
""".strip().splitlines()]  # fmt: skip
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names}
# Each makes the other, when a program asks for it: what shares a kernel out to threads is compiled as kernels are.
LATE = {("ortlite_numpy.compiled.jit", "ortlite_numpy.compiled.team")}
# Of backends, torch's Module stands above: it is a session's whole life.
ABOVE = {("ortlite_torch.module", name) for name in ("load", "parameters", "api")}


def modules_under(package: Path) -> dict[str, Path]:
    """The modules of a package, by their dotted names."""
    return {
        ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in package.rglob("*.py")
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


def imports(modules: dict[str, Path]) -> dict[str, set[str]]:
    """Which of these modules each of them imports: by the name itself, or by a name in it."""
    found = {}
    for module, path in modules.items():
        names = set(imported(ast.parse(path.read_text())))
        names |= {name.rpartition(".")[0] for name in names if name not in modules}
        found[module] = names & modules.keys() - {module}
    return found


MODULES = modules_under(ROOT)
IMPORTS = imports(MODULES)


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


def test_backends_import_providers_and_what_is_below_them():
    for package in BACKENDS.glob("ortlite_*"):
        for module, path in modules_under(package).items():
            for name in imported(ast.parse(path.read_text())):
                first, _, rest = name.partition(".")
                below = rest.partition(".")[0]
                if first == "ortlite" and HEIGHT.get(below, len(LAYERS)) > HEIGHT["provider"]:
                    assert (module, below) in ABOVE, f"{module} imports {name}"


def test_only_the_provider_that_is_always_there_is_imported_by_name():
    for module, path in MODULES.items():
        names = {name for name in imported(ast.parse(path.read_text())) if name.startswith("ortlite_")}
        assert names <= ({"ortlite_numpy.CPUExecutionProvider"} if module == "ortlite.provider" else set()), module


@pytest.mark.parametrize("package", [ROOT, *sorted(BACKENDS.glob("ortlite_*"))], ids=lambda package: package.name)
def test_there_are_no_circles(package):
    """Which module of a circle comes first depends on the program, and one of them may find the other half made."""
    found = imports(modules_under(package))
    TopologicalSorter(
        {module: {other for other in others if (module, other) not in LATE} for module, others in found.items()}
    ).prepare()  # raises CycleError


def test_kernels_import_no_array_library_but_numpy_and_that_only_on_the_host():
    """Kernels on Python objects run on NumPy alone; random numbers and resampling tables are made on the host."""
    libraries = {"numpy", "torch", "jax", "cupy", "mlx", "array_api_strict", "array_api_compat"}
    found = set()
    for module, path in MODULES.items():
        if module != "ortlite" and layer(module) in {"ops", "primitives"}:
            names = {name.partition(".")[0] for name in imported(ast.parse(path.read_text()))}
            found |= {(module, name) for name in names & libraries}
    places = {"ops.text", "ops.image", "primitives.random", "primitives.resample"}
    assert found == {(f"ortlite.{place}", "numpy") for place in places}


def test_only_load_save_schema_the_backend_the_examples_and_the_second_judge_import_onnx():
    allowed = {"load", "save", "schema", "backend", "datasets", "cli"}
    for module, path in MODULES.items():
        names = {name.partition(".")[0] for name in imported(ast.parse(path.read_text()))}
        if "onnx" in names and module != "ortlite.compare.reference":
            assert layer(module) in allowed, module
