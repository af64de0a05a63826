"""How many floating point operations and bytes every node of a model takes, without running it.

A multiply-add counts as two operations; where the table below says nothing of an operator, it is one for each element
of its results. Bytes are those of a node's inputs and outputs, read and written once: what a perfect cache leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import TypeAlias

import numpy as np

from ortlite import dtypes
from ortlite.errors import OrtError
from ortlite.evaluate import evaluate
from ortlite.graph import Graph, Node, TensorType, Type
from ortlite.ops import registry
from ortlite.optimize.facts import Facts
from ortlite.optimize.shape_rules import RULES
from ortlite.optimize.shapes import learn_from
from ortlite.save import inferred_shapes

__all__ = ["Cost", "Counted", "count", "node_bytes", "node_flops"]

Shape: TypeAlias = tuple[int, ...]
Shapes: TypeAlias = Sequence[Shape | None]  # of a node's inputs or outputs; None: left out
Rule: TypeAlias = Callable[[Node, Shapes, Shapes], int]
SMALL = 1024  # elements of an array that may decide shapes


def _size(shapes: Shapes, index: int) -> int:
    """Elements of one of several values, 0 where it is left out."""
    shape = shapes[index] if index < len(shapes) else None
    return 0 if shape is None else prod(shape)


def _shape(shapes: Shapes, index: int) -> Shape:
    shape = shapes[index] if index < len(shapes) else None
    return () if shape is None else shape


def _conv(weight: int, bias: int) -> Rule:
    """`weight` (M, C/group, ...): each output element takes one filter's multiply-adds."""

    def rule(node: Node, given: Shapes, made: Shapes) -> int:
        out = _size(made, 0)
        return out * (2 * prod(_shape(given, weight)[1:]) + bool(_size(given, bias)))

    return rule


def _fused_conv(node: Node, given: Shapes, made: Shapes) -> int:
    extra = bool(node.attributes.get("activation")) + bool(_size(given, 3))
    return _conv(1, 2)(node, given, made) + extra * _size(made, 0)


def _widened(node: Node, given: Shapes, made: Shapes) -> int:
    """A FusedConv of `given` 0, 1 and 3, whose result has as many pixels, and one of that, 2 and 4."""
    x, (channels, depth, *_) = _shape(given, 0), _shape(given, 1)
    wide = x[0] * channels * prod(x[2:])
    first = 2 * depth + bool(_size(given, 3)) + bool(node.attributes.get("activation"))
    last = 2 * prod(_shape(given, 2)[1:]) + bool(_size(given, 4)) + bool(node.attributes.get("last_activation"))
    return wide * first + _size(made, 0) * last


def _conv_transpose(node: Node, given: Shapes, made: Shapes) -> int:
    """Weights (C, M/group, ...): each input element takes one filter's multiply-adds."""
    bias = _size(made, 0) if _size(given, 2) else 0
    return 2 * _size(given, 0) * prod(_shape(given, 1)[1:]) + bias


def _gemm(node: Node, given: Shapes, made: Shapes) -> int:
    inner = _shape(given, 0)[0 if node.attributes.get("transA") else 1]
    activation = bool(node.attributes.get("activation"))
    return _size(made, 0) * (2 * inner + bool(_size(given, 2)) + activation)


def _matmul(node: Node, given: Shapes, made: Shapes) -> int:
    a = _shape(given, 0)
    return 2 * _size(made, 0) * a[-2 if node.attributes.get("transA") and len(a) > 1 else -1]


def _packed_matmul(node: Node, given: Shapes, made: Shapes) -> int:
    return 2 * _size(made, 0) * int(node.attributes["K"])


def _attention(node: Node, given: Shapes, made: Shapes) -> int:
    """Q, K, V of (batch, heads, sequence, size) or (batch, sequence, heads × size), past keys at 4."""
    keys = _shape(given, 1)[-2] + (_shape(given, 4)[-2] if _size(given, 4) else 0)
    return 2 * keys * (_size(given, 0) + _size(made, 0))


