"""What numba compiles is kept on disk, in a directory of ours for one user, by version of our sources and of numba.

numba tells processors apart itself. Where the directory cannot be written, every process compiles anew.
"""

from __future__ import annotations

import hashlib
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

from ortlite import cache as cache_of_user
from ortlite.version import __version__
from ortlite_numpy import threads

__all__ = ["cache_class", "directory", "kept"]


@cache
def directory() -> Path:
    """Where compiled kernels are kept: by the sources of all kernels, for one may be compiled into another."""
    import numba

    sources = hashlib.sha256()
    for path in [*sorted(Path(__file__).parent.glob("*.py")), Path(threads.__file__)]:  # whose places are compiled in
        sources.update(path.read_bytes())
    return cache_of_user.folder(f"compiled-{__version__}-{sources.hexdigest()[:12]}-numba{numba.__version__}")


def kept() -> Path | None:
    """The directory in use; None where it cannot be."""
    return None if cache_class() is None else directory()


@cache
def cache_class() -> Any:
    """Numba's cache of functions, in our directory; None where that cannot be made or written."""
    try:
        from numba.core import caching

        path = directory()
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not os.access(path, os.W_OK | os.X_OK) or (hasattr(os, "getuid") and path.stat().st_uid != os.getuid()):
            return None  # what is loaded from there is code: nobody else may have put it there
        os.utime(path)  # when it was last used, which `cache.remove_unused` asks
        implementation = _without_what_is_inlined(caching.CompileResultCacheImpl)
    except (OSError, RuntimeError, AttributeError, ImportError):
        return None

    class Implementation(implementation):  # type: ignore[misc, valid-type]
        _locator_classes = (_Locator,)

    class Cache(caching.FunctionCache):  # type: ignore[misc]
        _impl_class = Implementation

        def save_overload(self, sig: Any, data: Any) -> None:
            try:
                super().save_overload(sig, data)
            except OSError:  # a full disk
                self.disable()

        def load_overload(self, sig: Any, target_context: Any) -> Any:
            try:
                return super().load_overload(sig, target_context)
            except Exception:  # noqa: BLE001  (a damaged file, whatever reading it raises: it is made anew)
                try:
                    self.flush()
                except OSError:
                    self.disable()
                return None

    _Locator.folder = str(path)
    return Cache


def _without_what_is_inlined(whole: Any) -> Any:
    """How numba reads a kernel, `whole`, without what kernels that are compiled later would inline of it.

    To read that takes as long as the rest together. It tells numba which names are defined, so these are kept beside
    it. Where numba is made another way than we know, `whole` itself.
    """
    from llvmlite import binding
    from numba.core import codegen

    known = (codegen.CPUCodeLibrary, "_get_module_for_linking"), (codegen.JitEngine, "_load_defined_symbols")
    if not all(hasattr(made, name) for made, name in known):
        return whole
    nothing = binding.parse_assembly("").as_bitcode()

    class Implementation(whole):  # type: ignore[misc]
        def reduce(self, cres: Any) -> Any:
            module = cres.library._get_module_for_linking()  # noqa: SLF001
            names = (x.name for xs in (module.functions, module.global_variables) for x in xs if not x.is_declaration)
            return super().reduce(cres), tuple(names)

        def rebuild(self, target_context: Any, payload: Any) -> Any:
            ((name, kind, data), *rest), defined = payload
            if kind != "object":
                return super().rebuild(target_context, payload[0])
            target_context.codegen()._engine._defined_symbols.update(defined)  # noqa: SLF001
            made = super().rebuild(target_context, ((name, kind, (data[0], nothing)), *rest))
            made.library._shared_module = _Later(data[1])  # noqa: SLF001
            return made

    return Implementation


class _Later:
    """A module of LLVM's that is read when somebody takes a copy of it."""

    def __init__(self, bitcode: bytes):
        self.bitcode = bitcode

    def clone(self) -> Any:
        from llvmlite import binding

        return binding.parse_bitcode(self.bitcode)

    def as_bitcode(self) -> bytes:
        return self.bitcode


class _Locator:
    """Tells numba's cache of the directory. What it keeps is as old as the directory's name says."""

    folder = ""

    def __init__(self, file: str):
        self._py_file = file

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> _Locator:
        return cls(py_file)

    def ensure_cache_path(self) -> None:
        Path(self.folder).mkdir(parents=True, exist_ok=True)

    def get_cache_path(self) -> str:
        return self.folder

    def get_source_stamp(self) -> str:
        return sys.version

    def get_disambiguator(self) -> str:
        return "0"
