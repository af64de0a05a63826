"""If, Loop and Scan. A subgraph arrives as a callable of its formal inputs; captures are bound already."""

from __future__ import annotations

from ortlite.graph import Node, TensorType
from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array, Condition, Graph, Int, Ints, Type, Value
from ortlite.ops.registry import op
from ortlite.ops.types import BOOL, INT64, Inferred, Types, agreed, graph_inputs, graph_outputs


def _either_branch(node: Node, inputs: Types) -> Inferred:
    branches = [graph_outputs(node.attributes[name]) for name in ("then_branch", "else_branch")]
    return [agreed(node, f"output {i} of the branches", *each) for i, each in enumerate(zip(*branches, strict=False))]


@op("If", any_dtype=True, views=True, types=_either_branch)
def if_(xp: Namespace, cond: Condition, *, then_branch: Graph, else_branch: Graph) -> tuple[Value, ...]:
    """`then_branch()` where the one element of `cond` is true, else `else_branch()`."""
    return tuple(xp.cond(cond, then_branch, else_branch))


def _last_state_and_rows(node: Node, inputs: Types) -> Inferred:
    """A state has one type: as the body returns it, as it takes it, and as it is given."""
    body, given = node.attributes["body"], inputs[2:]
    (step, going, *taken), (further, *returned) = graph_inputs(body), graph_outputs(body)
    agreed(node, "the iteration", TensorType(INT64), step)
    agreed(node, "the condition", TensorType(BOOL), going, further)
    states = zip(returned, taken, given, strict=False)
    return [agreed(node, f"state {k}", *each) for k, each in enumerate(states)] + returned[len(given) :]


@op("Loop", any_dtype=True, views=True, data_dependent_shape=True, types=_last_state_and_rows)
def loop(
    xp: Namespace, M: Int | None = None, cond: Condition | None = None, *v_initial: Value, body: Graph
) -> tuple[Value, ...]:
    """Run `body(iteration, condition, *state)` at most `M` times and while its first output is true.

    The body gets both as it declares them: scalars, or tensors of one element where it says that they have an axis.
    Returns the last state, then every scan output of the body with its iterations stacked along a new first axis.
    """
    count = len(v_initial)
    shapes = [(1,) * len(getattr(t, "shape", None) or ()) for t in body.input_types[:2]]
    run, counts = body.repeated({2 + k: 1 + k for k in range(count)}), 0 not in body.unread
    start, true = (
        _shaped(xp, xp.asarray(x, dtype=d), shape)
        for x, d, shape in zip((0, True), (xp.int64, xp.bool), shapes, strict=True)
    )

    def step(
        index: Int, going: Condition, state: tuple[Value, ...]
    ) -> tuple[Array, tuple[Value, ...], tuple[Array, ...]]:
        iteration = _shaped(xp, xp.asarray(index, dtype=xp.int64), shapes[0]) if counts else start
        given = true if going is True else _shaped(xp, going, shapes[1])
        results = run(iteration, given, *state)
        if results[0] is not given:  # handed on, it stays known to a tracer, too
            going = _single(xp, results[0])
        return going, results[1 : 1 + count], results[1 + count :]

    state, columns = xp.while_loop(step, M, True if cond is None else _single(xp, cond), v_initial)
    return (*state, *(columns or (_none_of(xp, t) for t in body.types[1 + count :])))


def _shaped(xp: Namespace, x: Array, shape: tuple[int, ...]) -> Array:
    """One element in the shape of ones that a body declares. What has it stays known to a library that traces."""
    return x if tuple(x.shape) == shape else xp.reshape(x, shape)


def _single(xp: Namespace, x: Condition) -> Condition:
    """An array of one element without its axes; a bool as it is."""
    return x if isinstance(x, bool) or x.ndim == 0 else xp.reshape(x, ())


def _none_of(xp: Namespace, type_: Type) -> Array:
    """Zero iterations of a scan output: its type is all that is known of it; open dimensions become 0."""
    shape = [d if isinstance(d, int) else 0 for d in type_.shape or ()]
    return xp.empty((0, *shape), dtype=xp.dtype(type_.dtype))


