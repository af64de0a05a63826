"""The modules that programs import from onnxruntime.capi, or reach for without an import."""

from __future__ import annotations

import importlib
from typing import Any

MODULES = {
    "_ld_preload", "_pybind_state", "build_and_package_info", "onnxruntime_inference_collection",
    "onnxruntime_pybind11_state", "onnxruntime_validation",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in MODULES:
        return importlib.import_module(f"ortlite.capi.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
