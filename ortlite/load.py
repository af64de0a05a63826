"""Stage 1: an ONNX file becomes a Graph. The only module that imports onnx.

Model-local functions are inlined, Constant nodes become constants, external data is memory-mapped, old
spellings are normalised (`schema.DROPPED`), nodes are brought into topological order, and every value gets the type
that its producer's schema gives it.
"""

from __future__ import annotations

import logging
import mmap
import os
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, TensorProto, numpy_helper

from ortlite import differentiate, dtypes, errors, infer, schema
from ortlite.errors import Fail, InvalidArgument, InvalidGraph, InvalidProtobuf, NoSuchFile
from ortlite.graph import Graph, MapType, Model, Node, OptionalType, SequenceType, SparseType, TensorType, Type
from ortlite.ops import registry
from ortlite.ops.types import BOOL, INT64

__all__ = ["load"]

log = logging.getLogger("ortlite")


def load(source: str | os.PathLike[str] | bytes, *, external_data: str | None = None) -> Model:
    """Read a model from a path or from bytes.

    External data is looked for beside the file; `external_data` names the folder for bytes (default: the
    working directory). Raises NoSuchFile, InvalidProtobuf, InvalidArgument, InvalidGraph, Fail or NotImplemented,
    each naming what is wrong.
    """
    if isinstance(source, bytes):
        proto, folder = _parse(source, ""), Path(external_data or ".")
    else:
        path = Path(source)
        proto, folder = _parse(_read(path), str(path)), Path(external_data) if external_data else path.parent
    opsets = _opsets(proto)
    functions = {(f.domain, f.name, f.overload): f for f in proto.functions}
    scope = _Scope(opsets, functions, _ExternalData(folder))
    model = Model(
        graph=_graph(proto.graph, scope, {}, overridable=proto.ir_version >= 4),
        opsets=opsets,
        ir_version=proto.ir_version,
        producer_name=proto.producer_name,
        domain=proto.domain,
        description=proto.doc_string,
        graph_description=proto.graph.doc_string,
        version=proto.model_version if proto.HasField("model_version") else 2**63 - 1,
        metadata={p.key: p.value for p in proto.metadata_props},
    )
    log.debug("loaded %s: %d nodes", model.graph.name, len(model.graph.nodes))
    return model


def _read(path: Path) -> bytes | memoryview:
    """A file's bytes, mapped: protobuf copies what it keeps, so that a copy before would double the memory."""
    if path.suffix == ".ort":
        raise Fail(f"Load model from {path} failed:ORT format models need kernels that onnxruntime compiled.")
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) if size else b""
    except FileNotFoundError:
        raise NoSuchFile(f"Load model from {path} failed:Load model {path} failed. File doesn't exist") from None
    except IsADirectoryError:
        raise InvalidProtobuf(f"Load model from {path} failed:Protobuf parsing failed.") from None
    except OSError as error:
        raise Fail(f"Load model from {path} failed:{error.strerror or error}") from error


def _parse(data: bytes | memoryview, path: str) -> onnx.ModelProto:
    prefix = f"Load model from {path} failed:" if path else ""
    if data[4:8] == b"ORTM":
        raise Fail(f"{prefix}ORT format models need kernels that onnxruntime compiled.")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError:
        problem = "Protobuf parsing failed." if path else "Failed to load model because protobuf parsing failed."
        raise InvalidProtobuf(prefix + problem) from None
    if not proto.HasField("graph"):
        raise InvalidArgument(f"{prefix}No graph was found in the protobuf.")
    if proto.ir_version > onnx.IR_VERSION:
        log.warning("model IR version %d is newer than the %d known here", proto.ir_version, onnx.IR_VERSION)
    return proto


