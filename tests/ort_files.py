"""Files in ORT format for tests: small ones written here, field by field, and models that onnxruntime writes."""

from __future__ import annotations

import flatbuffers
import numpy as np

from ortlite.load.ort_format import FIELDS


def ort_file(session, identifier=b"ORTM"):
    """The bytes of a file.

    `session` is a table: (kind, {field: value}). A value is a table, text, bytes, an int (int32) or a NumPy scalar, or
    a list of tables, of text or of ints (int64).
    """
    builder = flatbuffers.Builder(1024)
    builder.Finish(_table(builder, session), identifier)
    return bytes(builder.Output())


def _table(builder, table):
    kind, fields = table
    places = {name: _placed(builder, value) for name, value in fields.items()}
    builder.StartObject(16)
    for name, value in fields.items():
        slot = FIELDS[kind][name] - 2
        if isinstance(value, int | np.number):
            number = np.int32(value) if isinstance(value, int) else value
            write = getattr(builder, f"Prepend{type(number).__name__.title()}Slot")
            write(slot, number.item(), None)
        else:
            builder.PrependUOffsetTRelativeSlot(slot, places[name], 0)
    return builder.EndObject()


def _placed(builder, value):
    if isinstance(value, tuple):
        return _table(builder, value)
    if isinstance(value, str):
        return builder.CreateString(value)
    if isinstance(value, bytes):
        return builder.CreateByteVector(value)
    if not isinstance(value, list):
        return None
    if all(isinstance(item, int) for item in value):
        return builder.CreateNumpyVector(np.array(value, np.int64))
    items = [_placed(builder, item) for item in value]
    builder.StartVector(4, len(items), 4)
    for item in reversed(items):
        builder.PrependUOffsetTRelative(item)
    return builder.EndVector()


def value(name, code=1, dims=()):
    """What a graph says of a tensor."""
    listed = []
    for dim in dims:
        held = {"dim_type": np.int8(1), "dim_value": np.int64(dim)} if isinstance(dim, int) else {}
        if isinstance(dim, str):
            held = {"dim_type": np.int8(2), "dim_param": dim}
        listed.append(("Dimension", {"value": ("DimensionValue", held)}))
    tensor = ("TensorTypeAndShape", {"elem_type": code, "shape": ("Shape", {"dim": listed})})
    return ("ValueInfo", {"name": name, "type": ("TypeInfo", {"value_type": np.uint8(1), "value": tensor})})


def tensor(name, array, **fields):
    """An initializer of float32."""
    data = {"name": name, "dims": list(array.shape), "data_type": 1, "raw_data": array.astype("<f4").tobytes()}
    return ("Tensor", data | fields)


def node(op_type, inputs, outputs, **fields):
    return ("Node", {"op_type": op_type, "inputs": inputs, "outputs": outputs} | fields)


def session(nodes, initializers=(), version="6", **fields):
    """A model of the input x, the output y: float[N, 2]."""
    graph = {
        "initializers": list(initializers),
        "node_args": [value("x", dims=("N", 2)), value("y", dims=("N", 2))],
        "nodes": nodes,
        "inputs": ["x"],
        "outputs": ["y"],
    } | fields
    model = {
        "ir_version": np.int64(8),
        "opset_import": [("OperatorSetId", {"domain": "", "version": np.int64(18)})],
        "producer_name": "by hand",
        "model_version": np.int64(7),
        "doc_string": "a model",
        "graph_doc_string": "a graph",
        "metadata_props": [("StringStringEntry", {"key": "k", "value": "v"})],
        "graph": ("Graph", graph),
    }
    return ("InferenceSession", {"ort_version": version, "model": ("Model", model)})


def by_onnxruntime(model, path, level="ORT_ENABLE_ALL"):
    """Let onnxruntime write a model (bytes or a path) in the format of `path`, optimised at `level`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(path)
    if str(path).endswith(".ort"):
        options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return path
