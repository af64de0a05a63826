"""Graphs of a file: their nodes in topological order, functions inlined, every value with its type."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import AttributeProto

from ortlite import dtypes, errors, infer, schema
from ortlite.errors import Fail, InvalidGraph
from ortlite.graph import Graph, Node, SequenceType, SparseType, TensorType, Type
from ortlite.limits import beyond
from ortlite.load import gradient
from ortlite.load.functions import (
    Function,
    Key,
    check_expansion,
    domain_of,
    function_key,
    operator_body,
    read_function,
    too_large,
)
from ortlite.load.order import ordered, repeated_name
from ortlite.load.tensors import Tensors, text, value_type
from ortlite.ops import registry
from ortlite.ops.types import BOOL, INT64
from ortlite.progress import say
from ortlite.schema import Schema

__all__ = ["GRAPHS", "File", "read_model_graph"]

log = logging.getLogger("ortlite")

GRAPHS = 32  # graphs inside one another: one less than protobuf's own limit of nesting lets through

OPSETS = range(1, 2**31)  # versions that onnx can look up
TOLD = 100  # nodes between two words of ortlite.progress
PREFIX = 200  # letters before the names of a function's values, from which on they are a number


@dataclass
class File:
    """What the graphs of one file share while they are read."""

    tensors: Tensors
    functions: dict[Key, Function] = field(default_factory=dict)
    inlined: int = 0  # nodes of functions that were read
    reading: onnx.NodeProto | Function | str = "the model"
    values: dict[int, tuple[AttributeProto, Any]] = field(default_factory=dict)  # of attributes in functions
    constants: dict[int, tuple[AttributeProto, np.ndarray]] = field(default_factory=dict)  # the same, of Constant

    @property
    def about(self) -> str:
        """What is being read, for messages."""
        if isinstance(self.reading, onnx.NodeProto):
            return f"Node {self.reading.name!r} ({self.reading.op_type})"
        return str(self.reading)

    def define(self, proto: onnx.ModelProto) -> None:
        """Take the model's functions in, after a look at what its calls become."""
        for function in proto.functions:
            self.reading = f"function {function.name}"
            key = function_key(function, function.name)
            if key in self.functions:
                raise Fail(f"This is an invalid model. Error: function {key[0]}::{key[1]} is defined twice.")
            self.functions[key] = read_function(function, key)
        if self.functions:
            check_expansion(proto.graph.node, self.functions, self.tensors.limits.function_expansion)


class _Scope(NamedTuple):
    """Where a list of nodes is read: the whole model, or the body of a function that is being inlined."""

    opsets: Mapping[str, int]
    function: Function | None = None
    prefix: str = ""
    names: Mapping[str, str] = {}
    bound: Mapping[str, AttributeProto] = {}
    depth: int = 1  # of graphs

    def rename(self, name: str) -> str:
        """A value's name in the model, from its name in the function."""
        return name if self.function is None else name and self.names.get(name, self.prefix + name)

    def bind(self, attribute: AttributeProto) -> AttributeProto | None:
        """What the caller gave for a reference to an attribute of the function; None when it gave nothing."""
        return self.bound.get(attribute.ref_attr_name) if attribute.ref_attr_name else attribute


class _Types(dict[str, Type | None]):
    """The types of a graph's values; a name that is none of these means a value of the graphs around it."""

    def __init__(self, outer: _Types | None = None):
        super().__init__()
        self.outer = outer

    def __missing__(self, name: str) -> Type | None:
        return None if self.outer is None else self.outer[name]

    def known(self, name: str) -> bool:
        """Whether this graph, or one around it, has the value."""
        return name in self or (self.outer is not None and self.outer.known(name))


