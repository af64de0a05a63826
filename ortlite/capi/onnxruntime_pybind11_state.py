"""What onnxruntime's compiled module has: exceptions, options, values, and the inner InferenceSession.

onnxruntime has two classes where ortlite has one (OrtValue, OrtDevice, SparseTensor): here both names mean that one.
"""

from __future__ import annotations

from ortlite.api.adapters import AdapterFormat, LoraAdapter
from ortlite.api.binding import SessionIOBinding
from ortlite.api.device import OrtArenaCfg, OrtDevice, OrtMemoryInfo
from ortlite.api.device import create_and_register_allocator as create_and_register_allocator
from ortlite.api.device import create_and_register_allocator_v2 as create_and_register_allocator_v2
from ortlite.api.enums import *  # noqa: F403
from ortlite.api.enums import ArenaExtendStrategy
from ortlite.api.enums import __all__ as _enums
from ortlite.api.environment import *  # noqa: F403
from ortlite.api.environment import __all__ as _environment
from ortlite.api.ep_devices import *  # noqa: F403
from ortlite.api.ep_devices import __all__ as _devices
from ortlite.api.inner import InferenceSession
from ortlite.api.logs import set_default_logger_callback, set_default_logger_severity, set_default_logger_verbosity
from ortlite.api.model_compiler import ModelCompiler, OrtExternalInitializerInfo
from ortlite.api.options import RunOptions, SessionOptions
from ortlite.api.ortvalue import OrtValue, OrtValueVector, copy_tensors
from ortlite.api.providers import get_all_providers, get_available_providers
from ortlite.api.schemas import get_all_operator_schema, get_all_opkernel_def
from ortlite.api.session import InferenceSession as _Outer
from ortlite.api.sparse import SparseBlockSparseView, SparseCooView, SparseCsrView, SparseTensor
from ortlite.api.values import ModelMetadata, NodeArg
from ortlite.errors import (
    DeviceReset,
    EngineError,
    EPFail,
    Fail,
    InvalidArgument,
    InvalidGraph,
    InvalidProtobuf,
    ModelLoadCanceled,
    ModelLoaded,
    ModelRequiresCompilation,
    NoModel,
    NoSuchFile,
    NotFound,
    NotImplemented,
    RuntimeException,
)
from ortlite.tools.blockwise import *  # noqa: F403
from ortlite.tools.blockwise import __all__ as _blockwise

InferenceSession._outer = _Outer  # noqa: SLF001  (each makes the other, and one of them has to be told)

kNextPowerOfTwo = ArenaExtendStrategy.kNextPowerOfTwo  # noqa: N816  (onnxruntime's names)
kSameAsRequested = ArenaExtendStrategy.kSameAsRequested  # noqa: N816

__all__ = [
    "AdapterFormat", "DeviceReset", "EPFail", "EngineError", "Fail", "InferenceSession", "InvalidArgument",
    "InvalidGraph", "InvalidProtobuf", "LoraAdapter", "ModelCompiler", "ModelLoadCanceled", "ModelLoaded",
    "ModelMetadata", "ModelRequiresCompilation", "NoModel", "NoSuchFile", "NodeArg", "NotFound", "NotImplemented",
    "OrtArenaCfg", "OrtDevice", "OrtExternalInitializerInfo", "OrtMemoryInfo", "OrtValue", "OrtValueVector",
    "RunOptions", "RuntimeException", "SessionIOBinding", "SessionOptions", "SparseBlockSparseView", "SparseCooView",
    "SparseCsrView", "SparseTensor", "copy_tensors", "create_and_register_allocator",
    "create_and_register_allocator_v2", "get_all_operator_schema", "get_all_opkernel_def", "get_all_providers",
    "get_available_providers", "get_default_session_options", "get_session_initializer", "kNextPowerOfTwo",
    "kSameAsRequested", "set_default_logger_callback", "set_default_logger_severity", "set_default_logger_verbosity",
    *_enums, *_environment, *_devices, *_blockwise,
]  # fmt: skip


def get_default_session_options() -> SessionOptions:
    """New options, all at their defaults."""
    return SessionOptions()


def get_session_initializer() -> SessionOptions:
    """The same, under an old name."""
    return SessionOptions()
