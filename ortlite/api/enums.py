"""onnxruntime's enumerations: the same names and numbers."""

from __future__ import annotations

from enum import Enum, IntEnum
from operator import index
from typing import Any

__all__ = [
    "ArenaExtendStrategy", "ExecutionMode", "ExecutionOrder", "GraphOptimizationLevel", "ModelPackageWriteMode",
    "OrtAllocatorType", "OrtCompileApiFlags", "OrtCompiledModelCompatibility", "OrtDeviceEpIncompatibilityReason",
    "OrtDeviceMemoryType", "OrtDeviceVendorId", "OrtExecutionProviderDevicePolicy", "OrtHardwareDeviceType",
    "OrtMemType", "OrtMemoryInfoDeviceType", "OrtSparseFormat",
]  # fmt: skip


class _Enum(Enum):
    """What pybind11 makes of an enumeration: no int, but equal to one; it has no order, and is never false.

    Numbers without a name are taken, too.
    """

    _value_: int

    def __str__(self) -> str:
        return f"{type(self).__name__}.{self.name}"

    def __int__(self) -> int:
        return self._value_

    __index__ = __int__

    def __eq__(self, other: object) -> bool:
        return self._value_ == other

    def __hash__(self) -> int:
        return hash(self._value_)

    @classmethod
    def _missing_(cls, value: Any) -> Any:
        if not hasattr(type(value), "__index__"):
            raise TypeError(f"{cls.__name__} takes an int, not {type(value).__name__}")
        number = index(value)
        if number in cls._value2member_map_:
            return cls(number)
        nameless = object.__new__(cls)
        nameless._name_, nameless._value_ = "???", number
        return nameless


class _Flags(_Enum):
    """One that may be combined and ordered, as ints are."""

    def __or__(self, other: Any) -> int:
        return self._value_ | int(other)

    def __and__(self, other: Any) -> int:
        return self._value_ & int(other)

    def __xor__(self, other: Any) -> int:
        return self._value_ ^ int(other)

    def __lt__(self, other: Any) -> bool:
        return self._value_ < int(other)

    def __le__(self, other: Any) -> bool:
        return self._value_ <= int(other)

    def __gt__(self, other: Any) -> bool:
        return self._value_ > int(other)

    def __ge__(self, other: Any) -> bool:
        return self._value_ >= int(other)

    __ror__, __rand__, __rxor__ = __or__, __and__, __xor__

    def __invert__(self) -> int:
        return ~self._value_


class GraphOptimizationLevel(_Enum):
    """Which optimiser passes run; each level includes those below it."""

    ORT_DISABLE_ALL = 0
    ORT_ENABLE_BASIC = 1
    ORT_ENABLE_EXTENDED = 2
    ORT_ENABLE_LAYOUT = 3
    ORT_ENABLE_ALL = 99


class ExecutionMode(_Enum):
    """Kept for compatibility: ortlite runs a graph's nodes one after the other."""

    ORT_SEQUENTIAL = 0
    ORT_PARALLEL = 1


class ExecutionOrder(_Enum):
    """Kept for compatibility: nodes run in the file's topological order."""

    DEFAULT = 0
    PRIORITY_BASED = 1
    MEMORY_EFFICIENT = 2


class OrtAllocatorType(_Enum):
    """Kinds of allocators; memory here is the array library's."""

    INVALID = -1
    ORT_DEVICE_ALLOCATOR = 0
    ORT_ARENA_ALLOCATOR = 1


class ArenaExtendStrategy(_Enum):
    """How an arena grows."""

    kNextPowerOfTwo = 0  # noqa: N815  (onnxruntime's name)
    kSameAsRequested = 1  # noqa: N815


class OrtMemType(_Enum):
    """Who may touch memory."""

    CPU_INPUT = -2
    CPU_OUTPUT = -1
    CPU = -1
    DEFAULT = 0


class OrtDeviceMemoryType(_Enum):
    """Kinds of memory of a device."""

    DEFAULT = 0
    HOST_ACCESSIBLE = 5


class OrtMemoryInfoDeviceType(_Enum):
    """Kinds of devices of a memory description."""

    CPU = 0
    GPU = 1
    FPGA = 2
    NPU = 3


class OrtHardwareDeviceType(_Enum):
    """Kinds of hardware."""

    CPU = 0
    GPU = 1
    NPU = 2


class OrtSparseFormat(_Enum):
    """How a sparse tensor keeps where its values stand."""

    ORT_SPARSE_UNDEFINED = 0
    ORT_SPARSE_COO = 1
    ORT_SPARSE_CSRC = 2
    ORT_SPARSE_BLOCK_SPARSE = 4


class OrtCompileApiFlags(_Flags):
    """What ModelCompiler refuses to do."""

    NONE = 0
    ERROR_IF_NO_NODES_COMPILED = 1
    ERROR_IF_OUTPUT_FILE_EXISTS = 2


class OrtCompiledModelCompatibility(_Enum):
    """Whether a compiled model fits a device."""

    EP_NOT_APPLICABLE = 0
    EP_SUPPORTED_OPTIMAL = 1
    EP_SUPPORTED_PREFER_RECOMPILATION = 2
    EP_UNSUPPORTED = 3


class OrtDeviceEpIncompatibilityReason(_Flags):
    """Why a provider cannot use a device."""

    NONE = 0
    DRIVER_INCOMPATIBLE = 1
    DEVICE_INCOMPATIBLE = 2
    MISSING_DEPENDENCY = 4
    UNKNOWN = -2147483648


class OrtExecutionProviderDevicePolicy(_Enum):
    """What kind of device to prefer."""

    DEFAULT = 0
    PREFER_CPU = 1
    PREFER_NPU = 2
    PREFER_GPU = 3
    MAX_PERFORMANCE = 4
    MAX_EFFICIENCY = 5
    MIN_OVERALL_POWER = 6


class ModelPackageWriteMode(_Enum):
    """How a model package is written."""

    PRESERVE = 0
    DENSE = 1


class OrtDeviceVendorId(IntEnum):
    """PCI numbers of makers of devices."""

    NONE = 0
    AMD = 0x1002
    NVIDIA = 0x10DE
    ARM = 0x13B5
    MICROSOFT = 0x1414
    HUAWEI = 0x19E5
    QUALCOMM = 0x5143
    INTEL = 0x8086
