"""A Graph back to ONNX protobuf: what `ortlite compare --reduce` writes, and what onnxruntime gets to run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, TensorProto, helper, numpy_helper, shape_inference

from ortlite import atomic, dtypes, schema
from ortlite.errors import InvalidProtobuf
from ortlite.graph import (
    GRADIENT,
    Graph,
    MapType,
    Model,
    Node,
    OptionalType,
    SequenceType,
    SparseType,
    TensorType,
    Type,
)  # fmt: skip
from ortlite.limits import Limits
from ortlite.load import files, wire
from ortlite.load.peek import all_graphs
from ortlite.load.tensors import HERE
from ortlite.ops import registry

__all__ = ["data_file", "inferred_shapes", "output_shapes", "size", "to_proto", "unified", "write", "write_apart"]

LARGE = 2**31 - 2**24  # bytes of constants: a protobuf message has at most two gibibytes
ALIGNED = 64  # bytes: where the data of a tensor begins in a file of its own
NO_VERSION = 2**63 - 1  # of a model whose file says none
SHAPE_ELEMENTS = 128  # an array with more of them decides no shape

# Of a constant's name, its values, and its bytes as ONNX packs them: the file that has them, from which byte on, how
# many; None for inside the model.
Place = Callable[[str, np.ndarray, np.ndarray], tuple[str, int, int] | None]


def unified(model: Model) -> Model:
    """The model with the nodes of each domain in one opset, so that a file can say which.

    Raises ValueError for a graph where no opset will do, and for Gradient, whose nodes refer to others by name.
    """
    opsets = {**model.opsets, **_opsets(model.graph)}
    return replace(model, graph=_moved(model.graph, opsets), opsets=opsets)


def to_proto(model: Model, place: Place | None = None) -> onnx.ModelProto:
    """The model as protobuf, with what it says of itself. What `load` inlined or normalised stays so.

    `place` says of each constant, text aside, where its bytes lie; without it they lie in the message. Raises
    ValueError as `unified` does.
    """
    model = unified(model)
    proto = helper.make_model(
        _graph(replace(model.graph, constants={}), place),
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in model.opsets.items()],
        producer_name=model.producer_name or "ortlite",
        domain=model.domain,
        doc_string=model.description,
        ir_version=max(model.ir_version, 4),  # from 4 on an initializer need not be an input
    )
    proto.graph.doc_string = model.graph_description
    if model.version != NO_VERSION:
        proto.model_version = model.version
    helper.set_model_props(proto, dict(model.metadata))
    for name, array in model.graph.constants.items():  # last, one by one: whatever takes a part of a message copies it
        proto.graph.initializer.add().MergeFrom(_tensor(name, array, place))
    return proto


def size(graph: Graph) -> int:
    """The bytes of a graph's constants, and of those inside it, text aside."""
    graphs = [graph, *(body for node in graph.walk() for body in node.subgraphs.values())]
    return sum(_size(array) for each in graphs for array in each.constants.values())


def write(model: Model, path: str | os.PathLike[str], external: str = "", least: int = 1024) -> None:
    """Write a model to a file; constants of `least` bytes and more to `external` beside it, if that is given.

    More than protobuf can hold goes to such a file anyhow (`data_file`). After an error both files are as they were.
    Raises ValueError as `unified` does and for an `external` that no model may refer to, and OSError.
    """
    if not external and size(model.graph) > LARGE:
        external = data_file(path).name
    if not external:
        with atomic.written(path) as part:
            onnx.save(to_proto(model), part)
        return
    beside = Path(path).parent / external
    if Path(external).is_absolute() or ".." in Path(external).parts or beside == Path(path):
        raise ValueError(f"{external!r} is no file for weights: a path relative to the model's folder, and below it")
    with atomic.written(path) as part, _appended(beside) as append:
        proto = to_proto(model, lambda _, __, data: None if data.nbytes < least else (external, *append(data)))
        onnx.save(proto, part)


