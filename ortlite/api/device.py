"""Devices and descriptions of memory: onnxruntime's words for where an array lies.

ortlite leaves memory to the array libraries. Arenas and allocators are accepted, and have no effect.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from operator import index
from typing import Any

from ortlite.api.enums import (
    OrtAllocatorType,
    OrtDeviceMemoryType,
    OrtDeviceVendorId,
    OrtMemoryInfoDeviceType,
    OrtMemType,
)
from ortlite.api.names import expect

__all__ = [
    "PROVIDER_OF_DEVICE",
    "OrtArenaCfg",
    "OrtDevice",
    "OrtMemoryInfo",
    "create_and_register_allocator",
    "create_and_register_allocator_v2",
]

# Name of a device -> its number, its maker.
_DEVICES = {
    "cpu": (0, OrtDeviceVendorId.NONE),
    "cuda": (1, OrtDeviceVendorId.NVIDIA),
    "dml": (1, OrtDeviceVendorId.MICROSOFT),
    "webgpu": (1, OrtDeviceVendorId.NONE),
    "gpu": (1, OrtDeviceVendorId.NONE),
    "cann": (3, OrtDeviceVendorId.HUAWEI),
    "npu": (3, OrtDeviceVendorId.NONE),
}
# Names of memory that onnxruntime knows -> the maker of the device.
_MEMORY = {
    "Cpu": OrtDeviceVendorId.NONE,
    "Cuda": OrtDeviceVendorId.NVIDIA,
    "CudaPinned": OrtDeviceVendorId.NVIDIA,
    "DML": OrtDeviceVendorId.MICROSOFT,
    "Hip": OrtDeviceVendorId.AMD,
    "HipPinned": OrtDeviceVendorId.AMD,
    "OpenVINO_GPU": OrtDeviceVendorId.INTEL,
    "OpenVINO_RT_NPU": OrtDeviceVendorId.INTEL,
    "QnnHtpShared": OrtDeviceVendorId.QUALCOMM,
    "WebGPU_Buf": OrtDeviceVendorId.NONE,
    "WebGPU_Buffer": OrtDeviceVendorId.NONE,
    "WebNN_Ten": OrtDeviceVendorId.NONE,
    "WebNN_Tensor": OrtDeviceVendorId.NONE,
}
_HOST_READS = {"CudaPinned", "HipPinned", "QnnHtpShared"}
PROVIDER_OF_DEVICE = {"cuda": "CUDAExecutionProvider", "gpu": "CUDAExecutionProvider"}


class OrtDevice:
    """A device: `OrtDevice.make(name, id)`, or by numbers, `OrtDevice(type, memory, [vendor,] id)`.

    Raises TypeError for as many numbers as neither has.

    Example:
        >>> device = OrtDevice.make("cpu", 0)
        >>> device.device_type(), device.device_id()
        (0, 0)

    """

    _numbers: tuple[int, int, int, int]

    def __init__(self, *numbers: Any):
        if len(numbers) == 1 and isinstance(numbers[0], OrtDevice):
            numbers = numbers[0]._numbers
        if len(numbers) == 3:
            numbers = (numbers[0], numbers[1], 0, numbers[2])
        if len(numbers) != 4:
            raise TypeError("OrtDevice takes a device, or the numbers of type, memory, [vendor,] id")
        kind, memory, vendor, place = map(index, numbers)
        self._numbers = (kind, memory, vendor, place)

    @staticmethod
    def make(ort_device_name: str, device_id: int, vendor_id: int = -1) -> OrtDevice:
        """The device `ort_device_name` ("cpu", "cuda", "dml", "webgpu", "gpu", "cann", "npu") number `device_id`.

        Raises Exception for another name, as onnxruntime does, TypeError for what is no name, or no number.
        """
        expect(str, ort_device_name=ort_device_name)
        if ort_device_name not in _DEVICES:
            raise Exception(f"Unsupported device type: {ort_device_name}")  # noqa: TRY002  (the class of onnxruntime's)
        number, vendor = _DEVICES[ort_device_name]
        return OrtDevice(number, 0, vendor if vendor_id == -1 else vendor_id, device_id)

    @staticmethod
    def cpu() -> int:
        """The number of CPUs, among kinds of devices."""
        return 0

    @staticmethod
    def cuda() -> int:
        """The number of GPUs."""
        return 1

    gpu = webgpu = cuda

    @staticmethod
    def fpga() -> int:
        """The number of FPGAs."""
        return 2

    @staticmethod
    def npu() -> int:
        """The number of NPUs."""
        return 3

    cann = npu

    @staticmethod
    def dml() -> int:
        """The number of DirectML's devices."""
        return 4

    @staticmethod
    def default_memory() -> int:
        """The number of a device's own memory."""
        return 0

    def device_type(self) -> int:
        """The number of its kind: 0 CPU, 1 GPU, 2 FPGA, 3 NPU."""
        return self._numbers[0]

    def device_mem_type(self) -> int:
        """The kind of its memory."""
        return self._numbers[1]

    mem_type = device_mem_type

    def device_vendor_id(self) -> int:
        """Its maker's PCI number."""
        return self._numbers[2]

    vendor_id = device_vendor_id

    def device_id(self) -> int:
        """Which of several it is."""
        return self._numbers[3]

    @property
    def name(self) -> str:
        """The name that `make` takes."""
        kind, _, vendor, _ = self._numbers
        if kind == 1:
            return "dml" if vendor == OrtDeviceVendorId.MICROSOFT else "cuda"
        return {0: "cpu", 2: "fpga", 3: "npu", 4: "dml"}.get(kind, "cpu")

    def _get_c_device(self) -> OrtDevice:
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OrtDevice) and self._numbers == other._numbers

    def __hash__(self) -> int:
        return hash(self._numbers)

    def __repr__(self) -> str:
        return f"OrtDevice.make({self.name!r}, {self.device_id()})"