def _opsets(proto: onnx.ModelProto) -> dict[str, int]:
    """Domain -> version. A missing one means 1 before IR 3 and is an error from then on, as in onnxruntime."""
    opsets: dict[str, int] = {}
    for entry in proto.opset_import:
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        opsets[domain] = max(entry.version, opsets.get(domain, 0))
    if not opsets:
        if proto.ir_version >= 3:
            raise Fail("Missing opset in the model. All ModelProtos MUST have at least one entry of opset_import.")
        opsets[""] = 1
    newest = onnx.defs.onnx_opset_version()
    if opsets.get("", 0) > newest:
        raise Fail(
            f"ONNX Runtime only *guarantees* support for models stamped with official released onnx opset versions. "
            f"Opset {opsets['']} is under development and support for this is limited. "
            f"Current official support for domain ai.onnx is till opset {newest}."
        )
    return opsets


@dataclass
class _ExternalData:
    """Memory-maps the files that hold tensors outside the model."""

    folder: Path
    files: dict[str, np.ndarray] = field(default_factory=dict)

    def array(self, tensor: TensorProto) -> np.ndarray:
        entries = {e.key: e.value for e in tensor.external_data}
        location = entries.get("location", "")
        data = self._file(tensor.name, location)
        offset = int(entries.get("offset") or 0)
        dtype = dtypes.by_code(tensor.data_type)
        count = int(np.prod(tensor.dims, dtype=np.int64))
        length = -(-count * dtype.bits // 8)
        given = int(entries.get("length") or length)
        if given != length or offset + length > data.size:
            raise self._error(
                tensor.name,
                f"{location}: {length} bytes from offset {offset} are out of bounds or can not be read in full "
                f"(length says {given}, the file has {data.size} bytes).",
            )
        raw = data[offset : offset + length]
        if dtype.bits < 8:
            tensor.raw_data = raw.tobytes()
            tensor.data_location = TensorProto.DEFAULT
            return numpy_helper.to_array(tensor)
        if offset % (dtype.bits // 8):
            raw = raw.copy()  # unaligned data would be slow in every product that reads it
        return raw.view(dtypes.to_numpy(dtype)).reshape(tuple(tensor.dims))

    def _file(self, tensor: str, location: str) -> np.ndarray:
        if location not in self.files:
            path = self.folder / location
            if not location or Path(location).is_absolute():
                raise self._error(tensor, f"{location or 'an empty path'} is not a path relative to the model.")
            if not path.resolve().is_relative_to(self.folder.resolve()):
                raise self._error(tensor, f"{location} leads out of the model's folder.")
            try:
                empty = path.stat().st_size == 0
                self.files[location] = (
                    np.empty(0, np.uint8) if empty else np.memmap(path, np.uint8, "r").view(np.ndarray)
                )
            except OSError as error:
                raise self._error(tensor, f"{path}: {error.strerror or error}.") from error
        return self.files[location]

    @staticmethod
    def _error(tensor: str, problem: str) -> Fail:
        return Fail(f"External data path validation failed for initializer: {tensor}. Error: {problem}")


@dataclass(frozen=True)
class _Scope:
    """Where a list of nodes is read: the whole model, or the body of a function that is being inlined."""

    opsets: Mapping[str, int]
    functions: Mapping[tuple[str, str, str], onnx.FunctionProto]
    external: _ExternalData
    prefix: str = ""
    names: Mapping[str, str] = field(default_factory=dict)
    bound: Mapping[str, AttributeProto] = field(default_factory=dict)
    inside: tuple[tuple[str, str, str], ...] = ()

    def rename(self, name: str) -> str:
        """A value's name in the model, from its name in the function."""
        return name and self.names.get(name, self.prefix + name)


def tensor(proto: TensorProto, external: _ExternalData) -> np.ndarray:
    """A tensor's values; strings as an object array of str."""
    try:
        dtype = dtypes.by_code(proto.data_type)
        if proto.data_location == TensorProto.EXTERNAL:
            return external.array(proto)
        if dtype.kind == "S":
            values = np.empty(len(proto.string_data), object)
            values[:] = [s.decode("utf-8", "surrogateescape") for s in proto.string_data]
            return values.reshape(tuple(proto.dims))
        if dtype.bits >= 8 and proto.HasField("raw_data"):  # a view of the bytes: to_array would copy them once more
            return np.frombuffer(proto.raw_data, dtypes.to_numpy(dtype)).reshape(tuple(proto.dims))
        return numpy_helper.to_array(proto)
    except (ValueError, TypeError) as error:
        raise InvalidGraph(f"Tensor {proto.name!r}, dims {list(proto.dims)}, cannot be read: {error}") from None


def _sparse(proto: onnx.SparseTensorProto, external: _ExternalData) -> np.ndarray:
    """A sparse tensor, made dense."""
    values, indices = tensor(proto.values, external), tensor(proto.indices, external)
    dense = np.zeros(tuple(proto.dims), values.dtype)
    if indices.ndim == 2:
        dense[tuple(indices.T)] = values
    else:
        dense.reshape(-1)[indices] = values
    return dense


def value_type(proto: onnx.TypeProto) -> Type | None:
    """A declared type, or None when the file leaves it open."""
    kind = proto.WhichOneof("value")
    if kind in {"tensor_type", "sparse_tensor_type"}:
        info = getattr(proto, kind)
        if not info.elem_type:
            return None
        shape = tuple(map(_dimension, info.shape.dim)) if info.HasField("shape") else None
        return (TensorType if kind == "tensor_type" else SparseType)(dtypes.by_code(info.elem_type), shape)
    if kind in {"sequence_type", "optional_type"}:
        element = value_type(getattr(proto, kind).elem_type)
        return element and (SequenceType if kind == "sequence_type" else OptionalType)(element)
    if kind == "map_type":
        value = value_type(proto.map_type.value_type)
        return value and MapType(dtypes.by_code(proto.map_type.key_type), value)
    return None


def _dimension(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if dim.HasField("dim_value"):
        return dim.dim_value if dim.dim_value >= 0 else None
    return dim.dim_param or None


def _graph(
    proto: onnx.GraphProto,
    scope: _Scope,
    outer: Mapping[str, Type | None],
    *,
    given: Sequence[Type | None] = (),
    overridable: bool = False,
) -> Graph:
    """Read a graph. `outer` are the values around it, `given` the types its inputs are called with."""
    local: dict[str, Type | None] = {}
    types: MutableMapping[str, Type | None] = ChainMap(local, dict(outer))
    inputs = [scope.rename(i.name) for i in proto.input]
    constants = {scope.rename(t.name): tensor(t, scope.external) for t in proto.initializer}
    constants |= {scope.rename(t.values.name): _sparse(t, scope.external) for t in proto.sparse_initializer}
    for index, entry in enumerate(proto.input):
        declared = value_type(entry.type)
        local[inputs[index]] = declared or (given[index] if index < len(given) else None)
    if len(set(inputs)) != len(inputs):
        raise Fail(f"This is an invalid model. Error: Duplicate definition of name ({_repeated(inputs)}).")
    for name, array in constants.items():
        local.setdefault(name, TensorType(dtypes.of_numpy(array.dtype), array.shape))
    hints = {scope.rename(v.name): value_type(v.type) for v in (*proto.value_info, *proto.output)}

    nodes: list[Node] = []
    defined = {*inputs, *constants}
    for node_proto in _sorted(proto.node, scope, defined, outer):
        _read_node(node_proto, scope, types, hints, constants, nodes)
    defined.update(constants)
    for index, node in enumerate(nodes):
        if (node.domain, node.op_type) == differentiate.GRADIENT:
            nodes[index] = differentiate.with_body(node, nodes[:index], constants, types)
    for node in nodes:
        for name in filter(None, node.outputs):
            if name in defined:
                raise Fail(f"This is an invalid model. Error: Duplicate definition of name ({name}).")
            defined.add(name)

    outputs = tuple(scope.rename(o.name) for o in proto.output)
    for entry, name in zip(proto.output, outputs, strict=True):
        if name not in defined and name not in outer:
            raise Fail(f"This is an invalid model. Error: Graph output ({name}) does not exist in the graph.")
        declared, found = value_type(entry.type), types.get(name)
        if declared is not None and found is not None and declared.ort != found.ort:
            producer = next((n.name for n in nodes if name in n.outputs), "")
            raise Fail(
                f"Type Error: Type ({declared.ort}) of output arg ({name}) of node ({producer}) "
                f"does not match expected type ({found.ort})."
            )
        if declared is not None and name not in inputs:
            local[name] = declared
    defaults = tuple(name for name in inputs if name in constants) if overridable else ()
    reads = {name for node in nodes for name in node.reads()} | set(outputs)
    return Graph(
        name=proto.name,
        inputs=tuple(name for name in inputs if name not in constants or name in defaults),
        outputs=outputs,
        nodes=tuple(nodes),
        constants=constants,
        types={name: type_ for name, type_ in local.items() if type_ is not None},
        overridable=defaults,
        captures=tuple(sorted(name for name in reads - defined if name in outer)),
    )


def _repeated(names: Sequence[str]) -> str:
    return next(name for name in names if names.count(name) > 1)


def _needs(proto: onnx.NodeProto) -> set[str]:
    """The values a node reads from its surroundings, those of its subgraphs included."""
    names = set(proto.input)
    for attribute in proto.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
            inner = {i.name for i in graph.input} | {t.name for t in graph.initializer}
            inner |= {t.values.name for t in graph.sparse_initializer}
            inner |= {o for n in graph.node for o in n.output}
            names |= ({n for node in graph.node for n in _needs(node)} | {o.name for o in graph.output}) - inner
    return names - {""}


def _sorted(
    protos: Iterable[onnx.NodeProto], scope: _Scope, defined: set[str], outer: Mapping[str, Any]
) -> list[onnx.NodeProto]:
    """The nodes in topological order, as far as possible in the file's. Raises Fail for a cycle."""
    waiting = list(protos)
    known = set(defined)
    produced = {scope.rename(o) for node in waiting for o in node.output}
    result: list[onnx.NodeProto] = []
    while waiting:
        later: list[onnx.NodeProto] = []
        for node in waiting:
            missing = {scope.rename(n) for n in _needs(node)} - known
            # an outer value that a later node of this graph shadows is not meant
            if undefined := {n for n in missing if n not in produced and n not in outer}:
                raise InvalidArgument(
                    f"Invalid model. Node input '{min(undefined)}' is not a graph input, initializer, or output of a "
                    f"previous node. (node {node.name!r}, {node.op_type})"
                )
            if any(n in produced for n in missing):
                later.append(node)
            else:
                result.append(node)
                known.update(scope.rename(o) for o in node.output)
        if len(later) == len(waiting):
            cycle = ", ".join(repr(n.name or n.op_type) for n in later[:5])
            raise Fail(f"This is an invalid model. Error: the graph is not acyclic. (nodes {cycle})")
        waiting = later
    return result


def _read_node(
    proto: onnx.NodeProto,
    scope: _Scope,
    types: MutableMapping[str, Type | None],
    hints: Mapping[str, Type | None],
    constants: dict[str, np.ndarray],
    nodes: list[Node],
) -> None:
    """Append what one node of the file becomes: a node, a constant, or the inlined nodes of a function."""
    if not (isinstance(proto.op_type, str) and isinstance(proto.domain, str)):  # protobuf gives back what is not UTF-8
        raise InvalidGraph(
            f"This is an invalid model. Node {proto.name!r}: {proto.domain!r}, {proto.op_type!r} is no operator's name."
        )
    domain = "" if proto.domain == "ai.onnx" else proto.domain
    key = (proto.domain, proto.op_type, proto.overload)
    attributes = [_resolve(a, scope) for a in proto.attribute]
    if key in scope.functions:
        _inline(scope.functions[key], proto, attributes, scope, types, hints, constants, nodes)
        return
    opset = scope.opsets.get(domain)
    if opset is None and domain == "":
        raise Fail(f"This is an invalid model. Node {proto.name!r} ({proto.op_type}): no opset import for ai.onnx.")
    found = schema.lookup(domain, proto.op_type, opset or 1)
    kernel = registry.lookup(domain, proto.op_type, opset or 1)
    if found is None and kernel is None:
        raise _unknown(proto, domain, opset)
    if found is not None and kernel is None:
        body: Any = onnx.defs.get_schema(proto.op_type, opset or 1, domain)
        if body.has_function:
            set_ = {a.name for a in attributes if a is not None}
            defaults = [a.default_value for n, a in body.attributes.items() if n not in set_ and a.default_value.type]
            _inline(body.function_body, proto, [*defaults, *attributes], scope, types, hints, constants, nodes)
            return
        raise errors.NotImplemented(
            f"Could not find an implementation for {proto.op_type}({found.since}) node with name '{proto.name}'"
        )

    inputs = tuple(map(scope.rename, proto.input))
    given = [types.get(name) for name in inputs]
    values = {a.name: _attribute(a, scope, types, proto.op_type, given) for a in attributes if a is not None}
    values = {n: v for n, v in values.items() if (domain, n) not in schema.DROPPED}
    captures = {n for v in values.values() if isinstance(v, Graph) for n in v.captures}
    outputs = list(map(scope.rename, proto.output))
    while outputs and not outputs[-1]:
        outputs.pop()
    node = Node(proto.op_type, inputs, tuple(outputs), values, proto.name, domain, opset or 1, tuple(sorted(captures)))
    if found is not None:
        infer.check_arity(node, found)
        infer.check_attributes(node, found)
    inferred = infer.node_types(node, found, types)
    for name, type_ in zip(node.outputs, inferred, strict=True):
        if name:
            types[name] = type_ or hints.get(name)
    if node.op_type == "Constant" and not domain:
        constants[node.outputs[0]] = constant_value(values)
    else:
        nodes.append(node)


def constant_value(attributes: Mapping[str, Any]) -> np.ndarray:
    """The value of a Constant node."""
    ((name, value),) = attributes.items()
    if isinstance(value, np.ndarray):
        return value
    kinds = {"value_float": np.float32, "value_int": np.int64, "value_string": object}
    return np.asarray(value, kinds[name.removesuffix("s")])


def _unknown(proto: onnx.NodeProto, domain: str, opset: int | None) -> Exception:
    if opset is not None and domain in {"", "ai.onnx.ml", "ai.onnx.preview.training", "ai.onnx.preview"}:
        return InvalidGraph(
            f'This is an invalid model. In Node, ("{proto.name}", {proto.op_type}, "{proto.domain}", -1) : '
            f"({', '.join(proto.input)}) -> ({', '.join(proto.output)}) , Error No Op registered for {proto.op_type} "
            f"with domain_version of {opset}"
        )
    return Fail(f"Fatal error: {proto.domain}:{proto.op_type}(-1) is not a registered function/op")


def _resolve(attribute: AttributeProto, scope: _Scope) -> AttributeProto | None:
    """Replace a reference to an attribute of the function by what the caller gave; None when it gave nothing."""
    if not attribute.ref_attr_name:
        return attribute
    if attribute.ref_attr_name not in scope.bound:
        return None
    resolved = AttributeProto()
    resolved.CopyFrom(scope.bound[attribute.ref_attr_name])
    resolved.name = attribute.name
    return resolved


def _attribute(
    attribute: AttributeProto, scope: _Scope, types: Mapping[str, Any], op_type: str, given: Sequence[Type | None]
) -> Any:
    kind = attribute.type or next((k for k, name in _FIELDS.items() if _is_set(attribute, name)), 0)

    def graph(proto: onnx.GraphProto) -> Graph:
        return _graph(proto, scope, types, given=_body_inputs(op_type, given))

    readers: dict[int, Callable[[], Any]] = {
        AttributeProto.FLOAT: lambda: attribute.f,
        AttributeProto.INT: lambda: attribute.i,
        AttributeProto.STRING: lambda: attribute.s.decode("utf-8", "surrogateescape"),
        AttributeProto.TENSOR: lambda: tensor(attribute.t, scope.external),
        AttributeProto.SPARSE_TENSOR: lambda: _sparse(attribute.sparse_tensor, scope.external),
        AttributeProto.TYPE_PROTO: lambda: value_type(attribute.tp),
        AttributeProto.GRAPH: lambda: graph(attribute.g),
        AttributeProto.FLOATS: lambda: tuple(attribute.floats),
        AttributeProto.INTS: lambda: tuple(attribute.ints),
        AttributeProto.STRINGS: lambda: tuple(s.decode("utf-8", "surrogateescape") for s in attribute.strings),
        AttributeProto.TENSORS: lambda: tuple(tensor(t, scope.external) for t in attribute.tensors),
        AttributeProto.GRAPHS: lambda: tuple(graph(g) for g in attribute.graphs),
    }
    if kind not in readers:
        raise InvalidGraph(f"Attribute {attribute.name!r} of {op_type} has the unknown type {kind}.")
    return readers[kind]()


# Files from before IR 3 leave `type` out; the field that is set tells.
_FIELDS = {
    AttributeProto.FLOAT: "f", AttributeProto.INT: "i", AttributeProto.STRING: "s", AttributeProto.TENSOR: "t",
    AttributeProto.GRAPH: "g", AttributeProto.FLOATS: "floats", AttributeProto.INTS: "ints",
    AttributeProto.STRINGS: "strings", AttributeProto.TENSORS: "tensors", AttributeProto.GRAPHS: "graphs",
}  # fmt: skip


def _is_set(attribute: AttributeProto, name: str) -> bool:
    return bool(len(getattr(attribute, name))) if name.endswith("s") and name != "s" else attribute.HasField(name)


def _body_inputs(op_type: str, given: Sequence[Type | None]) -> Sequence[Type | None]:
    """What the inputs of a subgraph are called with, where the file does not declare it."""
    if op_type == "Loop":
        return [TensorType(INT64, ()), TensorType(BOOL, ()), *given[2:]]
    if op_type == "SequenceMap":
        return [t.element if isinstance(t, SequenceType) else t for t in given]
    return given if op_type == "Scan" else ()


def _inline(
    function: onnx.FunctionProto,
    call: onnx.NodeProto,
    attributes: Sequence[AttributeProto | None],
    scope: _Scope,
    types: MutableMapping[str, Type | None],
    hints: Mapping[str, Type | None],
    constants: dict[str, np.ndarray],
    nodes: list[Node],
) -> None:
    """Read a function's body in place of the node that calls it."""
    key = (function.domain, function.name, function.overload)
    if key in scope.inside:
        raise Fail(f"This is an invalid model. Error: function {function.domain}::{function.name} calls itself.")
    names = {"": ""}
    for formal, actual in zip(function.input, call.input, strict=False):
        names[formal] = scope.rename(actual)
    names |= dict.fromkeys(function.input[len(call.input) :], "")
    for formal, actual in zip(function.output, call.output, strict=False):
        if actual:
            names[formal] = scope.rename(actual)
    opsets = dict(scope.opsets)
    opsets |= {"" if o.domain == "ai.onnx" else o.domain: o.version for o in function.opset_import}
    inner = _Scope(
        opsets=opsets,
        functions=scope.functions,
        external=scope.external,
        prefix=f"{scope.prefix}{call.name or call.op_type}/{next(filter(None, call.output), '')}/",
        names=names,
        bound={a.name: a for a in function.attribute_proto} | {a.name: a for a in attributes if a is not None},
        inside=(*scope.inside, key),
    )
    outputs = {scope.rename(o) for o in call.output if o}
    defined = {n for n in types if n not in outputs}
    for proto in _sorted(function.node, inner, defined, {}):
        _read_node(proto, inner, types, hints, constants, nodes)
    for formal in function.output:  # an output that is simply an input of the function
        if formal in function.input and formal in names:
            index = list(function.output).index(formal)
            if index < len(call.output) and call.output[index]:
                source = scope.rename(call.input[list(function.input).index(formal)])
                target = scope.rename(call.output[index])
                types[target] = types.get(source)
                nodes.append(Node("Identity", (source,), (target,), {}, call.name, "", opsets.get("", 1)))