def _old_attention(node: Node, given: Shapes, made: Shapes) -> int:
    """com.microsoft: hidden states (batch, sequence, hidden) through the weights (hidden, 3 × hidden), then attention.

    The past at 4 is (2, batch, heads, sequence, size).
    """
    batch, length, _ = _shape(given, 0)
    keys = length + (_shape(given, 4)[3] if _size(given, 4) else 0)
    return 2 * batch * length * _size(given, 1) + 4 * keys * _size(made, 0)


def _multi_head(node: Node, given: Shapes, made: Shapes) -> int:
    """Present keys (batch, heads, sequence, size) at output 1, else keys at 1: none where the query has all."""
    query, key = _shape(given, 0), _shape(given, 1)
    if _size(made, 1):
        keys = _shape(made, 1)[2]
    else:
        keys = (key[2] if len(key) == 4 else key[1]) if key else query[1]
        keys += _shape(given, 6)[2] if _size(given, 6) else 0
    scores = prod(query) if key else prod(query) // 3
    return 2 * keys * (scores + _size(made, 0))


def _grouped(node: Node, given: Shapes, made: Shapes) -> int:
    """Keys are as long as the cache: present ones at output 1, else past ones at 3 and the new ones."""
    past = _shape(given, 3)
    keys = _shape(made, 1)[2] if _size(made, 1) else _shape(given, 0)[1] + (past[2] if past else 0)
    return 4 * keys * _size(made, 0)


