"""Execution providers and the devices they run on, as onnxruntime lists them, and what else belongs to its plug-ins.

What only a library of compiled code can do raises RuntimeError and says what to use instead.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ortlite import processors
from ortlite.api.names import expect
from ortlite.errors import Fail, InvalidArgument, InvalidProtobuf
from ortlite.provider import CPU

if TYPE_CHECKING:
    from ortlite.api.device import OrtMemoryInfo
    from ortlite.api.enums import OrtCompiledModelCompatibility, OrtDeviceMemoryType, OrtHardwareDeviceType
    from ortlite.graph import Model

__all__ = [
    "ModelPackage", "ModelPackageComponentContext", "ModelPackageContext", "ModelPackageOptions", "OrtEpAssignedNode",
    "OrtEpAssignedSubgraph", "OrtEpContextData", "OrtEpContextDataBuffer", "OrtEpDevice", "OrtHardwareDevice",
    "OrtSyncStream", "get_compatibility_info_from_model", "get_compatibility_info_from_model_bytes", "get_ep_devices",
    "get_hardware_device_ep_incompatibility_details", "get_hardware_devices", "get_model_compatibility_for_ep_devices",
]  # fmt: skip

ON_GPU = {"CUDAExecutionProvider", "CuPyExecutionProvider"}
NVIDIA = 0x10DE
# How processors call their makers: what the maker is called, and its PCI number.
MAKERS = {"AuthenticAMD": ("AMD", 0x1022), "GenuineIntel": ("Intel", 0x8086), "Apple": ("Apple", 0x106B)}
MOST_SELECTED = 8  # devices that a delegate may select, as in onnxruntime
COMPATIBILITY = "ep_compatibility_info."  # before a provider's name: a key of a model's metadata
NO_PACKAGES = (
    "ortlite has no model packages: give InferenceSession the path of the variant's model, which is in the folder of "
    "its component"
)


@dataclass(frozen=True, eq=False, slots=True)
class OrtHardwareDevice:
    """A processor."""

    type: OrtHardwareDeviceType
    vendor: str
    vendor_id: int
    device_id: int
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, slots=True)
class OrtEpDevice:
    """A provider, and the processor that it runs on."""

    ep_name: str
    ep_vendor: str
    ep_metadata: dict[str, str]
    ep_options: dict[str, str]
    device: OrtHardwareDevice

    def memory_info(self, memory_type: OrtDeviceMemoryType) -> OrtMemoryInfo | None:
        """The provider's own memory: None, since arrays are where their library puts them.

        Raises TypeError for what is no OrtDeviceMemoryType.
        """
        from ortlite.api.enums import OrtDeviceMemoryType

        if not isinstance(memory_type, OrtDeviceMemoryType):
            raise TypeError(f"memory_type is an OrtDeviceMemoryType, not {type(memory_type).__name__}")
        return None

    def create_sync_stream(self) -> OrtSyncStream:
        """Raises RuntimeError: arrays are computed on their library's current stream."""
        raise RuntimeError(
            f"ep_device does not use DEFAULT memory of a non-CPU device. ({self.ep_name} computes on the stream that "
            "is current in its library: use torch.cuda.stream or cupy.cuda.Stream.)"
        )


# Selects devices: from those of all providers, metadata of the model and of the run, and how many there may be.
Select: TypeAlias = Callable[[list[OrtEpDevice], dict[str, str], dict[str, str], int], Sequence[OrtEpDevice]]


@dataclass(frozen=True, slots=True)
class OrtEpAssignedNode:
    """A node of a session's graph."""

    name: str
    domain: str
    op_type: str


@dataclass(frozen=True, slots=True)
class OrtEpAssignedSubgraph:
    """Nodes that a provider runs."""

    ep_name: str
    nodes: Sequence[OrtEpAssignedNode]

    def get_nodes(self) -> list[OrtEpAssignedNode]:
        """The nodes."""
        return list(self.nodes)


@dataclass(frozen=True, slots=True)
class OrtSyncStream:
    """A stream of a library, by its handle."""

    handle: int

    def get_handle(self) -> int:
        """The handle."""
        return self.handle