class OrtMemoryInfo:
    """A description of memory: `OrtMemoryInfo(name, alloc_type, id, mem_type)`.

    Raises RuntimeError for a name that onnxruntime does not know: `create_v2` takes any.
    """

    def __init__(self, name: str, alloc_type: OrtAllocatorType, device_id: int, mem_type: OrtMemType):
        if not isinstance(alloc_type, OrtAllocatorType) or not isinstance(mem_type, OrtMemType):
            raise TypeError("OrtMemoryInfo takes name, OrtAllocatorType, id, OrtMemType")
        if name not in _MEMORY:
            known = ", ".join(_MEMORY)
            raise RuntimeError(
                f"Specified device is not supported. Try CreateMemoryInfo_V2. ({name!r} is none of {known})"
            )
        self.name, self.allocator_type, self.mem_type = name, alloc_type, mem_type
        self.device_id = 0 if name == "Cpu" else int(device_id)
        host = name in _HOST_READS
        self.device_mem_type = OrtDeviceMemoryType.HOST_ACCESSIBLE if host else OrtDeviceMemoryType.DEFAULT
        self.device_vendor_id = int(_MEMORY[name])
        self.alignment = 0
        self.device_type = OrtMemoryInfoDeviceType.CPU if name == "Cpu" else OrtMemoryInfoDeviceType.GPU

    @staticmethod
    def create_v2(
        name: str,
        device_type: OrtMemoryInfoDeviceType,
        vendor_id: int,
        device_id: int,
        mem_type: OrtDeviceMemoryType,
        alignment: int,
        alloc_type: OrtAllocatorType,
    ) -> OrtMemoryInfo:
        """The same, with the device's kind and maker and the alignment in bytes."""
        host = mem_type == OrtDeviceMemoryType.HOST_ACCESSIBLE
        info = OrtMemoryInfo("Cpu", alloc_type, device_id, OrtMemType.CPU_OUTPUT if host else OrtMemType.DEFAULT)
        info.name, info.device_id = str(name), int(device_id)
        info.device_mem_type, info.device_vendor_id = mem_type, int(vendor_id)
        info.alignment, info.device_type = int(alignment), device_type
        return info

    def __repr__(self) -> str:
        return f"OrtMemoryInfo({self.name!r}, {self.allocator_type!s}, {self.device_id}, {self.mem_type!s})"


class OrtArenaCfg:
    """Settings of an arena, kept as given: four numbers, or a dict of them by name. They have no effect.

    The numbers are max_mem, arena_extend_strategy, initial_chunk_size_bytes and max_dead_bytes_per_chunk. Sizes are
    bytes. Raises TypeError for other numbers of numbers, RuntimeError for another name, or a value that is no int.
    """

    def __init__(self, *settings: Any):
        self.max_mem = 0
        self.arena_extend_strategy = -1
        self.initial_chunk_size_bytes = -1
        self.max_dead_bytes_per_chunk = -1
        if len(settings) == len(self.__dict__):
            self.__dict__.update(zip(self.__dict__, map(index, settings), strict=True))
        elif len(settings) != 1 or not isinstance(settings[0], Mapping):
            raise TypeError(f"OrtArenaCfg takes four numbers or a dict, not {settings!r}")
        self.initial_growth_chunk_size_bytes = -1
        self.max_power_of_two_extend_bytes = -1
        for name, value in settings[0].items() if len(settings) == 1 else ():
            if name not in self.__dict__:
                raise RuntimeError(f"Invalid OrtArenaCfg option: {name}")
            if not isinstance(value, int) or (name == "max_mem" and value < 0):
                raise RuntimeError(f"OrtArenaCfg: {name} cannot be {value!r}")
            setattr(self, name, value)


def create_and_register_allocator(info: OrtMemoryInfo, config: OrtArenaCfg | None) -> None:
    """Accepted; memory is the array libraries' business. Raises RuntimeError for memory of another device."""
    if isinstance(info, OrtMemoryInfo) and info.device_type != OrtMemoryInfoDeviceType.CPU:
        raise RuntimeError(
            "Error when creating and registering allocator: Only CPU devices are supported. "
            "Please call CreateAndRegisterAllocatorV2() for other device."
        )
    _check(info, config)


def create_and_register_allocator_v2(
    provider_type: str, info: OrtMemoryInfo, options: Mapping[str, str], config: OrtArenaCfg | None
) -> None:
    """Accepted; memory is the array libraries' business."""
    _check(info, config)


def _check(info: OrtMemoryInfo, config: OrtArenaCfg | None) -> None:
    if not isinstance(info, OrtMemoryInfo) or not isinstance(config, OrtArenaCfg | None):
        raise TypeError("an allocator is registered with an OrtMemoryInfo and an OrtArenaCfg or None")
    warnings.warn("ortlite has no allocators: the array libraries have theirs.", UserWarning, stacklevel=3)
