"""One ONNX runtime for every array library, with onnxruntime's Python API.

`import ortlite as ort` where a program says `import onnxruntime as ort`. Public names are imported when they
are first used, so that this import costs little more than NumPy's.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ortlite.api.function import function as function
    from ortlite.api.options import (
        ExecutionMode as ExecutionMode,
    )
    from ortlite.api.options import (
        ExecutionOrder as ExecutionOrder,
    )
    from ortlite.api.options import (
        GraphOptimizationLevel as GraphOptimizationLevel,
    )
    from ortlite.api.options import (
        RunOptions as RunOptions,
    )
    from ortlite.api.options import (
        SessionOptions as SessionOptions,
    )
    from ortlite.api.providers import (
        get_all_providers as get_all_providers,
    )
    from ortlite.api.providers import (
        get_available_providers as get_available_providers,
    )
    from ortlite.api.session import InferenceSession as InferenceSession
    from ortlite.api.values import ModelMetadata as ModelMetadata
    from ortlite.api.values import NodeArg as NodeArg
    from ortlite.ops.registry import op as op

__version__ = "0.2.0.dev0"

_HOMES = {
    "api.function": "function",
    "api.options": "ExecutionMode ExecutionOrder GraphOptimizationLevel RunOptions SessionOptions",
    "api.providers": "get_all_providers get_available_providers",
    "api.session": "InferenceSession",
    "api.values": "ModelMetadata NodeArg",
    "ops.registry": "op",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}
__all__ = ["__version__", *sorted(_HOME)]  # noqa: PLE0604  (names of _HOME are str)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"ortlite.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
