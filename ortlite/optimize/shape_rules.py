"""What operators say of the shapes of their outputs: a rule each, from the shapes and values of their inputs."""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest
from typing import TypeAlias

from ortlite.graph import Node
from ortlite.ops.shape import steps_along
from ortlite.optimize.dims import Dim, Shape, element_of, is_same, length_of, may_be_negative, product, quotient, total
from ortlite.optimize.facts import SMALL, Facts

__all__ = ["RULES"]

MAX_RANK = 64  # axes of an array, NumPy's limit
WRAPS = 2**31  # sums and products from here on may overflow where they are computed in int32


def _fresh(node: Node, axis: int) -> Dim:
    return length_of(node.outputs[0], axis)


def _ints(facts: Facts, node: Node, position: int, attribute: str) -> tuple[int, ...] | None:
    """What is an attribute in some opsets and a constant input in others; () when neither is there."""
    if (given := node.attributes.get(attribute)) is not None:
        return tuple(given) if isinstance(given, tuple | list) else (given,)
    if len(node.inputs) > position and node.inputs[position]:
        value = facts.value(node.inputs[position])
        return value if value is not None and all(isinstance(v, int) for v in value) else None  # type: ignore[return-value]
    return ()


def _same(facts: Facts, node: Node) -> Shape | None:
    return facts.shape(node.inputs[0])


def _handed_on(facts: Facts, node: Node) -> Shape | None:
    """Of operators that keep small integers what they are: Identity, Cast between integers."""
    value = facts.value(node.inputs[0])
    to = node.attributes.get("to", 7)
    if value is not None and (to == 7 or (to == 6 and all(isinstance(d, int) and abs(d) < 2**31 for d in value))):
        facts.values[node.outputs[0]] = value
    return facts.shape(node.inputs[0])


def _broadcast(node: Node, *shapes: Shape | None) -> Shape | None:
    """What shapes become together; a number above 1 wins over what is not known."""
    if any(shape is None for shape in shapes):
        return None
    result: list[Dim] = []
    reverse = [tuple(reversed(shape)) for shape in shapes if shape is not None]
    rank = max(map(len, reverse), default=0)
    for axis, dims in enumerate(zip_longest(*reverse, fillvalue=1)):
        left = {d for d in dims if d != 1}
        numbers = [d for d in left if isinstance(d, int)]
        if len(left) <= 1:
            result.append(next(iter(left), 1))
        else:
            result.append(numbers[0] if len(numbers) == 1 else _fresh(node, rank - 1 - axis))
    return tuple(reversed(result))


def _elementwise(facts: Facts, node: Node) -> Shape | None:
    if node.opset < 7 and node.attributes.get("broadcast"):  # to the first, from an axis on that may be named
        return facts.shape(node.inputs[0])
    return _broadcast(node, *(facts.shape(name) for name in node.inputs))


def _towards_zero(a: int, b: int) -> int:
    return a // b if a * b >= 0 else -(-a // b)


ARITHMETIC: dict[str, Callable[[int, int], int]] = {
    "Add": int.__add__,
    "Sub": int.__sub__,
    "Mul": int.__mul__,
    "Div": _towards_zero,
}