def _one_step(node: Node, given: Shapes, made: Shapes) -> int:
    """One query, packed where no key is given; keys of the past at 5, with room for one more where it is shared."""
    query, key, past = _shape(given, 0), _shape(given, 1), _shape(given, 5)
    if past:
        keys = past[2] + (not node.attributes.get("past_present_share_buffer"))
    else:
        keys = (key[2] if len(key) == 4 else key[1]) if key else query[1]
    return 2 * keys * ((prod(query) if key else prod(query) // 3) + _size(made, 0))


def _linear(node: Node, given: Shapes, made: Shapes) -> int:
    """Each step adds to each head's matrix, for a delta rule multiplies it by a key first, and then by queries."""
    query, width = _shape(given, 0), _shape(given, 2)[-1]
    heads, shared = int(node.attributes["q_num_heads"]), int(node.attributes["kv_num_heads"])
    steps, size = query[0] * query[-2], query[-1]
    if len(query) == 3:
        size, width = size // heads, width // shared
    updates = shared * (2 if "delta" in node.attributes.get("update_rule", "gated_delta") else 1)
    return 2 * steps * size * width * (updates + max(heads, shared))


def _deltas(node: Node, given: Shapes, made: Shapes) -> int:
    """GatedDeltaNet, likewise; heads and size of the values are the result's, that of the keys also the state's."""
    size = _shape(given, 0)[-1] if _size(given, 1) else _shape(given, 6)[3]
    return 2 * _size(made, 0) * size * (3 if "delta" in node.attributes.get("update_rule", "gated_delta") else 2)


def _causal(node: Node, given: Shapes, made: Shapes) -> int:
    """Weights (channels, 1, taps): a multiply-add for each tap."""
    bias = bool(_size(given, 2 if node.op_type == "CausalConvWithState" else 3))
    activation = node.attributes.get("activation", "none") != "none"
    return _size(made, 0) * int(2 * _shape(given, 1)[2] + bias + activation)


def _experts(gate: int) -> Rule:
    """Each token goes through the layers of `k` experts; those that gate have weights at `gate`, if there are any."""

    def rule(node: Node, given: Shapes, made: Shapes) -> int:
        rows = _shape(given, 2)[1]
        fused = node.attributes.get("swiglu_fusion") and node.attributes.get("activation_type") in {"swiglu", "geglu"}
        inner = rows // 2 if fused else rows
        columns = rows + inner + (inner if _size(given, gate) else 0)
        return 2 * int(node.attributes.get("k", 1)) * _size(given, 0) * columns

    return rule


def _recurrent(node: Node, given: Shapes, made: Shapes) -> int:
    """X (sequence, batch, input), W and R of all directions; gates are elementwise."""
    steps = prod(_shape(given, 0)[:2])
    directions, gates, _ = _shape(given, 1)
    return steps * (2 * (_size(given, 1) + _size(given, 2)) + directions * gates)


def _einsum(node: Node, given: Shapes, made: Shapes) -> int:
    """A multiply-add (one input: an addition) for each element of the result and each combination of what is summed."""
    terms, _, result = node.attributes["equation"].replace(" ", "").partition("->")
    sizes: dict[str, int] = {}
    for term, shape in zip(terms.split(","), given, strict=False):
        before, dots, after = term.partition("...")
        dims = shape or ()
        sizes.update(zip(before, dims, strict=False))
        if dots and after:
            sizes.update(zip(after, dims[-len(after) :], strict=True))
    summed = [n for label, n in sizes.items() if label not in result] if "->" in node.attributes["equation"] else [
        n for label, n in sizes.items() if terms.count(label) > 1
    ]  # fmt: skip
    return min(len(given), 2) * _size(made, 0) * prod(summed)


def _pool(node: Node, given: Shapes, made: Shapes) -> int:
    return _size(made, 0) * int(prod(node.attributes["kernel_shape"]))


def _inputs(node: Node, given: Shapes, made: Shapes) -> int:
    return _size(given, 0)


def _none(node: Node, given: Shapes, made: Shapes) -> int:
    return 0


# Reshaping costs nothing at all; what only moves elements has no operations.
VIEWS = frozenset("Reshape Flatten Squeeze Unsqueeze Identity Shape Size Constant Optional OptionalGetElement".split())
MOVES = VIEWS | frozenset(
    "Transpose Concat Split Slice Gather GatherElements GatherND ScatterElements Scatter ScatterND Expand Tile Pad "
    "Cast CastLike DepthToSpace SpaceToDepth ConstantOfShape EyeLike OneHot Compress Trilu ReverseSequence NonZero "
    "SequenceConstruct SequenceAt SequenceInsert SequenceEmpty SequenceErase SequenceLength ConcatFromSequence "
    "SplitToSequence BitCast If Loop Scan SequenceMap".split()
)
PICKING = frozenset("Gather GatherElements GatherND Slice Compress".split())  # read only what they return
REDUCING = (
    "ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp "
    "ReduceSumSquare ArgMax ArgMin GlobalAveragePool GlobalMaxPool GlobalLpPool TopK"
)
# Operator -> its operations, from the node and the shapes of its inputs and outputs; by domain where two share a name.
FLOPS: dict[str, Rule] = {
    "Conv": _conv(1, 2),
    "NhwcConv": _conv(1, 2),
    "FusedConv": _fused_conv,
    "PointwiseDepthwiseConv": _widened,
    "ConvInteger": _conv(1, 99),
    "QLinearConv": _conv(3, 8),
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "FusedGemm": _gemm,
    "MatMul": _matmul,
    "FusedMatMul": _matmul,
    "FusedMatMulActivation": _matmul,
    "Linear": lambda node, given, made: _matmul(node, given, made) + _size(made, 0),
    "TransposeMatMul": _matmul,
    "MatMulInteger": _matmul,
    "MatMulIntegerToFloat": _matmul,
    "DynamicQuantizeMatMul": _matmul,
    "QLinearMatMul": _matmul,
    "MatMulNBits": _packed_matmul,
    "MatMulBnb4": _packed_matmul,
    "MatMulFpQ4": _matmul,
    "MatMulInteger16": _matmul,
    "Attention": _attention,
    "com.microsoft::Attention": _old_attention,
    "MultiHeadAttention": _multi_head,
    "GroupQueryAttention": _grouped,
    "SparseAttention": _grouped,  # as if all blocks were there
    "DecoderMaskedMultiHeadAttention": _one_step,
    "LinearAttention": _linear,
    "GatedDeltaNet": _deltas,
    "CausalConvWithState": _causal,
    "VarlenCausalConvWithState": _causal,
    "MoE": _experts(6),
    "QMoE": _experts(8),
    "RNN": _recurrent,
    "GRU": _recurrent,
    "LSTM": _recurrent,
    "Einsum": _einsum,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "LpPool": _pool,
    **dict.fromkeys(REDUCING.split(), _inputs),
    **dict.fromkeys(MOVES, _none),
}


def node_flops(node: Node, given: Shapes, made: Shapes) -> int:
    """The operations of a node, from the shapes of its inputs and outputs.

    Example:
        >>> node = Node("MatMul", ("a", "b"), ("y",))
        >>> node_flops(node, [(8, 64), (64, 32)], [(8, 32)])
        32768

    """
    rule = FLOPS.get(f"{node.domain}::{node.op_type}") or FLOPS.get(node.op_type)
    if rule is None:
        return sum(_size(made, index) for index in range(len(made)))
    return rule(node, given, made)


def node_bytes(node: Node, given: Sequence[int], made: Sequence[int]) -> int:
    """The bytes that a node reads and writes, from the bytes of each input and output.

    Example:
        >>> node_bytes(Node("Add", ("a", "b"), ("y",)), [400, 4], [400])
        804
        >>> node_bytes(Node("Reshape", ("a", "s"), ("y",)), [400, 16], [400])
        0

    """
    if node.op_type in VIEWS:
        return 0
    if node.op_type in PICKING:
        return 2 * sum(made) + sum(given[1:])
    return sum(given) + sum(made)


@dataclass(frozen=True, slots=True)
class Cost:
    """What one node takes, run `times` times; None where a shape is not known before a run."""

    node: Node
    flops: int | None
    nbytes: int | None
    times: int = 1


@dataclass(frozen=True, slots=True)
class Counted:
    """The costs of a graph's nodes, subgraphs' included, the `dims` they hold for, and `notes` on what was assumed."""

    costs: tuple[Cost, ...]
    dims: Mapping[str, int]
    notes: tuple[str, ...]


@dataclass(slots=True)
class _Walk:
    """What is known while a graph is walked: shapes and dtypes of values, and small arrays."""

    dims: Mapping[str, int]
    shapes: dict[str, Shape | None] = field(default_factory=dict)
    types: dict[str, dtypes.DType] = field(default_factory=dict)
    values: dict[str, np.ndarray] = field(default_factory=dict)
    costs: list[Cost] = field(default_factory=list)
    notes: dict[str, None] = field(default_factory=dict)


def count(graph: Graph, dims: Mapping[str, int] | None = None) -> Counted:
    """The costs of every node, with symbolic dimensions of the inputs from `dims`, else 1.

    A dimension without a name is called INPUT:AXIS. Raises ValueError for a name that no dimension has.
    """
    given = dict(dims or {})
    found: dict[str, int] = {}
    walk = _Walk(found)
    for name in graph.inputs:
        type_ = graph.types.get(name)
        if name in graph.overridable or not isinstance(type_, TensorType):
            continue
        for axis, dim in enumerate(type_.shape or ()):
            if not isinstance(dim, int):
                called = dim or f"{name}:{axis}"
                found[called] = given.get(called, 1)
    if unknown := given.keys() - found.keys():
        listed = ", ".join(found) or "none"
        raise ValueError(f"no input has a dimension called {', '.join(sorted(unknown))}; open are {listed}")
    for name in graph.inputs:
        _declare(walk, name, graph.types.get(name))
    _walk(walk, graph, 1)
    return Counted(tuple(walk.costs), found, tuple(walk.notes))


def _declare(walk: _Walk, name: str, type_: Type | None) -> None:
    """Take what is declared of a value, if its dimensions are known by name."""
    if not isinstance(type_, TensorType):
        return
    walk.types[name] = type_.dtype
    if type_.shape is None:
        return
    shape = [d if isinstance(d, int) else walk.dims.get(d or f"{name}:{i}") for i, d in enumerate(type_.shape)]
    if None not in shape:
        walk.shapes[name] = tuple(d for d in shape if d is not None)


def _walk(walk: _Walk, graph: Graph, times: int) -> None:
    for name, array in graph.constants.items():
        walk.shapes[name], walk.types[name] = array.shape, dtypes.of_numpy(array.dtype)
        if array.size <= SMALL:
            walk.values[name] = array
    for node in graph.nodes:
        shapes = _results(walk, node)
        for name, shape in zip(node.outputs, shapes, strict=True):
            type_ = graph.types.get(name)
            if isinstance(type_, TensorType):
                walk.types[name] = type_.dtype
            if shape is not None:
                walk.shapes[name] = shape
            elif name:
                _declare(walk, name, type_)
        _evaluate(walk, node)
        if node.subgraphs:
            _bodies(walk, node, times)
        walk.costs.append(replace(_cost(walk, node), times=times))


def _cost(walk: _Walk, node: Node) -> Cost:
    present = [name for name in (*node.inputs, *node.outputs) if name]
    if any(walk.shapes.get(name) is None for name in present):
        return Cost(node, 0 if node.op_type in MOVES else None, 0 if node.op_type in VIEWS else None)
    given: Shapes = [walk.shapes.get(name) for name in node.inputs]
    made: Shapes = [walk.shapes.get(name) for name in node.outputs]
    try:
        flops = node_flops(node, given, made)
    except (IndexError, ValueError, KeyError):  # a form of the operator that the rule does not know
        return Cost(node, None, None)
    sizes = [[_nbytes(walk, name) for name in names] for names in (node.inputs, node.outputs)]
    return Cost(node, flops, node_bytes(node, *sizes))


def _nbytes(walk: _Walk, name: str) -> int:
    shape, type_ = walk.shapes.get(name), walk.types.get(name)
    return 0 if shape is None else -(-prod(shape) * (8 if type_ is None else type_.bits or 8) // 8)


# com.microsoft's operators whose results have the shape of their first input, and those like one of ONNX's.
ALIKE = frozenset(
    "BiasGelu FastGelu Gelu QuickGelu SkipLayerNormalization SkipSimplifiedLayerNormalization RotaryEmbedding "
    "EmbedLayerNormalization BiasSoftmax QuantizeLinear DequantizeLinear GroupNorm SkipGroupNorm BiasSplitGelu "
    "SimplifiedLayerNormalization QLinearSigmoid QLinearLeakyRelu QLinearSoftmax".split()
)
AS_ONNX = {"FusedConv": ("Conv", 11, 3), "FusedGemm": ("Gemm", 13, 3)}


def _results(walk: _Walk, node: Node) -> list[Shape | None]:
    """The shapes of a node's outputs, as far as they can be told."""
    nothing: list[Shape | None] = [None] * len(node.outputs)
    first = walk.shapes.get(node.inputs[0]) if node.inputs else None
    if node.op_type in ALIKE and (node.domain or node.op_type == "SimplifiedLayerNormalization"):
        statistics = None if first is None else (*first[:-1], 1)  # mean and deviation; the sum comes last
        return [first, statistics, statistics, first][: len(node.outputs)]
    if node.op_type == "MultiHeadAttention":
        return [_attended(walk, node, first), *nothing[1:]]
    if node.domain == "com.microsoft" and node.op_type in SHAPES:
        return [SHAPES[node.op_type](node, [walk.shapes.get(name) for name in node.inputs]), *nothing[1:]]
    if node.domain == "com.microsoft" and node.op_type in RULES and (ruled := _ruled(walk, node)):
        return ruled
    asked = node
    if node.domain == "com.microsoft" and node.op_type in AS_ONNX:
        op_type, opset, inputs = AS_ONNX[node.op_type]
        kept = {"auto_pad", "dilations", "group", "kernel_shape", "pads", "strides", "transA", "transB"}
        attributes = {name: value for name, value in node.attributes.items() if name in kept}
        asked = Node(op_type, node.inputs[:inputs], node.outputs[:1], attributes, node.name, "", opset)
    given = {name: TensorType(walk.types[name], walk.shapes.get(name)) for name in asked.inputs if name in walk.types}
    if node.subgraphs or not all(name in given for name in asked.inputs if name):
        return nothing
    values = {name: walk.values[name] for name in asked.inputs if name in walk.values}
    try:
        found = inferred_shapes(asked, given, values)
    except Exception:  # noqa: BLE001  (onnx raises its own errors where shapes that are assumed do not fit)
        walk.notes[f"{_called(node)}: the assumed dimensions do not fit"] = None
        return nothing
    known = [None if s is None or None in s else tuple(d for d in s if d is not None) for s in found]
    if asked.op_type == "Reshape" and first is not None and known[0] is not None and prod(first) != prod(known[0]):
        walk.notes[f"{_called(node)}: {list(first)} cannot become {list(known[0])} with the assumed dimensions"] = None
    return known


def _ruled(walk: _Walk, node: Node) -> list[Shape | None]:
    """What the optimiser's rules say of outputs, all dimensions known; [] where they say nothing."""
    facts = Facts(walk.values)
    facts.shapes.update((name, shape) for name in node.inputs if (shape := walk.shapes.get(name)) is not None)
    learn_from(facts, [node])
    found = [facts.shapes.get(name) for name in node.outputs]
    known = [None if s is None or not all(isinstance(d, int) for d in s) else s for s in found]
    return known if any(s is not None for s in known) else []  # type: ignore[return-value]


def _called(node: Node) -> str:
    return f"{node.op_type} {node.name or next(filter(None, node.outputs), '')}"


def _attended(walk: _Walk, node: Node, query: Shape | None) -> Shape | None:
    """The result of attention over a query (batch, sequence, hidden); a packed one holds keys and values, too."""
    if query is None:
        return None
    value = walk.shapes.get(node.inputs[2]) if len(node.inputs) > 2 else None
    if len(query) == 5:
        return (query[0], query[1], query[2] * query[4])
    return (*query[:2], value[2] if value is not None and len(value) == 3 else query[2])


def _transposed(node: Node, given: Shapes) -> Shape | None:
    """The result of a FusedMatMul; None where batches are transposed, too."""
    a, b = given[:2]
    if a is None or b is None or min(len(a), len(b)) < 2:
        return None
    if node.attributes.get("transBatchA") or node.attributes.get("transBatchB"):
        return None
    attributes = node.attributes
    rows, columns = a[-1 if attributes.get("transA") else -2], b[-2 if attributes.get("transB") else -1]
    return (*np.broadcast_shapes(a[:-2], b[:-2]), rows, columns)


def _old_attended(node: Node, given: Shapes) -> Shape | None:
    """The result of com.microsoft's Attention: as wide as the values, a third of the weights where nothing says it."""
    hidden, weights = given[:2]
    if hidden is None or weights is None:
        return None
    sizes = node.attributes.get("qkv_hidden_sizes")
    return (*hidden[:2], int(sizes[2]) if sizes else weights[1] // 3)


def _broadcast(node: Node, given: Shapes) -> Shape | None:
    """The result of a quantised binary operator: operands at 0 and 3, scales and zero points between them."""
    a, b = given[0], given[3]
    return None if a is None or b is None else np.broadcast_shapes(a, b)


# com.microsoft's operators whose first result has a shape of their own.
SHAPES: dict[str, Callable[[Node, Shapes], Shape | None]] = {
    "FusedMatMul": _transposed,
    "TransposeMatMul": _transposed,
    "FusedMatMulActivation": _transposed,
    "MatMulIntegerToFloat": _transposed,
    "DynamicQuantizeMatMul": _transposed,
    "Attention": _old_attended,
    "QLinearAdd": _broadcast,
    "QLinearMul": _broadcast,
}


def _evaluate(walk: _Walk, node: Node) -> None:
    """Compute what a node makes of known small arrays, or of known shapes."""
    if node.op_type in {"Shape", "Size"} and not node.domain:
        shape = walk.shapes.get(node.inputs[0])
        if shape is not None:
            start, end = node.attributes.get("start", 0), node.attributes.get("end")
            whole = np.array(shape, np.int64)
            walk.values[node.outputs[0]] = whole[start:end] if node.op_type == "Shape" else np.array(prod(shape))
            walk.shapes[node.outputs[0]] = walk.values[node.outputs[0]].shape
        return
    kernel = registry.lookup(node.domain, node.op_type, node.opset)
    if kernel is None or node.subgraphs or kernel.injected or not all(n in walk.values for n in node.reads()):
        return
    if not all((s := walk.shapes.get(name)) is not None and prod(s) <= SMALL for name in filter(None, node.outputs)):
        return
    constants = {name: walk.values[name] for name in node.reads()}
    outputs = tuple(filter(None, node.outputs))
    types: dict[str, Type] = {n: TensorType(dtypes.of_numpy(a.dtype)) for n, a in constants.items()}
    types |= {name: TensorType(walk.types[name]) for name in outputs if name in walk.types}
    try:
        results = evaluate(Graph("shapes", (), outputs, (node,), constants, types))
    except OrtError:
        return
    for name, value in zip(outputs, results, strict=True):
        if isinstance(value, np.ndarray | np.generic):
            walk.values[name] = np.asarray(value)
            walk.shapes[name] = walk.values[name].shape


def _bodies(walk: _Walk, node: Node, times: int) -> None:
    """Walk the subgraphs of a node: both branches of an If, a loop's body as often as it is known to run, else once."""
    names = list(node.inputs)
    trips = 1
    formal: list[tuple[Shape | None, dtypes.DType | None]] = []
    if node.op_type == "Loop" and names:
        limit = walk.values.get(names[0])
        trips = 1 if limit is None else int(limit.reshape(-1)[0])
        if limit is None or trips > 10**9:
            trips = 1
            walk.notes["the body of a Loop counts once: its trips are not known before a run"] = None
        formal = [((), None), ((), None), *((walk.shapes.get(n), walk.types.get(n)) for n in names[2:])]
    elif node.op_type == "Scan" and node.opset >= 9:
        scanned = int(node.attributes["num_scan_inputs"])
        axes = node.attributes.get("scan_input_axes") or [0] * scanned
        formal = [(walk.shapes.get(n), walk.types.get(n)) for n in names[: len(names) - scanned]]
        for name, axis in zip(names[len(names) - scanned :], axes, strict=True):
            shape = walk.shapes.get(name)
            trips = trips if shape is None else shape[axis]
            rest = None if shape is None else tuple(d for i, d in enumerate(shape) if i != axis % len(shape))
            formal.append((rest, walk.types.get(name)))
    elif node.op_type == "If":
        walk.notes["both branches of an If count"] = None
    ends = []
    for body in node.subgraphs.values():
        inner = _Walk(
            walk.dims, dict(walk.shapes), dict(walk.types), dict(walk.values), notes=walk.notes, costs=walk.costs
        )
        for name in body.inputs:
            _declare(inner, name, body.types.get(name))
        for name, (shape, type_) in zip(body.inputs, formal, strict=False):
            inner.shapes[name] = shape
            inner.types |= {} if type_ is None else {name: type_}
            inner.values.pop(name, None)
        _walk(inner, body, times * trips)
        ends.append([inner.shapes.get(name) for name in body.outputs])
    skip = 1 if node.op_type == "Loop" else 0
    states = len(names) - 2 if node.op_type == "Loop" else len(formal) - int(node.attributes.get("num_scan_inputs", 0))
    for position, name in enumerate(node.outputs):
        found = {end[position + skip] for end in ends if position + skip < len(end)}
        if name and name not in walk.shapes and len(found) == 1 and (node.op_type == "If" or position < states):
            walk.shapes[name] = next(iter(found))