@dataclass
class _Reader:
    """One graph while it is read."""

    file: File
    types: _Types
    hints: Mapping[str, Type | None]
    constants: dict[str, np.ndarray]
    nodes: list[Node] = field(default_factory=list)

    def read(self, protos: Sequence[onnx.NodeProto], scope: _Scope) -> None:
        """Read nodes, and in place of a call the nodes of the function: no recursion, functions may be deep."""
        waiting = [(iter(protos), scope)]
        while waiting:
            rest, scope = waiting[-1]
            proto = next(rest, None)
            if proto is None:
                waiting.pop()
                continue
            self.file.reading = proto
            if len(self.nodes) % TOLD == 0:
                say("loading", len(self.nodes))
            if scope.function is not None:
                self.file.inlined += 1
                most = self.file.tensors.limits.function_expansion
                if most is not None and self.file.inlined > most:
                    raise too_large(most)
            function = self.node(proto, scope)
            if function is not None:
                waiting.append((iter(function.nodes), self.call(function, proto, scope)))

    def node(self, proto: onnx.NodeProto, scope: _Scope) -> Function | None:
        """Append what one node becomes, a node or a constant; or say which function it calls."""
        domain = domain_of(proto.domain)
        function = self.file.functions.get((domain, proto.op_type, proto.overload)) if self.file.functions else None
        if function is not None:
            return function
        opset = _opset(proto, domain, scope)
        known = schema.lookup(domain, proto.op_type, opset)
        kernel = registry.lookup(domain, proto.op_type, opset)
        if kernel is None:
            return _body(proto, domain, opset, known, imported=domain in scope.opsets)
        node = self.checked(proto, scope, known or infer.signature(kernel), domain, opset)
        inferred = infer.node_types(node, known, [self.types[name] for name in node.inputs])
        for name, type_ in zip(node.outputs, inferred, strict=True):
            if name:
                self.types[name] = type_ or self.hints.get(name)
        if node.op_type == "Constant" and not domain:
            self.constants[node.outputs[0]] = self.constant(node, proto, scope)
        else:
            self.nodes.append(node)
        return None

    def checked(self, proto: onnx.NodeProto, scope: _Scope, signature: Schema, domain: str, opset: int) -> Node:
        """A node as a file writes it; inputs and outputs at the end that have no name are left out."""
        inputs = tuple(map(scope.rename, proto.input))
        outputs = tuple(map(scope.rename, proto.output))
        values: dict[str, Any] = {}
        kinds: dict[str, str] = {}
        given = [self.types[name] for name in inputs] if proto.op_type in _BODIES else ()
        for attribute in proto.attribute:
            name = text(attribute.name, f"an attribute of node {proto.name!r}")
            source = scope.bind(attribute)
            if source is None or (domain, name) in schema.DROPPED:
                continue
            if name in values:
                raise InvalidGraph(
                    f"This is an invalid model. Node {proto.name!r} ({proto.op_type}): "
                    f"Error Attribute '{name}' appeared multiple times."
                )
            kinds[name], values[name] = self.attribute(source, scope, proto, given)
        subgraphs = [v for v in values.values() if isinstance(v, Graph)]
        captures = tuple(sorted({n for g in subgraphs for n in g.captures}))
        name = text(proto.name, "a node")
        node = Node(proto.op_type, _trimmed(inputs), _trimmed(outputs), values, name, domain, opset, captures)
        infer.check_arity(node, signature, len(inputs), len(outputs))
        infer.check_attributes(node, signature, kinds)
        if subgraphs:
            infer.check_bodies(node)
        return node

    def attribute(
        self, proto: AttributeProto, scope: _Scope, node: onnx.NodeProto, given: Sequence[Type | None]
    ) -> tuple[str, Any]:
        """What kind of value an attribute is, in ONNX's words, and the value."""
        kind = proto.type or next((k for k, name in _FIELDS.items() if _is_set(proto, name)), 0)
        if kind in _GRAPHS:
            read = [
                _subgraph(graph, scope, self, _BODIES.get(node.op_type, _nothing)(given))
                for graph in (proto.graphs if kind == AttributeProto.GRAPHS else [proto.g])
            ]
            return _KINDS[kind], tuple(read) if kind == AttributeProto.GRAPHS else read[0]
        if kind not in _READERS:
            raise InvalidGraph(
                f"Attribute {proto.name!r} of node {node.name!r} ({node.op_type}) has the unknown type {kind}."
            )
        if scope.function is None:
            return _KINDS[kind], _READERS[kind](proto, self.file.tensors)
        found = self.file.values.get(id(proto))  # calls of one function share its weights
        if found is None:
            found = self.file.values[id(proto)] = proto, _READERS[kind](proto, self.file.tensors)
        return _KINDS[kind], found[1]

    def constant(self, node: Node, proto: onnx.NodeProto, scope: _Scope) -> np.ndarray:
        """The value of a Constant node."""
        if len(node.attributes) != 1:
            raise InvalidGraph(
                f"This is an invalid model. Node {node.name!r} (Constant) has the attributes "
                f"{sorted(node.attributes)}; it needs exactly one."
            )
        ((name, value),) = node.attributes.items()
        if isinstance(value, np.ndarray):
            return value
        kinds = {"value_float": np.float32, "value_int": np.int64, "value_string": object}
        source = next(a for a in map(scope.bind, proto.attribute) if a is not None)
        found = self.file.constants.get(id(source)) if scope.function is not None else None
        if found is None:
            found = source, np.asarray(value, kinds[name.removesuffix("s")])
            if scope.function is not None:
                self.file.constants[id(source)] = found
        return found[1]

    def call(self, function: Function, call: onnx.NodeProto, scope: _Scope) -> _Scope:
        """Where the nodes of a function are read in place of the node that calls it."""
        inputs, outputs = [scope.rename(n) for n in call.input], [scope.rename(n) for n in call.output]
        given = _bound(function, call, scope)
        self.file.reading = call
        if len(inputs) > len(function.inputs) or len(outputs) > len(function.outputs):
            raise Fail(
                f"This is an invalid model. Node {call.name!r} gives {function} {len(inputs)} inputs and takes "
                f"{len(outputs)} outputs; it has {len(function.inputs)} and {len(function.outputs)}."
            )
        names = dict.fromkeys(function.inputs, "") | dict(zip(function.inputs, inputs, strict=False))
        for formal, actual in zip(function.outputs, outputs, strict=False):
            if actual and formal in function.inputs:  # handed on as it is
                source = names[formal]
                if not source:
                    raise InvalidGraph(
                        f"This is an invalid model. Node {call.name!r}: {function} returns its input "
                        f"{formal!r}, which the node leaves out."
                    )
                self.types[actual] = self.types[source]
                self.nodes.append(Node("Identity", (source,), (actual,), {}, call.name, "", function.opsets.get("", 1)))
            elif actual:
                names[formal] = actual
        first = next(filter(None, call.output), "")
        prefix = f"{scope.prefix}{call.name or call.op_type}/{first}/"
        if not first or len(prefix) > PREFIX:
            prefix = f"{function.key[1][:PREFIX]}#{self.file.inlined}/"
        opsets = {**scope.opsets, **function.opsets}
        return _Scope(opsets, function, prefix, names, {**function.defaults, **given}, scope.depth)


