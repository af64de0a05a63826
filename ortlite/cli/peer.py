"""onnxruntime's CPU provider as a side of a comparison: its optimisers off, every value of the graph an output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ortlite import dtypes
from ortlite.graph import Model, TensorType, Type, extract
from ortlite.save import to_proto

__all__ = ["OnnxruntimeSide", "visible"]


class OnnxruntimeSide:
    """onnxruntime, on the file as it is as long as `model` is what was read from it, else on the model written anew."""

    name = "onnxruntime"

    def __init__(self, path: Path, model: Model):
        """Raises ValueError where onnxruntime is not installed."""
        try:
            import onnxruntime
        except ImportError:
            raise ValueError("--against onnxruntime needs it: pip install onnxruntime") from None
        self.library = onnxruntime
        self.path, self.model = path, model

    def run(self, model: Model, feed: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
        """See Side. Raises ValueError with what onnxruntime says."""
        types = model.graph.types
        wanted = [name for name in names if visible(types.get(name))]
        whole = model is self.model and feed.keys() <= set(model.graph.inputs)
        part = model if whole else replace(model, graph=extract(model.graph, list(feed), wanted))
        as_it_is = whole and self.path.suffix != ".ort"
        proto = onnx.load(self.path, load_external_data=False) if as_it_is else to_proto(part)
        known = {name for node in proto.graph.node for name in node.output}
        wanted = [name for name in wanted if name in known]  # what functions compute inside is not
        declared = {output.name for output in proto.graph.output}
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in declared)
        options = self.library.SessionOptions()
        options.graph_optimization_level = self.library.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        folder = str(self.path.parent.resolve())
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
        try:
            session = self.library.InferenceSession(
                proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            used = {argument.name for argument in session.get_inputs()}
            used |= {argument.name for argument in session.get_overridable_initializers()}
            fed = {name: value for name, value in feed.items() if name in used and value is not None}
            values = session.run(wanted, fed) if wanted else []
        except Exception as error:  # its errors share no base class but Exception
            raise ValueError(f"onnxruntime: {error}") from error
        return {name: _typed(value, types.get(name)) for name, value in zip(wanted, values, strict=True)}


def visible(type_: Type | None) -> bool:
    """NumPy, in onnxruntime's Python API, has no form for bfloat16, nor for what is narrower than a byte."""
    return not (isinstance(type_, TensorType) and type_.dtype.narrow and not type_.dtype.name.startswith("float8"))


def _typed(value: Any, type_: Type | None) -> Any:
    """float8 comes out as its bytes."""
    if isinstance(type_, TensorType) and isinstance(value, np.ndarray) and type_.dtype.name.startswith("float8"):
        return value.view(dtypes.to_numpy(type_.dtype))
    return value
