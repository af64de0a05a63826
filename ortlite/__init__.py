"""One ONNX runtime for every array library, with onnxruntime's Python API.

`import ortlite as ort` where a program says `import onnxruntime as ort`. Public names are imported when they
are first used, so that this import costs little more than NumPy's.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ortlite.version import __version__ as __version__

if TYPE_CHECKING:
    from ortlite.api.adapters import AdapterFormat as AdapterFormat
    from ortlite.api.adapters import LoraAdapter as LoraAdapter
    from ortlite.api.binding import IOBinding as IOBinding
    from ortlite.api.binding import SessionIOBinding as SessionIOBinding
    from ortlite.api.device import OrtArenaCfg as OrtArenaCfg
    from ortlite.api.device import OrtDevice as OrtDevice
    from ortlite.api.device import OrtMemoryInfo as OrtMemoryInfo
    from ortlite.api.device import create_and_register_allocator as create_and_register_allocator
    from ortlite.api.device import create_and_register_allocator_v2 as create_and_register_allocator_v2
    from ortlite.api.enums import ExecutionMode as ExecutionMode
    from ortlite.api.enums import ExecutionOrder as ExecutionOrder
    from ortlite.api.enums import GraphOptimizationLevel as GraphOptimizationLevel
    from ortlite.api.enums import ModelPackageWriteMode as ModelPackageWriteMode
    from ortlite.api.enums import OrtAllocatorType as OrtAllocatorType
    from ortlite.api.enums import OrtCompileApiFlags as OrtCompileApiFlags
    from ortlite.api.enums import OrtDeviceMemoryType as OrtDeviceMemoryType
    from ortlite.api.enums import OrtDeviceVendorId as OrtDeviceVendorId
    from ortlite.api.enums import OrtExecutionProviderDevicePolicy as OrtExecutionProviderDevicePolicy
    from ortlite.api.enums import OrtHardwareDeviceType as OrtHardwareDeviceType
    from ortlite.api.enums import OrtMemoryInfoDeviceType as OrtMemoryInfoDeviceType
    from ortlite.api.enums import OrtMemType as OrtMemType
    from ortlite.api.enums import OrtSparseFormat as OrtSparseFormat
    from ortlite.api.environment import disable_telemetry_events as disable_telemetry_events
    from ortlite.api.environment import enable_telemetry_events as enable_telemetry_events
    from ortlite.api.environment import get_build_info as get_build_info
    from ortlite.api.environment import get_device as get_device
    from ortlite.api.environment import get_version_string as get_version_string
    from ortlite.api.environment import has_collective_ops as has_collective_ops
    from ortlite.api.environment import preload_dlls as preload_dlls
    from ortlite.api.environment import print_debug_info as print_debug_info
    from ortlite.api.environment import register_execution_provider_library as register_execution_provider_library
    from ortlite.api.environment import set_global_thread_pool_sizes as set_global_thread_pool_sizes
    from ortlite.api.environment import set_seed as set_seed
    from ortlite.api.environment import unregister_execution_provider_library as unregister_execution_provider_library
    from ortlite.api.ep_devices import ModelPackage as ModelPackage
    from ortlite.api.ep_devices import ModelPackageComponentContext as ModelPackageComponentContext
    from ortlite.api.ep_devices import ModelPackageContext as ModelPackageContext
    from ortlite.api.ep_devices import ModelPackageOptions as ModelPackageOptions
    from ortlite.api.ep_devices import OrtEpAssignedNode as OrtEpAssignedNode
    from ortlite.api.ep_devices import OrtEpAssignedSubgraph as OrtEpAssignedSubgraph
    from ortlite.api.ep_devices import OrtEpContextData as OrtEpContextData
    from ortlite.api.ep_devices import OrtEpContextDataBuffer as OrtEpContextDataBuffer
    from ortlite.api.ep_devices import OrtEpDevice as OrtEpDevice
    from ortlite.api.ep_devices import OrtHardwareDevice as OrtHardwareDevice
    from ortlite.api.ep_devices import OrtSyncStream as OrtSyncStream
    from ortlite.api.ep_devices import get_ep_devices as get_ep_devices
    from ortlite.api.function import function as function
    from ortlite.api.logs import set_default_logger_callback as set_default_logger_callback
    from ortlite.api.logs import set_default_logger_severity as set_default_logger_severity
    from ortlite.api.logs import set_default_logger_verbosity as set_default_logger_verbosity
    from ortlite.api.model_compiler import ModelCompiler as ModelCompiler
    from ortlite.api.model_compiler import OrtExternalInitializerInfo as OrtExternalInitializerInfo
    from ortlite.api.options import RunOptions as RunOptions
    from ortlite.api.options import SessionOptions as SessionOptions
    from ortlite.api.ortvalue import OrtValue as OrtValue
    from ortlite.api.ortvalue import OrtValueVector as OrtValueVector
    from ortlite.api.ortvalue import copy_tensors as copy_tensors
    from ortlite.api.providers import get_all_providers as get_all_providers
    from ortlite.api.providers import get_available_providers as get_available_providers
    from ortlite.api.session import InferenceSession as InferenceSession
    from ortlite.api.sparse import SparseTensor as SparseTensor
    from ortlite.api.values import ModelMetadata as ModelMetadata
    from ortlite.api.values import NodeArg as NodeArg
    from ortlite.as_onnxruntime import install_as_onnxruntime as install_as_onnxruntime
    from ortlite.errors import LimitExceeded as LimitExceeded
    from ortlite.limits import Limits as Limits
    from ortlite.ops.registry import op as op
    from ortlite.stopping import RunTimeout as RunTimeout
    from ortlite.tools.bench import bench as bench
    from ortlite.tools.check import check as check
    from ortlite.tools.info import info as info
    from ortlite.tools.profile import profile as profile

_HOMES = {
    "api.adapters": "AdapterFormat LoraAdapter",
    "api.binding": "IOBinding SessionIOBinding",
    "api.device": "OrtArenaCfg OrtDevice OrtMemoryInfo create_and_register_allocator create_and_register_allocator_v2",
    "api.enums": (
        "ExecutionMode ExecutionOrder GraphOptimizationLevel ModelPackageWriteMode OrtAllocatorType "
        "OrtCompileApiFlags OrtDeviceMemoryType OrtDeviceVendorId OrtExecutionProviderDevicePolicy "
        "OrtHardwareDeviceType OrtMemType OrtMemoryInfoDeviceType OrtSparseFormat"
    ),
    "api.environment": (
        "disable_telemetry_events enable_telemetry_events get_build_info get_device get_version_string "
        "has_collective_ops preload_dlls print_debug_info register_execution_provider_library "
        "set_global_thread_pool_sizes set_seed unregister_execution_provider_library"
    ),
    "api.ep_devices": (
        "ModelPackage ModelPackageComponentContext ModelPackageContext ModelPackageOptions OrtEpAssignedNode "
        "OrtEpAssignedSubgraph OrtEpContextData OrtEpContextDataBuffer OrtEpDevice OrtHardwareDevice "
        "OrtSyncStream get_ep_devices"
    ),
    "api.function": "function",
    "api.logs": "set_default_logger_callback set_default_logger_severity set_default_logger_verbosity",
    "api.model_compiler": "ModelCompiler OrtExternalInitializerInfo",
    "api.options": "RunOptions SessionOptions",
    "api.ortvalue": "OrtValue OrtValueVector copy_tensors",
    "api.providers": "get_all_providers get_available_providers",
    "api.session": "InferenceSession",
    "api.sparse": "SparseTensor",
    "api.values": "ModelMetadata NodeArg",
    "as_onnxruntime": "install_as_onnxruntime",
    "errors": "LimitExceeded",
    "limits": "Limits",
    "ops.registry": "op",
    "stopping": "RunTimeout",
    "tools.bench": "bench",
    "tools.check": "check",
    "tools.info": "info",
    "tools.profile": "profile",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}
__all__ = ["__version__", *sorted(_HOME)]  # noqa: PLE0604  (names of _HOME are str)


_MODULES = {"backend", "capi", "dask", "datasets", "ray", "spark"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"ortlite.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"ortlite.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