def write_apart(source: str | os.PathLike[str], path: Path) -> None:
    """Write a copy of a model whose weights lie in a file of their own, in a new folder. Raises InvalidProtobuf."""
    proto = onnx.ModelProto()
    with files.opened(source) as descriptor:
        whole = files.contents(descriptor, Limits(), None, str(source))
    try:
        proto.ParseFromString(wire.without_large_tensors(whole))
    except DecodeError:
        raise InvalidProtobuf(f"{source}: Protobuf parsing failed.") from None
    path.parent.mkdir()
    with atomic.written(path) as part, _appended(data_file(path)) as append:
        for tensor in (tensor for graph in all_graphs(proto.graph) for tensor in graph.initializer):
            known = {entry.key: entry.value for entry in tensor.external_data}
            if known.get("location") == HERE:
                start, length = int(known["offset"]), int(known["length"])
                _refer(tensor, (data_file(path).name, *append(np.frombuffer(whole, np.uint8)[start : start + length])))
        onnx.save(proto, part)


def data_file(path: str | os.PathLike[str]) -> Path:
    """Where the weights of a model at `path` go that protobuf cannot hold."""
    return Path(f"{os.fspath(path)}.data")


@contextmanager
def _appended(path: Path) -> Iterator[Callable[[np.ndarray], tuple[int, int]]]:
    """What appends bytes to a new file, and says from which byte on they lie there, and how many."""
    with atomic.written(path) as part, part.open("wb") as file:

        def append(data: np.ndarray) -> tuple[int, int]:
            file.write(bytes(-file.tell() % ALIGNED))
            return file.tell(), file.write(data.data)

        yield append


def _refer(tensor: TensorProto, place: tuple[str, int, int]) -> None:
    del tensor.external_data[:]
    tensor.data_location = tensor.EXTERNAL
    for key, value in zip(("location", "offset", "length"), place, strict=True):
        tensor.external_data.add(key=key, value=str(value))


def output_shapes(node: Node, values: Sequence[np.ndarray | None]) -> list[tuple[int | None, ...] | None]:
    """The shapes of a node's outputs as onnx infers them from the values of its inputs; None for what it cannot say.

    Raises what onnx raises where the inputs do not fit.
    """
    given = {name: value for name, value in zip(node.inputs, values, strict=True) if value is not None}
    types = {name: TensorType(dtypes.of_numpy(value.dtype), value.shape) for name, value in given.items()}
    return inferred_shapes(node, types, given)


def inferred_shapes(
    node: Node, types: Mapping[str, TensorType], values: Mapping[str, np.ndarray]
) -> list[tuple[int | None, ...] | None]:
    """The same from the types of its inputs, and from those `values` that are known."""
    try:
        known = onnx.defs.get_schema(node.op_type, node.opset, node.domain)
    except onnx.defs.SchemaError:
        return [None] * len(node.outputs)
    inferred = shape_inference.infer_node_outputs(
        known,
        _node(node, node.name),
        {name: helper.make_tensor_type_proto(type_.dtype.code, type_.shape) for name, type_ in types.items()},
        {name: _tensor(name, value) for name, value in values.items() if value.size <= SHAPE_ELEMENTS},
        opset_imports=[helper.make_opsetid(node.domain, node.opset)],
    )
    return [_shape(inferred.get(name)) for name in node.outputs]


def _shape(proto: onnx.TypeProto | None) -> tuple[int | None, ...] | None:
    if proto is None or not proto.tensor_type.HasField("shape"):
        return None
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in proto.tensor_type.shape.dim)


def _opsets(graph: Graph) -> dict[str, int]:
    """Domain -> a version in which every node can be written: functions and fused operators bring their own."""
    used: dict[str, list[Node]] = {}
    for node in graph.walk():
        if (node.domain, node.op_type) == GRADIENT:
            raise ValueError(f"node {node.name!r} (Gradient) refers to the nodes before it: it cannot be cut out")
        used.setdefault(node.domain, []).append(node)
    found = {}
    for domain, group in used.items():
        versions = sorted({node.opset for node in group}, reverse=True)
        fitting = [v for v in versions if all(n.opset == v or _at(n, v, graph.types) is not None for n in group)]
        if not fitting:
            raise ValueError(
                f"the nodes are of opsets {versions} of {domain or 'ai.onnx'}, and no one opset means the same for all"
            )
        found[domain] = fitting[0]
    return found


