"""ortlite for the ONNX backend test runner: `BackendTest(ortlite.backend, __name__)`."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx.backend.base import Backend, BackendRep

from ortlite import dtypes
from ortlite.api.options import SessionOptions
from ortlite.api.providers import get_available_providers
from ortlite.api.session import InferenceSession
from ortlite.provider import CPU

__all__ = ["OrtliteBackend", "OrtliteBackendRep", "is_compatible", "prepare", "run", "run_model", "run_node"]
__all__ += ["supports_device"]

# SessionOptions that may be given to `prepare` by name.
OPTIONS = frozenset(
    "enable_cpu_mem_arena enable_mem_pattern enable_mem_reuse execution_mode execution_order graph_optimization_level "
    "inter_op_num_threads intra_op_num_threads log_severity_level log_verbosity_level logid use_deterministic_compute "
    "use_per_session_threads".split()
)


class OrtliteBackendRep(BackendRep):
    """A prepared model."""

    def __init__(self, session: InferenceSession):
        self.session = session

    def run(self, inputs: Any, **kwargs: Any) -> Any:
        """Run on a list of inputs, by position; anything else is the model's only input."""
        names = [arg.name for arg in self.session.get_inputs()]
        if not isinstance(inputs, list):
            if len(names) != 1:
                raise RuntimeError(f"Model expect {len(names)} inputs")
            inputs = [inputs]
        feed = {name: inputs[index] for index, name in enumerate(names)}
        feed = {name: np.asarray(v) if isinstance(v, np.generic) else v for name, v in feed.items()}
        return self.session.run(None, feed)


class OrtliteBackend(Backend):
    """onnx.backend.base.Backend on ortlite sessions. Devices: "CPU"."""

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether models can run on `device`, "CPU" or "CUDA"."""
        return device == "CPU" or (device == "CUDA" and "CUDAExecutionProvider" in get_available_providers())

    @classmethod
    def is_compatible(cls, model: Any, device: str = "CPU", **kwargs: Any) -> bool:
        """Every valid model is."""
        return cls.supports_device(device)

    @classmethod
    def prepare(cls, model: Any, device: str = "CPU", **kwargs: Any) -> OrtliteBackendRep:
        """Make a model ready: a ModelProto, bytes, a path, an InferenceSession, or what this returned before.

        `providers` overrides the device; SessionOptions are given by their names. Raises RuntimeError for a
        device that is not there, and what InferenceSession raises.
        """
        if isinstance(model, OrtliteBackendRep):
            return model
        if isinstance(model, InferenceSession):
            return OrtliteBackendRep(model)
        if not cls.supports_device(device):
            raise RuntimeError(f"Incompatible device expected '{device}', got 'CPU'")
        options = SessionOptions()
        for name, value in kwargs.items():
            if name in OPTIONS:
                setattr(options, name, value)
        providers = kwargs.get("providers") or ([CPU] if device == "CPU" else ["CUDAExecutionProvider", CPU])
        source = model if isinstance(model, str | bytes | os.PathLike) else model.SerializeToString()
        return OrtliteBackendRep(InferenceSession(source, options, providers, enable_fallback=0))

    @classmethod
    def run_model(cls, model: Any, inputs: Any, device: str = "CPU", **kwargs: Any) -> Any:
        """Prepare and run at once."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls, node: onnx.NodeProto, inputs: Any, device: str = "CPU", outputs_info: Any = None, **kwargs: Any
    ) -> Any:
        """Run one node on arrays, in the newest opset or in `opset_version`."""
        arrays = [np.asarray(value) for value in inputs]
        names = [name for name in node.input if name]
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
        return cls.run_model(helper.make_model(graph, opset_imports=imports), arrays, device, **kwargs)


is_compatible = OrtliteBackend.is_compatible
prepare = OrtliteBackend.prepare
run = run_model = OrtliteBackend.run_model
run_node = OrtliteBackend.run_node
supports_device = OrtliteBackend.supports_device