def _bound(function: Function, call: onnx.NodeProto, scope: _Scope) -> dict[str, AttributeProto]:
    """What a call gives for the attributes of a function. Others have no effect, as in onnxruntime."""
    given: dict[str, AttributeProto] = {}
    for attribute in call.attribute:
        if attribute.name not in function.attributes:
            log.warning("node %r: %s has no attribute %s", call.name, function, attribute.name)
            continue
        source = scope.bind(attribute)
        if source is not None:
            given[attribute.name] = source
    return given


def _trimmed(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names without the empty ones at the end."""
    while names and not names[-1]:
        names = names[:-1]
    return names


def _opset(proto: onnx.NodeProto, domain: str, scope: _Scope) -> int:
    opset = scope.opsets.get(domain)
    if opset is None:
        if not domain:
            raise Fail(f"This is an invalid model. Node {proto.name!r} ({proto.op_type}): no opset import for ai.onnx.")
        return 1
    if opset not in OPSETS:
        raise _unknown(proto, domain, opset)
    return opset


def _body(proto: onnx.NodeProto, domain: str, opset: int, known: Schema | None, *, imported: bool) -> Function:
    """The body of an operator without a kernel. Raises NotImplemented where onnx has none."""
    if known is None:
        raise _unknown(proto, domain, opset if imported else None)
    function = operator_body(domain, proto.op_type, opset)
    if function is None:
        raise errors.NotImplemented(
            f"Could not find an implementation for {proto.op_type}({known.since}) node with name '{proto.name}'"
        )
    return function


def _unknown(proto: onnx.NodeProto, domain: str, opset: int | None) -> Exception:
    if opset is not None and (
        opset not in OPSETS or domain in {"", "ai.onnx.ml", "ai.onnx.preview.training", "ai.onnx.preview"}
    ):
        return InvalidGraph(
            f'This is an invalid model. In Node, ("{proto.name}", {proto.op_type}, "{proto.domain}", -1) : '
            f"({', '.join(proto.input)}) -> ({', '.join(proto.output)}) , Error No Op registered for {proto.op_type} "
            f"with domain_version of {opset}"
        )
    if opset is None and domain != "com.microsoft":  # which every model has
        return InvalidGraph(
            f'This is an invalid model. In Node, ("{proto.name}", {proto.op_type}, "{proto.domain}", -1) : '
            f"({', '.join(proto.input)}) -> ({', '.join(proto.output)}) , Error No opset import for domain "
            f"'{proto.domain}'"
        )
    return Fail(f"Fatal error: {proto.domain}:{proto.op_type}(-1) is not a registered function/op")


# Attributes


_READERS: dict[int, Callable[[AttributeProto, Tensors], Any]] = {
    AttributeProto.FLOAT: lambda a, _: a.f,
    AttributeProto.INT: lambda a, _: a.i,
    AttributeProto.STRING: lambda a, _: _decoded(a.s),
    AttributeProto.TENSOR: lambda a, tensors: tensors.read(a.t),
    AttributeProto.SPARSE_TENSOR: lambda a, tensors: tensors.sparse(a.sparse_tensor),
    AttributeProto.TYPE_PROTO: lambda a, _: value_type(a.tp, a.name),
    AttributeProto.FLOATS: lambda a, _: tuple(a.floats),
    AttributeProto.INTS: lambda a, _: tuple(a.ints),
    AttributeProto.STRINGS: lambda a, _: tuple(map(_decoded, a.strings)),
    AttributeProto.TENSORS: lambda a, tensors: tuple(map(tensors.read, a.tensors)),
}
_GRAPHS = {AttributeProto.GRAPH, AttributeProto.GRAPHS}
_KINDS = {value: name for name, value in AttributeProto.AttributeType.items()}

# Files from before IR 3 leave `type` out; the field that is set tells.
_FIELDS = {
    AttributeProto.FLOAT: "f", AttributeProto.INT: "i", AttributeProto.STRING: "s", AttributeProto.TENSOR: "t",
    AttributeProto.GRAPH: "g", AttributeProto.FLOATS: "floats", AttributeProto.INTS: "ints",
    AttributeProto.STRINGS: "strings", AttributeProto.TENSORS: "tensors", AttributeProto.GRAPHS: "graphs",
}  # fmt: skip


def _decoded(word: bytes) -> str:
    return word.decode("utf-8", "surrogateescape")


def _is_set(attribute: AttributeProto, name: str) -> bool:
    return bool(len(getattr(attribute, name))) if name.endswith("s") and name != "s" else attribute.HasField(name)


def _nothing(given: Sequence[Type | None]) -> Sequence[Type | None]:
    return ()


# What the inputs of a subgraph are called with, where the file does not declare it.
_BODIES: dict[str, Callable[[Sequence[Type | None]], Sequence[Type | None]]] = {
    "Loop": lambda given: [TensorType(INT64, ()), TensorType(BOOL, ()), *given[2:]],
    "Scan": lambda given: given,
    "SequenceMap": lambda given: [t.element if isinstance(t, SequenceType) else t for t in given],
}


# Graphs


def read_model_graph(proto: onnx.ModelProto, opsets: Mapping[str, int], file: File) -> Graph:
    """The graph of a model. From IR 4 on a constant that is also an input is the default of the input."""
    return _graph(proto.graph, _Scope(opsets), _Types(), file, (), overridable=proto.ir_version >= 4)


def _subgraph(proto: onnx.GraphProto, scope: _Scope, reader: _Reader, given: Sequence[Type | None]) -> Graph:
    reading = reader.file.reading
    allowed = reader.file.tensors.limits.nesting
    if allowed is not None and allowed < GRAPHS and scope.depth >= allowed:
        raise beyond("nesting", allowed, scope.depth + 1, f"{reader.file.about}: graphs inside one another")
    if scope.depth >= GRAPHS:
        raise InvalidGraph(
            f"This is an invalid model. {reader.file.about}: more than {GRAPHS} graphs inside one another."
        )
    read = _graph(proto, scope._replace(depth=scope.depth + 1), reader.types, reader.file, given, overridable=False)
    reader.file.reading = reading
    given_back = {  # an input that is an output, too, may be declared as that alone
        name: type_
        for output in proto.output
        if (name := scope.rename(output.name)) in read.inputs
        and getattr(read.types.get(name), "shape", None) is None
        and (type_ := value_type(output.type, output.name)) is not None
    }
    return replace(read, types={**read.types, **given_back}) if given_back else read


def _graph(
    proto: onnx.GraphProto,
    scope: _Scope,
    outer: _Types,
    file: File,
    given: Sequence[Type | None],
    *,
    overridable: bool,
) -> Graph:
    """Read a graph. `outer` are the values around it, `given` the types its inputs are called with."""
    inputs = [scope.rename(text(i.name, "an input")) for i in proto.input]
    if repeated := repeated_name(inputs):
        raise Fail(f"This is an invalid model. Error: Duplicate definition of name ({repeated}).")
    constants = _initializers(proto, scope, file.tensors)
    types = _Types(outer)
    for index, entry in enumerate(proto.input):
        types[inputs[index]] = value_type(entry.type, entry.name) or (given[index] if index < len(given) else None)
    for name, array in constants.items():
        _check_initializer(name, types.get(name), array)
        types.setdefault(name, TensorType(dtypes.of_numpy(array.dtype), array.shape))
    hints = {
        scope.rename(text(v.name, "a value")): value_type(v.type, v.name) for v in (*proto.value_info, *proto.output)
    }

    known = {i.name for i in proto.input} | {t.name for t in proto.initializer}
    known |= {t.values.name for t in proto.sparse_initializer}
    reader = _Reader(file, types, hints, constants)
    reader.read(ordered(proto.node, known, lambda name: _is_outside(scope.rename(name), outer)), scope)
    nodes = gradient.with_bodies(reader.nodes, constants, types)

    file.reading = f"graph {proto.name}"
    defined = _defined(inputs, constants, nodes)
    outputs = tuple(scope.rename(text(o.name, "an output")) for o in proto.output)
    fed = set(inputs)
    for name in outputs:
        if name not in defined and not outer.known(name):
            raise Fail(f"This is an invalid model. Error: Graph output ({name}) does not exist in the graph.")
        declared = hints[name]
        if isinstance(declared, SparseType) and name in constants:  # called dense, though it comes out as it is held
            declared = TensorType(declared.dtype, declared.shape)
        _check_output(name, declared, types[name], nodes)
        if declared is not None and name not in fed:
            types[name] = declared
    defaults = tuple(name for name in inputs if name in constants) if overridable else ()
    fixed = constants.keys() - set(defaults)
    reads = {name for node in nodes for name in node.reads()} | set(outputs)
    return Graph(
        name=text(proto.name, "a graph"),
        inputs=tuple(name for name in inputs if name not in fixed),
        outputs=outputs,
        nodes=tuple(nodes),
        constants=constants,
        types={name: type_ for name, type_ in types.items() if type_ is not None},
        overridable=defaults,
        captures=tuple(sorted(name for name in reads - defined if outer.known(name))),
    )


def _is_outside(name: str, outer: _Types) -> bool:
    """Whether a graph gets a value from around it; an input that a call of a function leaves out has no name."""
    return not name or outer.known(name)


def _initializers(proto: onnx.GraphProto, scope: _Scope, tensors: Tensors) -> dict[str, np.ndarray]:
    """The tensors that a graph holds, by name. Of two with one name the later one counts, as in onnxruntime."""
    constants: dict[str, np.ndarray] = {}
    read = [(t.name, tensors.initializer(t)) for t in proto.initializer]
    for name, array in [*read, *((t.values.name, tensors.sparse(t)) for t in proto.sparse_initializer)]:
        renamed = scope.rename(text(name, "an initializer"))
        if renamed in constants:
            log.warning("there are two initializers %s; the later one counts", renamed)
        constants[renamed] = array
    return constants


def _defined(inputs: Iterable[str], constants: Iterable[str], nodes: Iterable[Node]) -> set[str]:
    """The values that a graph itself has. Raises Fail where two nodes compute one."""
    defined = {*inputs, *constants}
    for node in nodes:
        for name in node.outputs:
            if name:
                if name in defined:
                    raise Fail(f"This is an invalid model. Error: Duplicate definition of name ({name}).")
                defined.add(name)
    return defined


def _check_initializer(name: str, declared: Type | None, array: np.ndarray) -> None:
    """Raise Fail where an initializer has another rank than its input says; [] says "unknown" as well."""
    if isinstance(declared, TensorType) and declared.shape and len(declared.shape) != array.ndim:
        raise Fail(
            f"Type Error: Shape of initializer {name} does not match. {list(declared.shape)} != {list(array.shape)}"
        )


def _check_output(name: str, declared: Type | None, found: Type | None, nodes: Sequence[Node]) -> None:
    if declared is not None and found is not None and declared.ort != found.ort:
        producer = next((n.name for n in nodes if name in n.outputs), "")
        raise Fail(
            f"Type Error: Type ({declared.ort}) of output arg ({name}) of node ({producer}) "
            f"does not match expected type ({found.ort})."
        )
