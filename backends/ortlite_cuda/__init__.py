"""CUDAExecutionProvider: PyTorch on a CUDA device, or CuPy by the option `library`, or where PyTorch has no CUDA."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from ortlite.provider import ExecutionProvider
from ortlite_cupy import CuPyExecutionProvider, nvidia_driver
from ortlite_torch import TorchExecutionProvider

__all__ = ["LIBRARIES", "CUDAExecutionProvider", "CuPyOnCUDA", "TorchOnCUDA"]


class TorchOnCUDA(TorchExecutionProvider):
    """PyTorch on a CUDA device (option `device_id`, default 0)."""

    name = "CUDAExecutionProvider"
    rank = 10
    option_names = None  # programs come with those of onnxruntime

    @classmethod
    def is_available(cls) -> bool:
        return nvidia_driver() and _built_for_cuda()

    @classmethod
    def holds(cls, kind: type) -> bool:
        return False  # TorchExecutionProvider knows torch's tensors, on every device

    @cached_property
    def device(self) -> Any:
        import torch

        return torch.device("cuda", int(self.options.get("device_id", 0)))


class CuPyOnCUDA(CuPyExecutionProvider):
    """CuPy on a CUDA device (option `device_id`, default 0)."""

    name = "CUDAExecutionProvider"
    rank = 10
    option_names = None

    @classmethod
    def holds(cls, kind: type) -> bool:
        return False  # CuPyExecutionProvider knows CuPy's arrays, on every device


LIBRARIES: dict[str, type[ExecutionProvider]] = {"torch": TorchOnCUDA, "cupy": CuPyOnCUDA}  # the first choice first


class _Choice:
    """A factory in place of a provider class; class attributes are read from the preferred implementation."""

    def __call__(self, options: Mapping[str, str] | None = None) -> ExecutionProvider:
        """The provider for `options`. Raises ValueError for another `library`, RuntimeError where it cannot be used."""
        wanted = (options or {}).get("library")
        if wanted not in {None, *LIBRARIES}:
            raise ValueError(f"the option library of CUDAExecutionProvider is torch or cupy, not {wanted!r}")
        chosen = LIBRARIES[wanted] if wanted else self.first()
        if not chosen.is_available():
            raise RuntimeError(f"CUDAExecutionProvider cannot use {chosen.library} on this machine")
        return chosen(options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.first(), name)

    def first(self) -> type[ExecutionProvider]:
        """The class of the library that is used where no option names one."""
        return next((cls for cls in LIBRARIES.values() if cls.is_available()), TorchOnCUDA)


CUDAExecutionProvider = _Choice()


def _built_for_cuda() -> bool:
    """Whether the installed torch can use CUDA, read from its version file instead of by importing it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return False
    version = Path(spec.submodule_search_locations[0]) / "version.py"
    text = version.read_text() if version.exists() else ""
    return any(line.startswith("cuda:") and "None" not in line.partition("=")[2] for line in text.splitlines())