def _moved(graph: Graph, opsets: Mapping[str, int]) -> Graph:
    """The graph with every node, those of subgraphs too, written in the opset of its domain."""
    nodes: list[Node] = []
    constants = dict(graph.constants)
    for node in graph.nodes:
        bodies = {name: _moved(body, opsets) for name, body in node.subgraphs.items()}
        moved = replace(node, attributes={**node.attributes, **bodies}) if bodies else node
        if moved.opset != opsets[moved.domain]:
            written = _at(moved, opsets[moved.domain], graph.types)
            assert written is not None  # `_opsets` asked
            moved, new = written
            constants |= new
        nodes.append(moved)
    return graph.with_nodes(tuple(nodes), constants=constants)


def _at(node: Node, opset: int, types: Mapping[str, Type]) -> tuple[Node, dict[str, np.ndarray]] | None:
    """The node written in another opset, attributes that are inputs there as constants; None where that is not certain.

    The meaning is the same where one kernel runs both: `since` of our kernels says where a meaning began.
    """
    old, new = (schema.lookup(node.domain, node.op_type, version) for version in (node.opset, opset))
    if (old.since if old else None) == (new.since if new else None):
        return replace(node, opset=opset), {}
    kernels = [registry.lookup(node.domain, node.op_type, version) for version in (node.opset, opset)]
    if new is None or new.deprecated or any(k is None or k.fn is not kernels[0].fn for k in kernels):  # type: ignore[union-attr]
        return None
    kept = {name: value for name, value in node.attributes.items() if name in new.attributes}
    if old is not None and any(
        old.attributes.get(name, value) != value for name, value in new.attributes.items() if name not in kept
    ):
        return None
    inputs, constants = list(node.inputs), {}
    places = {formal.name: place for place, formal in enumerate(new.inputs)}
    first = types.get(node.inputs[0]) if node.inputs else None
    for name, value in node.attributes.items():
        if name in kept:
            continue
        whole = isinstance(value, int) or (isinstance(value, tuple) and all(isinstance(v, int) for v in value))
        if name not in places or (not whole and not isinstance(first, TensorType)):
            return None
        dtype = np.dtype(np.int64) if whole or not isinstance(first, TensorType) else dtypes.to_numpy(first.dtype)
        inputs += [""] * (places[name] + 1 - len(inputs))
        if inputs[places[name]]:
            return None
        inputs[places[name]] = f"{node.outputs[0]}/{name}"
        constants[inputs[places[name]]] = np.asarray(value, dtype)
    if not new.min_inputs <= len(inputs) <= new.max_inputs:
        return None
    return replace(node, inputs=tuple(inputs), attributes=kept, opset=opset), constants


def _graph(graph: Graph, place: Place | None) -> onnx.GraphProto:
    first = {node.name: index for index, node in reversed(list(enumerate(graph.nodes)))}
    return helper.make_graph(
        # onnxruntime refuses a name that two nodes have; none is fine
        [_node(node, node.name if first[node.name] == index else "", place) for index, node in enumerate(graph.nodes)],
        graph.name or "graph",
        [_value_info(name, graph.types.get(name)) for name in graph.inputs],
        [_value_info(name, graph.types.get(name)) for name in graph.outputs],
        [_tensor(name, array, place) for name, array in graph.constants.items()],
    )


def _node(node: Node, name: str, place: Place | None = None) -> onnx.NodeProto:
    proto = helper.make_node(node.op_type, node.inputs, node.outputs, name or None, domain=node.domain)
    proto.attribute.extend(_attribute(node, name, value, place) for name, value in node.attributes.items())
    return proto


