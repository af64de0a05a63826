"""Models in ORT format, onnxruntime's own: a FlatBuffers file becomes the ONNX model that it was made from.

The names and the order of the fields are those of onnxruntime's schema, core/flatbuffers/schema/ort.fbs. Tensors stay
where they are: each becomes a tensor outside the model, whose file is this one. Edges between nodes, kernels and
records of optimisations, which only onnxruntime reads, are left out.
"""

from __future__ import annotations

from math import prod

import onnx
from onnx import AttributeProto, TensorProto

from ortlite import dtypes
from ortlite.errors import Fail, InvalidGraph
from ortlite.load.tables import DAMAGED, File, Table, fields
from ortlite.load.tensors import HERE

__all__ = ["IDENTIFIER", "VERSIONS", "read"]

IDENTIFIER = b"ORTM"  # bytes 4 to 8
VERSIONS = range(1, 7)  # of the format; 1 to 6 differ in fields that were added, and in what only kernels need

FIELDS = fields(
    {
        "InferenceSession": "ort_version model",
        "Model": "ir_version opset_import producer_name producer_version domain model_version doc_string graph "
        "graph_doc_string metadata_props",
        "OperatorSetId": "domain version",
        "StringStringEntry": "key value",
        "Graph": "initializers node_args nodes max_node_index node_edges inputs outputs sparse_initializers",
        "Node": "name doc_string domain since_version index op_type type execution_provider_type inputs outputs "
        "attributes",
        "Attribute": "name doc_string type f i s t g floats ints strings tensors graphs",
        "Tensor": "name doc_string dims data_type raw_data string_data external_data_offset",
        "SparseTensor": "values indices dims",
        "ValueInfo": "name doc_string type",
        "TypeInfo": "denotation value_type value",
        "TensorTypeAndShape": "elem_type shape",
        "SequenceType": "elem_type",
        "MapType": "key_type value_type",
        "Shape": "dim",
        "Dimension": "value denotation",
        "DimensionValue": "dim_type dim_value dim_param",
    }
)
TENSOR, SEQUENCE, MAP = 1, 2, 3  # what a TypeInfo holds
VALUE, PARAM = 1, 2  # what a DimensionValue holds


def read(data: bytes | memoryview) -> onnx.ModelProto:
    """The model in `data`, with tensors that refer to `data` by the location `HERE`.

    Raises Fail for what is no such file or has another version, InvalidGraph for a tensor that cannot be, and
    NotImplemented where the package flatbuffers is missing.
    """
    if data[4:8] != IDENTIFIER:
        raise Fail("ORT model verification failed. (bytes 4 to 8 are not ORTM)")
    try:
        session = File(data, FIELDS, "A model in ORT format is").root("InferenceSession")
        version = session.text("ort_version")
        if not version.isdecimal() or int(version) not in VERSIONS:
            raise Fail(
                f"The ORT format model version [{version}] is not supported: {VERSIONS[0]} to {VERSIONS[-1]} are."
            )
        model = session.child("model", "Model")
        if model is None:
            raise Fail("Missing Model. Invalid ORT format model.")
        return _model(model)
    except DAMAGED as error:
        raise Fail(f"ORT model verification failed. ({error})") from error


def _model(model: Table) -> onnx.ModelProto:
    proto = onnx.ModelProto(
        ir_version=model.number("ir_version", "int64"),
        producer_name=model.text("producer_name"),
        producer_version=model.text("producer_version"),
        domain=model.text("domain"),
        model_version=model.number("model_version", "int64"),
        doc_string=model.text("doc_string"),
    )
    for opset in model.children("opset_import", "OperatorSetId"):
        proto.opset_import.add(domain=opset.text("domain"), version=opset.number("version", "int64"))
    for entry in model.children("metadata_props", "StringStringEntry"):
        proto.metadata_props.add(key=entry.text("key"), value=entry.text("value"))
    graph = model.child("graph", "Graph")
    if graph is None:
        raise Fail("Graph is null. Invalid ORT format model.")
    _graph(proto.graph, graph)
    proto.graph.doc_string = model.text("graph_doc_string")
    return proto


def _graph(proto: onnx.GraphProto, graph: Table) -> None:
    proto.name = ""  # the format has none; a graph that is set, however, is one
    for tensor in graph.children("initializers", "Tensor"):
        _tensor(proto.initializer.add(), tensor)
    for sparse in graph.children("sparse_initializers", "SparseTensor"):
        _sparse(proto.sparse_initializer.add(), sparse)
    infos = {value.text("name"): value for value in graph.children("node_args", "ValueInfo")}
    inputs, outputs = graph.texts("inputs"), graph.texts("outputs")
    for name in inputs:
        _value(proto.input.add(name=name), infos.get(name))
    for name in outputs:
        _value(proto.output.add(name=name), infos.get(name))
    bordering = {"", *inputs, *outputs}
    for name, info in infos.items():
        if name not in bordering:
            _value(proto.value_info.add(name=name), info)
    for node in graph.children("nodes", "Node"):
        target = proto.node.add(
            name=node.text("name"),
            domain=node.text("domain"),
            op_type=node.text("op_type"),
            doc_string=node.text("doc_string"),
            input=node.texts("inputs"),
            output=node.texts("outputs"),
        )
        for attribute in node.children("attributes", "Attribute"):
            _attribute(target.attribute.add(), attribute)


