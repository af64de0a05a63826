"""`import onnxruntime` means ortlite: in this process, in a script that is run by it, in its children.

    python -m ortlite.as_onnxruntime [--children] SCRIPT [ARGUMENTS ...]
    python -m ortlite.as_onnxruntime [--children] -m MODULE [ARGUMENTS ...]

or `ortlite.install_as_onnxruntime()` before anything imports onnxruntime. Where the real package is installed, what is
plain Python in it and uses the API (onnxruntime.quantization, .tools, .transformers) is imported from there.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import runpy
import sys
from collections.abc import Iterable
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import Distribution, DistributionFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import ortlite
from ortlite import capi
from ortlite.api.environment import API_VERSION
from ortlite.errors import OrtError

__all__ = ["install_as_onnxruntime", "main"]

NAME = "onnxruntime"
CHILDREN = Path(__file__).with_name("children")  # holds the sitecustomize.py of child processes
MODULES = (
    "backend", "backend.backend", "backend.backend_rep", "capi", *(f"capi.{name}" for name in capi.MODULES), "datasets",
)  # fmt: skip
# Plain Python of the real package, where it is installed, in a package that is ours.
REAL = ("capi.convert_npz_to_onnx_adapter", "capi.onnxruntime_collect_build_info")


class _OnnxRuntime(ModuleType):
    """The module `onnxruntime`: ortlite's names, under onnxruntime's version."""

    __version__ = API_VERSION

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {NAME!r} has no attribute {name!r}")
        if f"{NAME}.{name}" in sys.modules:
            return sys.modules[f"{NAME}.{name}"]
        if name in MODULES:
            return importlib.import_module(f"{NAME}.{name}")
        return getattr(ortlite, name)

    def __dir__(self) -> list[str]:
        return [name for name in ortlite.__all__ if not name.startswith("_")]


class _Finder(DistributionFinder):
    """Finds onnxruntime's modules in ortlite, and its distribution where it is not installed."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        inner = name.removeprefix(f"{NAME}.")
        if inner in REAL:
            return PathFinder.find_spec(name, [f"{place}/capi" for place in sys.modules[NAME].__path__])
        if inner == name or inner not in MODULES:
            return None
        return ModuleSpec(name, _Loader(), is_package=inner in {"backend", "capi", "datasets"})

    def find_distributions(self, context: Any = None) -> Iterable[Distribution]:
        wanted = getattr(context, "name", None)
        return [_Distribution()] if wanted is not None and wanted.lower() == NAME else []


class _Loader(Loader):
    """Makes a module of onnxruntime's name the module of ortlite."""

    spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(f"ortlite.{spec.name.removeprefix(f'{NAME}.')}")
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """It was executed when it was imported; the import system has changed its spec."""
        module.__spec__ = self.spec


class _Distribution(Distribution):
    """What importlib.metadata says of onnxruntime where only ortlite is installed."""

    def read_text(self, filename: str) -> str | None:
        return f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {API_VERSION}\n" if filename == "METADATA" else None

    def locate_file(self, path: Any) -> Any:
        return Path(ortlite.__file__).parent / path


def install_as_onnxruntime(*, children: bool = False) -> None:
    """Make `import onnxruntime` mean ortlite from now on; with `children`, in child processes of Python as well.

    Raises RuntimeError where the real onnxruntime is imported already. To call it twice does nothing.
    """
    loaded = sys.modules.get(NAME)
    if loaded is not None and not isinstance(loaded, _OnnxRuntime):
        raise RuntimeError("onnxruntime is imported already: install ortlite in its place before that")
    if loaded is None:
        real = importlib.util.find_spec(NAME)
        module = _OnnxRuntime(NAME, ortlite.__doc__)
        module.__file__ = ortlite.__file__
        module.__path__ = [] if real is None else list(real.submodule_search_locations or [])
        module.__spec__ = ModuleSpec(NAME, None, origin=ortlite.__file__, is_package=True)
        vars(module)["__all__"] = dir(module)
        sys.modules[NAME] = module
        for kind in OrtError.__subclasses__():
            if kind.__module__ == OrtError.__module__:
                kind.__module__ = f"{NAME}.capi.onnxruntime_pybind11_state"  # programs look there, and print it
        sys.meta_path.insert(0, _Finder())
    if children:
        paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        here = [str(CHILDREN), str(Path(ortlite.__file__).parents[1])]
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([*here, *filter(None, paths)]))


def main(arguments: list[str]) -> None:
    """Run a script, or with -m a module, in which `import onnxruntime` means ortlite."""
    children = arguments[:1] == ["--children"]
    arguments = arguments[children:]
    if not arguments or arguments == ["-m"] or arguments[0] in {"-h", "--help"}:
        raise SystemExit(__doc__)
    install_as_onnxruntime(children=children)
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        sys.path[0] = str(Path.cwd())
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path[0] = str(Path(arguments[0]).resolve().parent)
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