class OrtEpContextData:
    """Bytes of a compiled part of a model, read in pieces."""

    def __init__(self, data: bytes | memoryview):
        self._data = memoryview(data)

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return len(self._data)

    def read(self, offset: int = 0, length: int | None = None) -> bytes:
        """`length` bytes from `offset` on, or all that follow. Raises RuntimeError where there are fewer."""
        end = self.size if length is None else offset + length
        if not 0 <= offset <= end <= self.size:
            raise RuntimeError(f"bytes {offset} to {end} of {self.size} cannot be read")
        return bytes(self._data[offset:end])


class OrtEpContextDataBuffer:
    """Room for the bytes of a compiled part of a model."""

    def __init__(self, max_size: int):
        self.max_size = max_size
        self._data: bytearray | None = None

    @property
    def is_allocated(self) -> bool:
        """Whether `allocate` was called."""
        return self._data is not None

    @property
    def size(self) -> int:
        """How many bytes there is room for; 0 before `allocate`."""
        return 0 if self._data is None else len(self._data)

    def allocate(self, size: int) -> None:
        """Make room for `size` bytes, once. Raises RuntimeError for more than `max_size`."""
        if self._data is not None or not 0 <= size <= self.max_size:
            raise RuntimeError(f"{size} bytes cannot be allocated: once, at most {self.max_size}")
        self._data = bytearray(size)

    def write(self, data: Any, offset: int = 0) -> None:
        """Copy bytes to `offset`. Raises RuntimeError where there is no room for them."""
        piece = memoryview(data).cast("B")
        if self._data is None or not 0 <= offset <= offset + len(piece) <= self.size:
            raise RuntimeError(f"{len(piece)} bytes at {offset} do not fit into {self.size}")
        self._data[offset : offset + len(piece)] = piece


class ModelPackageOptions:
    """Options for a component of a model package."""

    def __init__(self, sess_options: Any):
        self.sess_options = sess_options


class ModelPackage:
    """Not here: raises RuntimeError."""

    def __init__(self, *arguments: Any, **keywords: Any):
        raise RuntimeError(NO_PACKAGES)

    @staticmethod
    def open(package_root: str, **options: bool) -> ModelPackage:
        """Raises RuntimeError."""
        raise RuntimeError(NO_PACKAGES)


class ModelPackageContext:
    """Not here: raises RuntimeError."""

    def __init__(self, package_root: str):
        raise RuntimeError(f"Failed to open model package at '{package_root}': {NO_PACKAGES}")


class ModelPackageComponentContext:
    """Not here: raises TypeError, as onnxruntime's does."""

    def __init__(self) -> None:
        raise TypeError(f"ModelPackageComponentContext: No constructor defined! ({NO_PACKAGES})")


@cache
def _processors() -> tuple[OrtHardwareDevice, ...]:
    from ortlite.api.enums import OrtHardwareDeviceType
    from ortlite.provider import available

    maker = processors.maker()
    vendor, number = next((known for word, known in MAKERS.items() if word in maker), (platform.machine(), 0))
    found = [OrtHardwareDevice(OrtHardwareDeviceType.CPU, vendor, number, 0)]
    if ON_GPU.intersection(available()):
        found.append(OrtHardwareDevice(OrtHardwareDeviceType.GPU, "NVIDIA", NVIDIA, 0))
    return tuple(found)


@cache
def _devices() -> tuple[OrtEpDevice, ...]:
    from ortlite.provider import available
    from ortlite.version import __version__

    here = _processors()
    found = []
    for name in reversed(available()):  # the CPU provider first
        device = here[-1] if name in ON_GPU else here[0]
        vendor = "Microsoft" if name == CPU else "ortlite"  # what programs look for
        found.append(OrtEpDevice(name, vendor, {"version": __version__}, {}, device))
    return tuple(found)


def get_hardware_devices() -> list[OrtHardwareDevice]:
    """The processors that providers can use."""
    return list(_processors())


def get_ep_devices() -> list[OrtEpDevice]:
    """The providers that can be used here, each with its processor, for `SessionOptions.add_provider_for_devices`.

    Example:
        >>> get_ep_devices()[0].ep_name
        'CPUExecutionProvider'

    """
    return list(_devices())


