"""What onnxruntime.capi._pybind_state has: all of onnxruntime_pybind11_state."""

from ortlite.capi.onnxruntime_pybind11_state import *  # noqa: F403
from ortlite.capi.onnxruntime_pybind11_state import __all__ as __all__
