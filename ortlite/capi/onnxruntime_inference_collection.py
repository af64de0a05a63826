"""What onnxruntime.capi.onnxruntime_inference_collection has."""

from ortlite.api.adapters import AdapterFormat
from ortlite.api.binding import IOBinding
from ortlite.api.device import OrtDevice
from ortlite.api.enums import OrtDeviceVendorId
from ortlite.api.model_compiler import ModelCompiler
from ortlite.api.ortvalue import OrtValue, copy_tensors
from ortlite.api.providers import check_and_normalize_provider_args
from ortlite.api.session import InferenceSession
from ortlite.api.sparse import SparseTensor
from ortlite.capi import onnxruntime_pybind11_state as C

Session = InferenceSession

_VENDORS = {
    "cuda": OrtDeviceVendorId.NVIDIA,
    "dml": OrtDeviceVendorId.MICROSOFT,
    "cann": OrtDeviceVendorId.HUAWEI,
    "webgpu": OrtDeviceVendorId.NONE,
}


def get_ort_device_type(device_type: str) -> int:
    """The number of a kind of device, "cpu" or "cuda" for example. Raises Exception for another name."""
    OrtDevice.make(device_type, 0)
    number: int = getattr(OrtDevice, device_type)()
    return number


def get_vendor_id_for_device_type(device_type: str) -> OrtDeviceVendorId | None:
    """The maker of a kind of device; None where it has several."""
    return _VENDORS.get(device_type)


__all__ = [
    "AdapterFormat", "C", "IOBinding", "InferenceSession", "ModelCompiler", "OrtDevice", "OrtDeviceVendorId",
    "OrtValue", "Session", "SparseTensor", "check_and_normalize_provider_args", "copy_tensors",
    "get_ort_device_type", "get_vendor_id_for_device_type",
]  # fmt: skip