def _scanned(node: Node, inputs: Types) -> Inferred:
    body, split = node.attributes["body"], len(inputs) - node.attributes.get("num_scan_inputs", 0)
    taken, returned = graph_inputs(body), graph_outputs(body)
    for k, each in enumerate(zip(inputs[split:], taken[split:], strict=False)):
        agreed(node, f"scan input {k}", *each)
    states = zip(returned, taken, inputs[:split], strict=False)
    return [agreed(node, f"state {k}", *each) for k, each in enumerate(states)] + returned[split:]


@op("Scan", since=9, any_dtype=True, views=True, types=_scanned)
def scan(
    xp: Namespace,
    *initial_state_and_scan_inputs: Value,
    body: Graph,
    num_scan_inputs: Int,
    scan_input_axes: Ints | None = None,
    scan_input_directions: Ints | None = None,
    scan_output_axes: Ints | None = None,
    scan_output_directions: Ints | None = None,
) -> tuple[Value, ...]:
    """Fold `body` over slices of the scan inputs, the last `num_scan_inputs` of the arguments.

    Each step gets the state and one slice of every scan input along its axis (directions: 0 forward, 1
    reverse) and returns the state and one slice of every scan output. Raises ValueError for scan inputs of
    unequal length.
    """
    split = len(initial_state_and_scan_inputs) - num_scan_inputs
    state, inputs = initial_state_and_scan_inputs[:split], initial_state_and_scan_inputs[split:]
    axes = scan_input_axes or (0,) * num_scan_inputs
    columns = [xp.moveaxis(x, axis, 0) for x, axis in zip(inputs, axes, strict=True)]
    lengths = {x.shape[0] for x in columns}
    if len(lengths) > 1:
        raise ValueError(f"scan inputs have {sorted(lengths)} elements along their scan axes; they must agree")
    backward = scan_input_directions or (0,) * num_scan_inputs
    columns = [xp.flip(x, axis=0) if b else x for x, b in zip(columns, backward, strict=True)]
    run = body.repeated({k: k for k in range(split)})

    def step(state: tuple[Value, ...], row: tuple[Array, ...]) -> tuple[tuple[Value, ...], tuple[Array, ...]]:
        results = run(*state, *row)
        return results[:split], results[split:]

    state, stacked = xp.scan(step, state, columns)
    outputs = list(stacked) or [_none_of(xp, t) for t in body.types[split:]]
    directions = scan_output_directions or (0,) * len(outputs)
    outputs = [xp.flip(y, axis=0) if b else y for y, b in zip(outputs, directions, strict=True)]
    output_axes = scan_output_axes or (0,) * len(outputs)
    return (*state, *(xp.moveaxis(y, 0, axis) for y, axis in zip(outputs, output_axes, strict=True)))


@op("Scan", since=8, any_dtype=True, types=lambda node, inputs: _scanned(node, inputs[1:]))
def scan_8(
    xp: Namespace,
    sequence_lens: Ints | None = None,
    *initial_state_and_scan_inputs: Value,
    body: Graph,
    num_scan_inputs: Int,
    directions: Ints | None = None,
) -> tuple[Value, ...]:
    """Scan with a batch axis in front: every example is scanned on its own, over its own length.

    Scan outputs beyond an example's length are 0.
    """
    split = len(initial_state_and_scan_inputs) - num_scan_inputs
    inputs = initial_state_and_scan_inputs[split:]
    batch, longest = inputs[0].shape[:2]
    if not batch:
        none = [_none_of(xp, t) for t in body.types[split:]]
        return (*initial_state_and_scan_inputs[:split], *(xp.reshape(y, (0, longest, *y.shape[1:])) for y in none))
    lengths = (longest,) * batch if sequence_lens is None else sequence_lens
    results = []
    for example, length in enumerate(lengths):
        state = [x[example, ...] for x in initial_state_and_scan_inputs[:split]]
        rows = [x[example, :length, ...] for x in inputs]
        values = scan(xp, *state, *rows, body=body, num_scan_inputs=num_scan_inputs, scan_input_directions=directions)
        padded = [_padded(xp, y, longest) for y in values[split:]]
        results.append([*values[:split], *padded])
    return tuple(xp.stack(list(column)) for column in zip(*results, strict=True))


def _padded(xp: Namespace, y: Array, length: int) -> Array:
    """`y` with zeros appended to `length` rows."""
    missing = length - y.shape[0]
    return xp.concat([y, xp.zeros((missing, *y.shape[1:]), dtype=y.dtype)]) if missing else y