def _attribute(proto: AttributeProto, attribute: Table) -> None:
    proto.name = attribute.text("name")
    kind = proto.type = attribute.number("type")
    if kind == AttributeProto.FLOAT:
        proto.f = attribute.number("f", "float32", 0.0)
    elif kind == AttributeProto.INT:
        proto.i = attribute.number("i", "int64")
    elif kind == AttributeProto.STRING:
        proto.s = attribute.bytes_("s")
    elif kind == AttributeProto.FLOATS:
        proto.floats.extend(attribute.numbers("floats", "<f4"))
    elif kind == AttributeProto.INTS:
        proto.ints.extend(attribute.numbers("ints", "<i8"))
    elif kind == AttributeProto.STRINGS:
        proto.strings.extend(attribute.strings("strings"))
    elif kind == AttributeProto.TENSOR:
        _tensor(proto.t, _needed(attribute.child("t", "Tensor"), proto.name))
    elif kind == AttributeProto.GRAPH:
        _graph(proto.g, _needed(attribute.child("g", "Graph"), proto.name))
    elif kind == AttributeProto.TENSORS:
        for tensor in attribute.children("tensors", "Tensor"):
            _tensor(proto.tensors.add(), tensor)
    elif kind == AttributeProto.GRAPHS:
        for graph in attribute.children("graphs", "Graph"):
            _graph(proto.graphs.add(), graph)
    else:
        raise Fail(f"Attribute {proto.name!r} has the type {kind}, which the ORT format does not have.")


def _needed(table: Table | None, name: str) -> Table:
    if table is None:
        raise Fail(f"Null value of attribute {name!r}. Invalid ORT format model.")
    return table


def _tensor(proto: TensorProto, tensor: Table) -> None:
    proto.name = tensor.text("name")
    proto.dims.extend(tensor.numbers("dims", "<i8"))
    proto.data_type = tensor.number("data_type")
    if tensor.number("external_data_offset", "int64", -1) >= 0:
        raise Fail(f"Tensor {proto.name!r} lies in another file, which only checkpoints of training have.")
    if proto.data_type == TensorProto.STRING:
        proto.string_data.extend(tensor.strings("string_data"))
        return
    start, count = tensor.elements("raw_data", 1)
    try:
        needed = -(-prod(proto.dims) * dtypes.by_code(proto.data_type).bits // 8)
    except ValueError as error:
        raise InvalidGraph(f"Tensor {proto.name!r}, dims {list(proto.dims)}, cannot be read: {error}") from None
    if count != needed or min(proto.dims, default=0) < 0:
        raise InvalidGraph(
            f"Tensor {proto.name!r}, dims {list(proto.dims)}, cannot be read: raw_data has {count} bytes, not {needed}"
        )
    proto.data_location = TensorProto.EXTERNAL
    for key, value in ("location", HERE), ("offset", start), ("length", count):
        proto.external_data.add(key=key, value=str(value))


def _sparse(proto: onnx.SparseTensorProto, sparse: Table) -> None:
    _tensor(proto.values, _needed(sparse.child("values", "Tensor"), "values"))
    _tensor(proto.indices, _needed(sparse.child("indices", "Tensor"), "indices"))
    proto.dims.extend(sparse.numbers("dims", "<i8"))


def _value(proto: onnx.ValueInfoProto, value: Table | None) -> None:
    if value is None:
        return
    proto.doc_string = value.text("doc_string")
    type_ = value.child("type", "TypeInfo")
    if type_ is not None:
        _type(proto.type, type_)


def _type(proto: onnx.TypeProto, type_: Table) -> None:
    kind = type_.number("value_type", "uint8")
    if kind == TENSOR and (tensor := type_.child("value", "TensorTypeAndShape")) is not None:
        proto.tensor_type.elem_type = tensor.number("elem_type")
        shape = tensor.child("shape", "Shape")
        if shape is not None:
            proto.tensor_type.shape.SetInParent()
            for dimension in shape.children("dim", "Dimension"):
                _dimension(proto.tensor_type.shape.dim.add(), dimension)
    elif kind == SEQUENCE and (sequence := type_.child("value", "SequenceType")) is not None:
        _type(proto.sequence_type.elem_type, _needed(sequence.child("elem_type", "TypeInfo"), "elem_type"))
    elif kind == MAP and (map_ := type_.child("value", "MapType")) is not None:
        proto.map_type.key_type = map_.number("key_type")
        _type(proto.map_type.value_type, _needed(map_.child("value_type", "TypeInfo"), "value_type"))


def _dimension(proto: onnx.TensorShapeProto.Dimension, dimension: Table) -> None:
    proto.denotation = dimension.text("denotation")
    value = dimension.child("value", "DimensionValue")
    kind = value.number("dim_type", "int8") if value is not None else 0
    if value is not None and kind == VALUE:
        proto.dim_value = value.number("dim_value", "int64")
    elif value is not None and kind == PARAM:
        proto.dim_param = value.text("dim_param")