def _attribute(node: Node, name: str, value: Any, place: Place | None) -> AttributeProto:
    proto = AttributeProto(name=name)
    if isinstance(value, Graph):
        proto.type = AttributeProto.GRAPH
        proto.g.CopyFrom(_graph(value, place))
    elif isinstance(value, np.ndarray):
        proto.type = AttributeProto.TENSOR
        proto.t.CopyFrom(_tensor("", value))
    elif isinstance(value, TensorType | SequenceType | OptionalType | MapType):
        proto.type = AttributeProto.TYPE_PROTO
        proto.tp.CopyFrom(_type(value))
    elif isinstance(value, float):
        proto.type, proto.f = AttributeProto.FLOAT, value
    elif isinstance(value, int):
        proto.type, proto.i = AttributeProto.INT, value
    elif isinstance(value, str):
        proto.type, proto.s = AttributeProto.STRING, _bytes(value)
    else:
        _list(proto, value, node, place)
    return proto


def _list(proto: AttributeProto, values: tuple[Any, ...], node: Node, place: Place | None) -> None:
    if not values:  # which kind of list it is, only the schema says
        try:
            known: Mapping[str, Any] = onnx.defs.get_schema(node.op_type, node.opset, node.domain).attributes
        except onnx.defs.SchemaError:
            known = {}
        proto.type = known[proto.name].type.value if proto.name in known else AttributeProto.INTS
    elif isinstance(values[0], Graph):
        proto.type = AttributeProto.GRAPHS
        proto.graphs.extend(_graph(value, place) for value in values)
    elif isinstance(values[0], np.ndarray):
        proto.type = AttributeProto.TENSORS
        proto.tensors.extend(_tensor("", value) for value in values)
    elif isinstance(values[0], str):
        proto.type = AttributeProto.STRINGS
        proto.strings.extend(map(_bytes, values))
    elif isinstance(values[0], float):
        proto.type = AttributeProto.FLOATS
        proto.floats.extend(values)
    else:
        proto.type = AttributeProto.INTS
        proto.ints.extend(values)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _tensor(name: str, array: np.ndarray, place: Place | None = None) -> TensorProto:
    if array.dtype == object:
        words = [_bytes(word) for word in array.reshape(-1).tolist()]
        return TensorProto(name=name, data_type=TensorProto.STRING, dims=array.shape, string_data=words)
    proto = TensorProto(name=name, data_type=dtypes.of_numpy(array.dtype).code, dims=array.shape)
    data = _packed(array)
    if place is not None and (found := place(name, array, data)) is not None:
        _refer(proto, found)
    else:
        proto.raw_data = data.tobytes()
    return proto


def _size(array: np.ndarray) -> int:
    return 0 if array.dtype == object else -(-array.size * dtypes.of_numpy(array.dtype).bits // 8)


def _packed(array: np.ndarray) -> np.ndarray:
    """An array's bytes as they lie in a file: a view of them, or a copy where they do not lie so in memory."""
    if dtypes.of_numpy(array.dtype).bits < 8:
        return np.frombuffer(numpy_helper.from_array(array).raw_data, np.uint8)
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8)


def _value_info(name: str, type_: Type | None) -> onnx.ValueInfoProto:
    return onnx.ValueInfoProto(name=name) if type_ is None else helper.make_value_info(name, _type(type_))


def _type(type_: Type) -> onnx.TypeProto:
    if isinstance(type_, SparseType):
        return helper.make_sparse_tensor_type_proto(type_.dtype.code, type_.shape)
    if isinstance(type_, TensorType):
        return helper.make_tensor_type_proto(type_.dtype.code, type_.shape)
    if isinstance(type_, SequenceType):
        return helper.make_sequence_type_proto(_type(type_.element))
    if isinstance(type_, OptionalType):
        return helper.make_optional_type_proto(_type(type_.element))
    return helper.make_map_type_proto(type_.key.code, _type(type_.value))
