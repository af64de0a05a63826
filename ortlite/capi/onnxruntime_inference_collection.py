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

__all__ = [
    "AdapterFormat", "C", "IOBinding", "InferenceSession", "ModelCompiler", "OrtDevice", "OrtDeviceVendorId",
    "OrtValue", "Session", "SparseTensor", "check_and_normalize_provider_args", "copy_tensors",
]  # fmt: skip