def selected(delegate: Select, model: Model) -> list[str]:
    """The providers whose devices a delegate of session options selects for a model, in its order.

    Raises Fail with what the delegate raises, and where it selects none, too many, or what are no devices.
    """
    metadata = {
        "producer_name": model.producer_name,
        "producer_version": "",  # is not kept
        "domain": model.domain,
        "model_version": str(model.version),
        "doc_string": model.description,
        "graph_name": model.graph.name,
        "graph_description": model.graph_description,
        **model.metadata,
    }
    try:
        found = delegate(get_ep_devices(), metadata, {}, MOST_SELECTED)
    except Exception as error:
        raise Fail(f"EP selection delegate failed: {type(error).__name__}: {error}") from error
    if not isinstance(found, Sequence) or not all(isinstance(device, OrtEpDevice) for device in found):
        raise Fail(f"EP selection delegate failed: a list of OrtEpDevice is wanted, not {found!r}")
    if not found:
        raise Fail("EP selection delegate did not select anything.")
    if len(found) > MOST_SELECTED:
        raise Fail(
            f"EP selection delegate failed: selected too many EP devices ({len(found)}). "
            f"The limit is {MOST_SELECTED} EP devices."
        )
    return list(dict.fromkeys(device.ep_name for device in found))


def get_compatibility_info_from_model(model_path: str, ep_type: str) -> str | None:
    """What a compiled model says of its fitness for a provider; None where it says nothing.

    Raises RuntimeError for a file that cannot be read.
    """
    expect(str, model_path=model_path, ep_type=ep_type)
    if not ep_type:
        raise RuntimeError("Invalid argument provided to GetCompatibilityInfoFromModel.")
    try:
        data = Path(model_path).read_bytes() if model_path else None
    except OSError:
        data = None
    if data is None:
        raise RuntimeError(f"Load model {model_path} failed. File doesn't exist")
    return _compatibility(data, ep_type)


def get_compatibility_info_from_model_bytes(model_data: Any, ep_type: str) -> str | None:
    """The same, of a model in memory. Raises RuntimeError for what is none, TypeError for what is no buffer."""
    expect(str, ep_type=ep_type)
    data = bytes(memoryview(model_data))
    if not data or not ep_type:
        raise RuntimeError("Invalid argument provided to GetCompatibilityInfoFromModelBytes.")
    return _compatibility(data, ep_type)


def _compatibility(data: bytes, ep_type: str) -> str | None:
    from ortlite.load.peek import metadata

    try:
        return metadata(data).get(COMPATIBILITY + ep_type)
    except InvalidProtobuf as error:
        raise RuntimeError(error.text) from None


def get_model_compatibility_for_ep_devices(
    ep_devices: Sequence[OrtEpDevice], compatibility_info: str
) -> OrtCompiledModelCompatibility:
    """Whether a compiled model fits devices: EP_NOT_APPLICABLE, since no provider here runs compiled models.

    Raises RuntimeError for no devices, TypeError for what are none.
    """
    from ortlite.api.enums import OrtCompiledModelCompatibility

    expect(str, compatibility_info=compatibility_info)
    if not isinstance(ep_devices, Sequence):
        raise TypeError(f"ep_devices is a sequence of OrtEpDevice, not {type(ep_devices).__name__}")
    if not ep_devices:
        raise RuntimeError("Invalid argument provided to GetModelCompatibilityForEpDevices.")
    for device in ep_devices:
        if device is None:
            raise RuntimeError("ep_devices contains a null entry.")
        if not isinstance(device, OrtEpDevice):
            raise TypeError(f"ep_devices is a sequence of OrtEpDevice, not of {type(device).__name__}")
    return OrtCompiledModelCompatibility.EP_NOT_APPLICABLE


def get_hardware_device_ep_incompatibility_details(ep_name: str, device: OrtHardwareDevice | None) -> Mapping[str, Any]:
    """Why a provider cannot use a device: nothing is known against any.

    Raises InvalidArgument for another provider, TypeError for what is no OrtHardwareDevice.
    """
    expect(str, ep_name=ep_name)
    if not isinstance(device, OrtHardwareDevice | None):
        raise TypeError(f"device is an OrtHardwareDevice, not {type(device).__name__}")
    if ep_name not in {known.ep_name for known in _devices()}:
        raise InvalidArgument(f"No valid factory found for execution provider '{ep_name}'.")
    return {"reasons_bitmask": 0, "notes": None, "error_code": 0}
