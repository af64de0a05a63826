"""ortlite for the ONNX backend test runner: `BackendTest(ortlite.backend, __name__)`."""

from __future__ import annotations

import os
import unittest
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx.backend.base import Backend

from ortlite import dtypes
from ortlite.api.environment import get_device
from ortlite.api.options import SessionOptions
from ortlite.api.session import InferenceSession
from ortlite.backend.backend_rep import OrtliteBackendRep, set_fields
from ortlite.provider import CPU

__all__ = [
    "OnnxRuntimeBackend", "OrtliteBackend", "is_compatible", "prepare", "run", "run_model", "run_node",
    "supports_device",
]  # fmt: skip

# SessionOptions that may be given to `prepare` by name.
OPTIONS = frozenset(
    "enable_cpu_mem_arena enable_mem_pattern enable_mem_reuse execution_mode execution_order graph_optimization_level "
    "inter_op_num_threads intra_op_num_threads log_severity_level log_verbosity_level logid use_deterministic_compute "
    "use_per_session_threads".split()
)


class OrtliteBackend(Backend):
    """onnx.backend.base.Backend on ortlite sessions. Devices: "CPU"."""

    allowReleasedOpsetsOnly = True  # noqa: N815  (the environment's ALLOW_RELEASED_ONNX_OPSET_ONLY=0 counts as well)

    @classmethod
    def is_opset_supported(cls, model: onnx.ModelProto) -> tuple[bool, str]:
        """Whether a model's opsets are released ones, and what is wrong where one is not."""
        newest, only = onnx.defs.onnx_opset_version(), os.environ.get("ALLOW_RELEASED_ONNX_OPSET_ONLY", "1") == "1"
        for entry in model.opset_import if only and cls.allowReleasedOpsetsOnly else ():
            if entry.domain in {"", "ai.onnx"} and entry.version > newest:
                return False, (
                    f"Skipping this test as only released onnx opsets are supported, up to {newest}. To run this test "
                    f"set env variable ALLOW_RELEASED_ONNX_OPSET_ONLY to 0. Got Domain 'ai.onnx' version "
                    f"'{entry.version}'."
                )
        return True, ""

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether models can run on `device`, "CPU" or "GPU" (the same as "CUDA")."""
        device = "GPU" if device == "CUDA" else device
        return device == "CPU" or (device == "GPU" and get_device() == "GPU")

    @classmethod
    def is_compatible(cls, model: Any, device: str = "CPU", **kwargs: Any) -> bool:
        """Every valid model is."""
        return cls.supports_device(device)

    @classmethod
    def prepare(cls, model: Any, device: str | None = "CPU", **kwargs: Any) -> OrtliteBackendRep:
        """Make a model ready: a ModelProto, bytes, a path, an InferenceSession, or what this returned before.

        No device is the CPU. `providers` overrides the device, and the variable ORT_ONNX_BACKEND_EXCLUDE_PROVIDERS
        takes some away (names, commas between); SessionOptions are given by their names. Raises RuntimeError for a
        device that is not there, unittest.SkipTest for a ModelProto of an opset that is not released, what onnx.checker
        raises for one, and what InferenceSession raises.

        Example:
            >>> from ortlite.cli.digits import model_bytes, scans
            >>> OrtliteBackend.prepare(model_bytes()).run(scans()[0][:2])[0].shape
            (2, 10)

        """
        if isinstance(model, OrtliteBackendRep):
            return model
        if isinstance(model, InferenceSession):
            return OrtliteBackendRep(model)
        if device is not None and not cls.supports_device(device):
            raise RuntimeError(f"Incompatible device expected '{device}', got '{get_device()}'")
        options = SessionOptions()
        providers = kwargs.pop("providers", None) or (
            [CPU] if device in {None, "CPU"} else ["CUDAExecutionProvider", CPU]
        )
        set_fields(options, kwargs, OPTIONS)
        excluded = os.environ.get("ORT_ONNX_BACKEND_EXCLUDE_PROVIDERS", "").split(",")
        providers = [provider for provider in providers if provider not in excluded]
        if not isinstance(model, str | bytes | os.PathLike):
            onnx.checker.check_model(model)
            supported, problem = cls.is_opset_supported(model)
            if not supported:
                raise unittest.SkipTest(problem)
            model = model.SerializeToString()
        return OrtliteBackendRep(InferenceSession(model, options, providers, enable_fallback=0))

    @classmethod
    def run_model(cls, model: Any, inputs: Any, device: str = "CPU", **kwargs: Any) -> Any:
        """Prepare and run at once."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls, node: onnx.NodeProto, inputs: Any, device: str = "CPU", outputs_info: Any = None, **kwargs: Any
    ) -> Any:
        """Run one node on arrays, in the newest opset or in `opset_version`.

        An array for each name of its inputs, in their order: one that stands there twice is given once, as an input
        of a model is. Raises ValueError for fewer or more.
        """
        arrays = [np.asarray(value) for value in inputs]
        names = list(dict.fromkeys(name for name in node.input if name))
        if len(names) != len(arrays):
            raise ValueError(f"{node.op_type} has the inputs {', '.join(names) or 'none'}, and {len(arrays)} are given")
        feeds = [
            helper.make_tensor_value_info(name, dtypes.of_numpy(array.dtype).code, array.shape)
            for name, array in zip(names, arrays, strict=True)
        ]
        results = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        graph = helper.make_graph([node], node.op_type, feeds, results)
        opset = kwargs.pop("opset_version", onnx.defs.onnx_opset_version())
        imports = [helper.make_opsetid("", opset)]
        if node.domain not in {"", "ai.onnx"}:
            versions = [s.since_version for s in onnx.defs.get_all_schemas() if s.domain == node.domain]
            imports.append(helper.make_opsetid(node.domain, max(versions, default=1)))
        model = helper.make_model(graph, opset_imports=imports)  # its outputs have no types, which checkers want
        return cls.run_model(model.SerializeToString(), arrays, device, **kwargs)


OnnxRuntimeBackend = OrtliteBackend


is_compatible = OrtliteBackend.is_compatible
prepare = OrtliteBackend.prepare
run = run_model = OrtliteBackend.run_model
run_node = OrtliteBackend.run_node
supports_device = OrtliteBackend.supports_device