def _arithmetic(facts: Facts, node: Node) -> Shape | None:
    """Elementwise, and of shapes' elements too."""
    values = [facts.value(name) for name in node.inputs]
    if values[0] is not None and values[1] is not None and 1 in (len(values[0]), len(values[1])):
        length = max(map(len, (values[0], values[1])))
        pairs = zip(*(v * (length // len(v)) for v in values if v is not None), strict=True)
        facts.values[node.outputs[0]] = tuple(_combined(node, i, a, b) for i, (a, b) in enumerate(pairs))
    return _elementwise(facts, node)


def _combined(node: Node, index: int, a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        found = ARITHMETIC[node.op_type](a, b)
        return found if abs(found) < WRAPS else element_of(node.outputs[0], index)
    if node.op_type == "Mul":
        return product([a, b]) if a != 0 and b != 0 else 0
    if (node.op_type, b) in {("Add", 0), ("Sub", 0), ("Div", 1)}:
        return a
    if node.op_type == "Add":
        return total([a, b])
    return element_of(node.outputs[0], index)


def _matmul(facts: Facts, node: Node) -> Shape | None:
    a, b = facts.shape(node.inputs[0]), facts.shape(node.inputs[1])
    if not a or not b:
        return None
    rows: Shape = a[-2:-1]
    columns: Shape = b[-1:] if len(b) > 1 else ()
    if node.op_type == "FusedMatMul":
        if node.attributes.get("transBatchA") or node.attributes.get("transBatchB") or len(a) < 2 or len(b) < 2:
            return None
        rows = a[-1:] if node.attributes.get("transA") else rows
        columns = b[-2:-1] if node.attributes.get("transB") else columns
    head = _broadcast(node, a[:-2], b[:-2])
    return None if head is None else (*head, *rows, *columns)


def _gemm(facts: Facts, node: Node) -> Shape | None:
    a, b = facts.shape(node.inputs[0]), facts.shape(node.inputs[1])
    if a is None or b is None:
        return None
    return a[1 if node.attributes.get("transA") else 0], b[0 if node.attributes.get("transB") else 1]


def _transpose(facts: Facts, node: Node) -> Shape | None:
    shape = facts.shape(node.inputs[0])
    if shape is None:
        return None
    return tuple(shape[axis] for axis in node.attributes.get("perm", range(len(shape))[::-1]))


def _rank_of(length: Shape | None) -> int | None:
    """The rank of what has a shape of `length` numbers; None where it is not known, or no array has as many axes."""
    return length[0] if length and isinstance(length[0], int) and length[0] <= MAX_RANK else None


def _reshape(facts: Facts, node: Node) -> Shape | None:
    given = facts.shape(node.inputs[0])
    target = facts.value(node.inputs[1]) if len(node.inputs) > 1 else node.attributes.get("shape")
    if target is None:
        rank = _rank_of(facts.shape(node.inputs[1]))
        return None if rank is None else tuple(_fresh(node, axis) for axis in range(rank))
    value = facts.value(node.inputs[0])
    if value is not None and len(target) <= 1:
        facts.values[node.outputs[0]] = value
    zero = node.attributes.get("allowzero", 0)
    dims: list[Dim] = []
    for axis, dim in enumerate(target):
        if dim == 0 and not zero:
            dims.append(_fresh(node, axis) if given is None else given[axis])
        else:
            dims.append(dim)
    if -1 in dims:
        at = dims.index(-1)
        rest = dims[:at] + dims[at + 1 :]
        dims[at] = _fresh(node, at) if given is None else quotient(given, rest)
    return tuple(dims)


def _expand(facts: Facts, node: Node) -> Shape | None:
    target = facts.value(node.inputs[1])
    if target is None or any(isinstance(d, int) and d < 0 for d in target):
        given, rank = facts.shape(node.inputs[0]), _rank_of(facts.shape(node.inputs[1]))
        if given is None or rank is None:
            return None
        return tuple(_fresh(node, axis) for axis in range(max(len(given), rank)))
    return _broadcast(node, facts.shape(node.inputs[0]), target)


def _flatten(facts: Facts, node: Node) -> Shape | None:
    shape = facts.shape(node.inputs[0])
    if shape is None:
        return None
    axis = node.attributes.get("axis", 1)
    axis += len(shape) if axis < 0 else 0
    return product(shape[:axis]), product(shape[axis:])


def _squeeze(facts: Facts, node: Node) -> Shape | None:
    shape, axes = facts.shape(node.inputs[0]), _ints(facts, node, 1, "axes")
    if (value := facts.value(node.inputs[0])) is not None and len(value) == 1:
        facts.values[node.outputs[0]] = value
    if shape is None or axes is None or (not axes and not all(isinstance(d, int) for d in shape)):
        return None
    gone = {axis % len(shape) for axis in axes} if axes else {i for i, d in enumerate(shape) if d == 1}
    return tuple(d for i, d in enumerate(shape) if i not in gone)


def _unsqueeze(facts: Facts, node: Node) -> Shape | None:
    shape, axes = facts.shape(node.inputs[0]), _ints(facts, node, 1, "axes")
    if shape is None or axes is None:
        return None
    if not shape and len(axes) == 1 and (value := facts.value(node.inputs[0])) is not None:
        facts.values[node.outputs[0]] = value
    rank = len(shape) + len(axes)
    new, rest = {axis % rank for axis in axes}, iter(shape)
    return tuple(1 if i in new else next(rest) for i in range(rank))


def _concat(facts: Facts, node: Node) -> Shape | None:
    shapes = [facts.shape(name) for name in node.inputs]
    values = [facts.value(name) for name in node.inputs]
    if all(value is not None for value in values):
        facts.values[node.outputs[0]] = tuple(d for value in values if value is not None for d in value)
    known = [shape for shape in shapes if shape is not None]
    if len(known) < len(shapes):
        return None
    axis = node.attributes["axis"] % len(known[0])
    along: list[Dim] = [shape[axis] for shape in known]
    return (*known[0][:axis], total(along), *known[0][axis + 1 :])


def _split(facts: Facts, node: Node) -> Shape | None:
    shape, parts = facts.shape(node.inputs[0]), _ints(facts, node, 1, "split")
    if shape is None or parts is None:
        return None
    axis = node.attributes.get("axis", 0) % len(shape)
    count = len(node.outputs)
    whole = shape[axis]
    if not parts and isinstance(whole, int):
        size = -(-whole // count)
        parts = (*[size] * (count - 1), whole - size * (count - 1))
    value = facts.value(node.inputs[0])
    start = 0
    for i, name in enumerate(node.outputs):
        length: Dim = parts[i] if parts else length_of(name, axis)
        facts.shapes[name] = (*shape[:axis], length, *shape[axis + 1 :])
        if value is not None and isinstance(length, int):
            facts.values[name] = value[start : start + length]
            start += length
    return facts.shapes[node.outputs[0]]


def _slice(facts: Facts, node: Node) -> Shape | None:
    shape = facts.shape(node.inputs[0])
    if shape is None:
        return None
    starts, ends = _ints(facts, node, 1, "starts"), _ints(facts, node, 2, "ends")
    axes, steps = _ints(facts, node, 3, "axes"), _ints(facts, node, 4, "steps")
    count: Shape | None = (len(starts),) if starts is not None else facts.shape(node.inputs[1])
    if axes is None or (not axes and _rank_of(count) is None):
        return tuple(_fresh(node, axis) for axis in range(len(shape)))
    rank = _rank_of(count)
    if not axes and rank is not None and rank > len(shape):
        return None  # the kernel says what is wrong
    axes = axes or tuple(range(rank or 0))
    dims = list(shape)
    for i, axis in enumerate(axes):
        dim = dims[axis]
        if starts is None or ends is None or steps is None:
            dims[axis] = _fresh(node, axis % len(shape))
            continue
        start, end, step = starts[i], ends[i], steps[i] if steps else 1
        if isinstance(dim, int):
            dims[axis] = len(steps_along(dim, start, end, step))
        elif start != 0 or end < 2**31 - 1 or step != 1:
            dims[axis] = _fresh(node, axis % len(shape))
    value = facts.value(node.inputs[0])
    if value is not None and starts is not None and ends is not None and steps is not None and len(starts) == 1:
        taken = steps_along(len(value), starts[0], ends[0], steps[0] if steps else 1)
        facts.values[node.outputs[0]] = tuple(value[at] for at in taken)
    return tuple(dims)


def _gather(facts: Facts, node: Node) -> Shape | None:
    data, indices = facts.shape(node.inputs[0]), facts.shape(node.inputs[1])
    value, index = facts.value(node.inputs[0]), facts.value(node.inputs[1])
    if value is not None and index is not None and all(isinstance(i, int) for i in index):
        facts.values[node.outputs[0]] = tuple(value[i] for i in index)  # type: ignore[index]
    if data is None or indices is None:
        return None
    axis = node.attributes.get("axis", 0) % len(data)
    return (*data[:axis], *indices, *data[axis + 1 :])


def _gather_elements(facts: Facts, node: Node) -> Shape | None:
    return facts.shape(node.inputs[1])


def _gather_nd(facts: Facts, node: Node) -> Shape | None:
    data, indices = facts.shape(node.inputs[0]), facts.shape(node.inputs[1])
    if data is None or not indices or not isinstance(indices[-1], int):
        return None
    return (*indices[:-1], *data[node.attributes.get("batch_dims", 0) + indices[-1] :])


def _shape(facts: Facts, node: Node) -> Shape | None:
    shape = facts.shape(node.inputs[0])
    if shape is None:
        return (_fresh(node, 0),)
    part = shape[node.attributes.get("start", 0) : node.attributes.get("end", len(shape))]
    facts.values[node.outputs[0]] = part
    return (len(part),)


def _size(facts: Facts, node: Node) -> Shape | None:
    shape = facts.shape(node.inputs[0])
    if shape is not None:
        facts.values[node.outputs[0]] = (product(shape),)
    return ()


def _reduce(facts: Facts, node: Node) -> Shape | None:
    shape, axes = facts.shape(node.inputs[0]), _ints(facts, node, 1, "axes")
    keep = node.attributes.get("keepdims", 1)
    if node.op_type.startswith("Arg"):
        axes = (node.attributes.get("axis", 0),)
    if shape is None or axes is None:
        return None
    if not axes and node.attributes.get("noop_with_empty_axes"):
        return shape
    gone = {axis % len(shape) for axis in axes} if axes else set(range(len(shape)))
    if keep:
        return tuple(1 if i in gone else d for i, d in enumerate(shape))
    return tuple(d for i, d in enumerate(shape) if i not in gone)


def _constant_of_shape(facts: Facts, node: Node) -> Shape | None:
    shape, fill = facts.value(node.inputs[0]), node.attributes.get("value")
    if shape is None or fill is None or fill.dtype.kind not in "iu":
        return shape
    if len(shape) == 1 and isinstance(shape[0], int) and shape[0] <= SMALL:
        facts.values[node.outputs[0]] = tuple(fill.reshape(-1).tolist()) * shape[0]
    return shape


def _equal(facts: Facts, node: Node) -> Shape | None:
    """Elementwise; of shapes' elements too, where it is certain: no dimension is negative."""
    a, b = (facts.value(name) for name in node.inputs)
    if a is not None and b is not None and len(a) == len(b):
        found = [is_same(x, y) for x, y in zip(a, b, strict=True)]
        if all(same is not None for same in found):
            facts.values[node.outputs[0]] = tuple(int(bool(same)) for same in found)
    return _elementwise(facts, node)


def _where(facts: Facts, node: Node) -> Shape | None:
    condition, a, b = (facts.value(name) for name in node.inputs)
    if condition is not None and a is not None and b is not None and len(condition) == len(a) == len(b):
        facts.values[node.outputs[0]] = tuple(x if c else y for c, x, y in zip(condition, a, b, strict=True))
    return _elementwise(facts, node)


def _windows(facts: Facts, node: Node) -> Shape | None:
    """Of convolutions and pools."""
    shape = facts.shape(node.inputs[0])
    if shape is None or len(shape) < 3:
        return None
    weights = facts.shape(node.inputs[1]) if "Conv" in node.op_type else None
    channels = shape[1] if "Pool" in node.op_type else _fresh(node, 1)
    if weights is not None:
        channels = weights[0]
        if node.op_type == "ConvTranspose":
            channels = product([weights[1], node.attributes.get("group", 1)])
    rank = len(shape) - 2
    kernel = weights[2:] if weights is not None else node.attributes.get("kernel_shape")
    if (
        node.op_type == "ConvTranspose"
        or kernel is None
        or node.attributes.get("ceil_mode")
        or node.attributes.get("auto_pad", "NOTSET") not in {"", "NOTSET", "VALID"}
    ):
        return (shape[0], channels, *(_fresh(node, 2 + i) for i in range(rank)))
    valid = node.attributes.get("auto_pad") == "VALID"  # which pads beside it do not change
    pads = (0,) * 2 * rank if valid else node.attributes.get("pads", (0,) * 2 * rank)
    strides = node.attributes.get("strides", (1,) * rank)
    dilations = node.attributes.get("dilations", (1,) * rank)
    positions: list[Dim] = []
    for i, (size, k) in enumerate(zip(shape[2:], kernel, strict=True)):
        if isinstance(size, int) and isinstance(k, int):
            positions.append((size + pads[i] + pads[rank + i] - dilations[i] * (k - 1) - 1) // strides[i] + 1)
        else:
            positions.append(_fresh(node, 2 + i))
    return (shape[0], channels, *positions)


def _global_pool(facts: Facts, node: Node) -> Shape | None:
    shape = facts.shape(node.inputs[0])
    return None if shape is None else (*shape[:2], *[1] * (len(shape) - 2))


def _rank_stays(facts: Facts, node: Node) -> Shape | None:
    shape = facts.shape(node.inputs[0])
    return None if shape is None else tuple(_fresh(node, axis) for axis in range(len(shape)))


def _pad(facts: Facts, node: Node) -> Shape | None:
    shape, pads = facts.shape(node.inputs[0]), _ints(facts, node, 1, "pads")
    if shape is None:
        return None
    if not pads or len(node.inputs) > 3 or len(pads) != 2 * len(shape):
        return _rank_stays(facts, node)
    both = [pads[i] + pads[i + len(shape)] for i in range(len(shape))]
    return tuple(
        d if extra == 0 else d + extra if isinstance(d, int) else _fresh(node, i)
        for i, (d, extra) in enumerate(zip(shape, both, strict=True))
    )


def _nonzero(facts: Facts, node: Node) -> Shape | None:
    shape = facts.shape(node.inputs[0])
    return (_fresh(node, 0) if shape is None else len(shape), _fresh(node, 1))


def _vector(facts: Facts, node: Node) -> Shape | None:
    return (_fresh(node, 0),)


def _range(facts: Facts, node: Node) -> Shape | None:
    """Range(0, n, 1) is n long."""
    start, limit, delta = (facts.value(name) for name in node.inputs)
    if start == (0,) and delta == (1,) and limit is not None:
        if isinstance(limit[0], int):
            return (max(limit[0], 0),)
        if not may_be_negative(limit[0]):
            return limit
    return _vector(facts, node)


def _sum_and_norm(facts: Facts, node: Node) -> Shape | None:
    shape = _broadcast(node, facts.shape(node.inputs[0]), facts.shape(node.inputs[1]))
    if shape is not None and len(node.outputs) > 3:
        facts.shapes[node.outputs[3]] = shape
    return shape


def _attention(facts: Facts, node: Node) -> Shape | None:
    q, v = facts.shape(node.inputs[0]), facts.shape(node.inputs[2])
    return (*q[:3], v[3]) if q is not None and v is not None and len(q) == len(v) == 4 else None


def _given(facts: Facts, node: Node, position: int) -> Shape | None:
    """The shape of an input that may be left out."""
    return facts.shape(node.inputs[position]) if position < len(node.inputs) and node.inputs[position] else None


def _columns(facts: Facts, node: Node) -> Shape | None:
    """Of products with packed weights of N columns."""
    a = facts.shape(node.inputs[0])
    return (*a[:-1], node.attributes["N"]) if a else None


def _columns_of_a_shape(facts: Facts, node: Node) -> Shape | None:
    """Of a product with packed weights whose shape is an input."""
    a, of = facts.shape(node.inputs[0]), facts.value(node.inputs[2])
    return (*a[:-1], of[1]) if a and of is not None else None


def _grouped(facts: Facts, node: Node) -> Shape | None:
    """Of attention with fewer heads of keys and values; without keys the query holds them as well."""
    query, heads, shared = facts.shape(node.inputs[0]), node.attributes["num_heads"], node.attributes["kv_num_heads"]
    if query is None or len(query) != 3:
        return None
    if node.inputs[1]:
        return query
    width = query[2]
    return (*query[:2], width * heads // (heads + 2 * shared) if isinstance(width, int) else _fresh(node, 2))


def _one_step(facts: Facts, node: Node) -> Shape | None:
    """Of one query (batch, 1, width): as wide as the values, whose heads may stand apart."""
    query, value = facts.shape(node.inputs[0]), _given(facts, node, 2)
    if query is None or len(query) != 3:
        return None
    if len(node.inputs) < 3 or not node.inputs[2]:
        return (*query[:2], query[2] // 3 if isinstance(query[2], int) else _fresh(node, 2))
    if value is None or len(value) not in (3, 4):
        return None
    return (*query[:2], value[2] if len(value) == 3 else product([value[1], value[3]]))


def _linear(facts: Facts, node: Node) -> Shape | None:
    """Of attention with a state, (batch, time, heads · size): of those heads that are more, as wide as the values."""
    query, value = facts.shape(node.inputs[0]), facts.shape(node.inputs[2])
    heads, shared = node.attributes["q_num_heads"], node.attributes["kv_num_heads"]
    if query is None or value is None or not len(query) == len(value) == 3:
        return None
    width = value[2]
    return (*query[:2], max(heads, shared) * (width // shared) if isinstance(width, int) else _fresh(node, 2))


def _deltas(facts: Facts, node: Node) -> Shape | None:
    """Of GatedDeltaNet: queries in front, then heads and size of the values, which a packed query's state has."""
    query, value, state = facts.shape(node.inputs[0]), _given(facts, node, 2), _given(facts, node, 6)
    if len(node.inputs) > 1 and node.inputs[1]:
        return None if query is None or value is None else (*query[:-2], *value[-2:])
    return None if query is None or state is None else (*query[:-1], *state[1:3])


def _premixed(facts: Facts, node: Node) -> Shape | None:
    """Of streams (…, branches, width), or flattened, which are added up."""
    shape, branches = facts.shape(node.inputs[0]), node.attributes.get("num_branches", 0)
    if shape is None:
        return None
    if not branches:
        return (*shape[:-2], shape[-1])
    return (*shape[:-1], shape[-1] // branches if isinstance(shape[-1], int) else _fresh(node, len(shape) - 1))


def _routed(facts: Facts, node: Node) -> Shape | None:
    """One row a token, one column an expert, in all three outputs."""
    logits, projection = facts.shape(node.inputs[0]), _given(facts, node, 2)
    if not logits or (len(node.inputs) > 2 and node.inputs[2] and not projection):
        return None
    shape = (product(logits[:-1]), projection[0] if projection else logits[-1])
    facts.shapes |= dict.fromkeys(filter(None, node.outputs), shape)
    return shape


def _gates(facts: Facts, node: Node) -> Shape | None:
    """Each gate like what it is made of."""
    b = _given(facts, node, 3)
    if b is not None and len(node.outputs) > 1 and node.outputs[1]:
        facts.shapes[node.outputs[1]] = b
    return facts.shape(node.inputs[0])


def _hashed(facts: Facts, node: Node) -> Shape | None:
    ids = facts.shape(node.inputs[0])
    count = (node.attributes["max_ngram_size"] - 1) * node.attributes["n_head_per_ngram"]
    return None if ids is None else (*ids, count)


def _packed_rows(facts: Facts, node: Node) -> Shape | None:
    indices = facts.shape(node.inputs[1])
    return None if indices is None else (*indices, node.attributes["K"])


def _embedded(facts: Facts, node: Node) -> Shape | None:
    ids, table = facts.shape(node.inputs[0]), facts.shape(node.inputs[2])
    return None if ids is None or table is None else (*ids, table[1])


def _steps_of_directions(facts: Facts, node: Node) -> Shape | None:
    """All steps of AttnLSTM: (time, directions, batch, hidden)."""
    x, r = facts.shape(node.inputs[0]), facts.shape(node.inputs[2])
    return (x[0], r[0], x[1], r[2]) if x and r else None


def _distances(facts: Facts, node: Node) -> Shape | None:
    a, b = facts.shape(node.inputs[0]), facts.shape(node.inputs[1])
    return (a[0], b[0]) if a and b else None


def _continued(facts: Facts, node: Node) -> Shape | None:
    """Sequences as long as is said, behind each example."""
    ids, length = facts.shape(node.inputs[0]), facts.value(node.inputs[1])
    return None if not ids else (ids[0], _fresh(node, 1) if length is None else length[0])


UNARY = (
    "Abs Acos Acosh Asin Asinh Atan Atanh BatchNormalization Bernoulli BiasGelu BitwiseNot Ceil Celu Clip Cos "
    "Cosh CumSum DequantizeLinear Dropout Elu Erf Exp FastGelu Floor Gelu GroupNormalization HardSigmoid "
    "HardSwish Hardmax InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu Log LogSoftmax "
    "LpNormalization Mish Neg Not PRelu QuantizeLinear QuickGelu RMSNormalization Reciprocal Relu "
    "RotaryEmbedding Round ScatterElements ScatterND Selu Shrink Sigmoid Sign SimplifiedLayerNormalization Sin "
    "Sinh Softmax Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu Trilu"
).split()
BINARY = (
    "And BitShift BitwiseAnd BitwiseOr BitwiseXor Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Or "
    "Pow Sum Xor"
).split()
MICROSOFT = (  # as the first input is
    "BranchwiseRMSNorm CausalConvWithState EngramGate GatedAdd GatedRMSNorm HyperConnectionPostMix MRotaryEmbedding "
    "MoE QMoE SampleOp ScaledSiLU VarlenCausalConvWithState"
).split()
REDUCTIONS = "ArgMax ArgMin ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd "
REDUCTIONS += "ReduceSum ReduceSumSquare"

Rule: TypeAlias = Callable[[Facts, Node], "Shape | None"]
RULES: dict[str, Rule] = {
    **dict.fromkeys(UNARY, _same),
    **dict.fromkeys(MICROSOFT, _same),
    **dict.fromkeys(BINARY, _elementwise),
    **dict.fromkeys(ARITHMETIC, _arithmetic),
    **dict.fromkeys(REDUCTIONS.split(), _reduce),
    **dict.fromkeys(("Identity", "Cast"), _handed_on),
    **dict.fromkeys(("MatMul", "FusedMatMul", "MatMulInteger16"), _matmul),
    **dict.fromkeys(("MatMulNBits", "MatMulBnb4"), _columns),
    **dict.fromkeys(("GroupQueryAttention", "SparseAttention"), _grouped),
    **dict.fromkeys(("EmbedLayerNormalization", "QEmbedLayerNormalization"), _embedded),
    **dict.fromkeys(("NGramHashMapping", "VarlenNGramHashMapping"), _hashed),
    **dict.fromkeys(("GreedySearch", "Sampling"), _continued),
    **dict.fromkeys(("Conv", "FusedConv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool"), _windows),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _global_pool),
    **dict.fromkeys(("Resize", "Upsample", "Tile", "DepthToSpace", "SpaceToDepth"), _rank_stays),
    **dict.fromkeys(("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"), _sum_and_norm),
    "Attention": _attention,
    "AttnLSTM": _steps_of_directions,
    "CDist": _distances,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "DecoderMaskedMultiHeadAttention": _one_step,
    "Equal": _equal,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatedDeltaNet": _deltas,
    "GatherND": _gather_nd,
    "GatherPacked": _packed_rows,
    "Gemm": _gemm,
    "HyperConnectionPreMix": _premixed,
    "LinearAttention": _linear,
    "LinearAttentionGate": _gates,
    "MatMulFpQ4": _columns_of_a_shape,
    "MoEGroupRouter": _routed,
    "NonZero": _nonzero,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}  # fmt: skip
