"""Models that onnxruntime optimised for one kind of processor: nodes of com.microsoft.nchwc, as ai.onnx's.

Between ReorderInput and ReorderOutput onnxruntime keeps channels in blocks of 8 or 16, padded with zeros to a multiple,
and stores the weights of convolutions in the order in which it reads them. Here the values in between are plain
(N, C, H, W), C still padded; weights are put in order again by nodes that constant folding takes away.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ortlite.errors import InvalidGraph
from ortlite.load.order import graphs_of, ordered
from ortlite.load.tensors import Tensors

__all__ = ["DOMAIN", "block_here", "rewrite"]

DOMAIN = "com.microsoft.nchwc"
MS = "com.microsoft"
SAME = {"MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool"}  # what ai.onnx has, too
BLOCKS = (8, 16)
PADDING = 27  # elements of a filter that are not zeros by chance: all but those of depthwise convolutions have as many
SURE = 8.0  # standard deviations by which filters must differ more with one size of block than with the other

log = logging.getLogger("ortlite")


def rewrite(proto: onnx.ModelProto, tensors: Tensors) -> None:
    """Put ai.onnx's nodes in the place of those of `DOMAIN`. Raises InvalidGraph for what onnxruntime never writes."""
    waiting = [proto.graph]
    opset = max((o.version for o in proto.opset_import if o.domain in {"", "ai.onnx"}), default=1)
    found = []
    while waiting:
        graph = waiting.pop()
        if any(node.domain == DOMAIN for node in graph.node):
            found.append(_Graph(graph, opset, tensors))
        waiting.extend(inner for node in graph.node for inner in graphs_of(node))
    if not found:
        return
    block = _block(found)
    for one in found:
        one.rewrite(block)
    if not any(o.domain == MS for o in proto.opset_import):
        proto.opset_import.add(domain=MS, version=1)


def _block(graphs: Iterable[_Graph]) -> int:
    """How many channels are in a block: what the graphs tell, or else what this processor has, as in onnxruntime."""
    told = {size for graph in graphs for size in graph.sizes()}
    if len(told) > 1:
        raise InvalidGraph(
            f"This is an invalid model. Its nodes of {DOMAIN} are for blocks of {sorted(told)} channels."
        )
    if told:
        return told.pop()
    filters = [array for graph in graphs for array in graph.filters()]
    size = _by_padding(filters) or _by_strength(filters)
    if size is not None:
        return size
    here = block_here()
    log.warning("the model was optimised for one kind of processor; taken for this one's, blocks of %d channels", here)
    return here


def block_here() -> int:
    """How many channels onnxruntime puts in a block on this processor."""
    found = np.show_config(mode="dicts")["SIMD Extensions"]
    names = {*found.get("baseline", ()), *found.get("found", ())}
    return 16 if names & {"AVX512F", "AVX512_SKX", "X86_V4", "ASIMD", "NEON"} else 8


def _by_padding(filters: Iterable[np.ndarray]) -> int | None:
    """The size of block in which more filters at the end are zeros, as where channels were missing; or None."""
    zeros = {
        size: sum(_zeros_at_end(blocked, size) for blocked in filters if blocked[0].size >= PADDING) for size in BLOCKS
    }
    return None if len({*zeros.values()}) == 1 else max(BLOCKS, key=lambda size: zeros[size])


def _zeros_at_end(blocked: np.ndarray, size: int) -> int:
    last = blocked.reshape(len(blocked) // size, -1, size)[-1].any(axis=0)
    return size - int(last.nonzero()[0].max(initial=-1)) - 1


def _by_strength(filters: Iterable[np.ndarray]) -> int | None:
    """The size of block in which filters differ more, or None.

    Trained filters differ from each other in strength; read in blocks of the wrong size they are mixed, and differ
    less. Random ones differ by chance alone, with either size: how much that may be is what a difference is compared
    with.
    """
    difference, doubt = 0.0, 0.0
    for blocked in filters:
        squares = np.square(blocked, dtype=np.float64)
        mean, count = squares.mean(), blocked[0].size
        if not mean:
            continue
        by_chance = np.square(squares / mean - 1).mean() / count / 4  # variance of the root of a mean of `count`
        doubt += 4 * by_chance**2 / len(blocked)
        spreads = (
            np.sqrt(squares.reshape(len(blocked) // size, -1, size).mean(axis=1) / mean).var() for size in BLOCKS
        )
        difference += float(np.subtract(*spreads))
    if difference**2 > SURE**2 * doubt:
        return BLOCKS[0] if difference > 0 else BLOCKS[1]
    return None


class _Graph:
    """One graph while its nodes are replaced."""

    def __init__(self, graph: onnx.GraphProto, opset: int, tensors: Tensors):
        self.graph, self.opset, self.tensors = graph, opset, tensors
        self.initializers = {tensor.name: tensor for tensor in graph.initializer}
        known = {value.name for value in graph.input} | self.initializers.keys()
        self.old = ordered(graph.node, known, lambda name: True)
        self.declared = {v.name: v.type.tensor_type.shape.dim for v in (*graph.input, *graph.value_info)}
        self.channels = self._channels()  # of values in blocks, padded
        self.nodes: list[onnx.NodeProto] = []
        self.names = {name for node in graph.node for name in (*node.input, *node.output)} | known
        self.plain: dict[tuple[str, bool], str] = {}  # weights in ai.onnx's order

    def _channels(self) -> dict[str, int | None]:
        """The values in blocks, each with how many channels it has, where that can be told."""
        found: dict[str, int | None] = {}
        needed = {node.input[0]: self._read(node) for node in self.old if _is(node, "Conv")}
        for node in self.old:
            given = [found[name] for name in node.input if name in found]
            if node.domain == DOMAIN and node.op_type == "ReorderOutput":
                continue
            if _is(node, "ReorderInput"):
                count = needed.get(node.output[0])
            elif _is(node, "Conv"):
                count = self._dims(node)[0]
            elif node.op_type == "Concat" and given:
                count = None if None in given else sum(filter(None, given))
            elif given or node.domain == DOMAIN:
                count = next(filter(None, given), None)
            else:
                continue
            found.update(dict.fromkeys(node.output, count))
        return found

    def _dims(self, conv: onnx.NodeProto) -> list[int]:
        weights = self.initializers.get(conv.input[1]) if len(conv.input) > 1 else None
        if weights is None or len(weights.dims) != 4 or weights.data_type != TensorProto.FLOAT:
            raise InvalidGraph(f"This is an invalid model. Node {conv.name!r} ({DOMAIN}.Conv) has no constant filters.")
        if weights.dims[0] % BLOCKS[0]:
            raise InvalidGraph(
                f"This is an invalid model. Node {conv.name!r} ({DOMAIN}.Conv): filters {list(weights.dims)} are in no "
                f"blocks of 8 or 16."
            )
        return list(weights.dims)

    def _read(self, conv: onnx.NodeProto) -> int:
        """How many channels a convolution reads."""
        return self._dims(conv)[1] * _group(conv)

    def _depthwise(self, conv: onnx.NodeProto) -> bool:
        outputs, inputs, *_ = self._dims(conv)
        return _group(conv) > 1 and inputs == 1 and outputs == _group(conv)

    def sizes(self) -> set[int]:
        """What tells the size of a block."""
        told = set()
        for node in self.old:
            if _is(node, "Conv"):
                outputs, inputs, *_ = self._dims(node)
                blocked, group = node.input[0] in self.channels, _group(node)
                if any(count % 16 for count in (outputs, *([inputs] if blocked and not self._depthwise(node) else []))):
                    told.add(8)
                if group > 1 and not self._depthwise(node) and outputs // group % 16:
                    told.add(8)
                if not blocked and inputs >= 8:  # read as they are: fewer than a block
                    told.add(16)
            elif _is(node, "ReorderOutput"):
                count, kept = self.channels.get(node.input[0]), _attribute(node, "channels", 0)
                if count is not None and count - kept >= 8:
                    told.add(16)
            elif _is(node, "ReorderInput"):
                count, given = self.channels[node.output[0]], self._given(node)
                if count is not None and given is not None and count - given >= 8:
                    told.add(16)
            elif shape := self._split(node):
                told.add(shape[-1])
        return told

    def _given(self, node: onnx.NodeProto) -> int | None:
        """How many channels a ReorderInput gets, where the file says it."""
        dims = self.declared.get(node.input[0], [])
        place = 3 if _attribute(node, "channels_last", 0) else 1
        return dims[place].dim_value or None if len(dims) == 4 else None

    def filters(self) -> list[np.ndarray]:
        """The filters of the convolutions, in blocks."""
        names = dict.fromkeys(node.input[1] for node in self.old if _is(node, "Conv"))
        read = [self.tensors.read(self.initializers[name]) for name in names]
        return [array for array in read if array.size and np.isfinite(array).all()]

    def _split(self, node: onnx.NodeProto) -> list[int]:
        """The shape to which a Reshape takes values in blocks: blocks apart, with their size at the end. Else empty."""
        if node.op_type == "Reshape" and not node.domain and len(node.input) == 2 and node.input[0] in self.channels:
            shape = self.initializers.get(node.input[1])
            wanted: list[int] = [] if shape is None else self.tensors.read(shape).tolist()
            if len(wanted) == 5 and wanted[4] in BLOCKS:
                return wanted
        return []

    def rewrite(self, block: int) -> None:
        """Replace the nodes."""
        for node in self.old:
            if node.domain != DOMAIN:
                reshape = node.op_type == "Reshape" and not node.domain and node.input[0] in self.channels
                self.add("Identity", [node.input[0]], node.output) if reshape else self.nodes.append(node)
            elif node.op_type == "Conv":
                self.convolution(node, block)
            elif node.op_type == "ReorderInput":
                self.reorder_input(node, block)
            elif node.op_type == "ReorderOutput":
                self.reorder_output(node)
            elif node.op_type == "Upsample":
                self.upsample(node)
            elif node.op_type in SAME:
                self.add(node.op_type, node.input, node.output, node.attribute)
            else:
                raise InvalidGraph(f"This is an invalid model. Nobody knows {DOMAIN}.{node.op_type}.")
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in self.nodes]
        del self.graph.node[:]
        self.graph.node.extend(nodes)

    def add(
        self,
        op_type: str,
        inputs: Iterable[str],
        outputs: Iterable[str],
        attributes: Iterable[onnx.AttributeProto] = (),
        domain: str = "",
        **values: Any,
    ) -> None:
        """Append a node."""
        node = helper.make_node(op_type, list(inputs), list(outputs), domain=domain, **values)
        node.attribute.extend(attributes)
        self.nodes.append(node)

    def constant(self, name: str, values: Iterable[float], dtype: type) -> str:
        """The name of a new constant."""
        fresh = self.fresh(name)
        self.graph.initializer.append(numpy_helper.from_array(np.array(list(values), dtype), fresh))
        return fresh

    def fresh(self, name: str) -> str:
        """A name that nothing has yet."""
        while name in self.names:
            name += "_"
        self.names.add(name)
        return name

    def convolution(self, node: onnx.NodeProto, block: int) -> None:
        """Conv, or FusedConv where something is added or an activation follows."""
        direct = self._depthwise(node) or node.input[0] not in self.channels
        inputs = [node.input[0], self.weights(node, block, direct), *node.input[2:]]
        fused = len(inputs) > 3 or any(a.name == "activation" for a in node.attribute)
        self.add("FusedConv" if fused else "Conv", inputs, node.output, node.attribute, MS if fused else "")

    def weights(self, node: onnx.NodeProto, block: int, direct: bool) -> str:
        """A convolution's filters in ai.onnx's order. `direct`: their input channels are in no blocks."""
        name, (outputs, inputs, *kernel) = node.input[1], self._dims(node)
        if (name, direct) not in self.plain:
            if outputs % block or (not direct and inputs % block):
                raise InvalidGraph(
                    f"This is an invalid model. Node {node.name!r} ({DOMAIN}.Conv): filters "
                    f"{[outputs, inputs, *kernel]} are in no blocks of {block}."
                )
            apart = [outputs // block, inputs, *kernel, block]
            order = [0, 4, 1, 2, 3]
            if not direct:
                apart = [outputs // block, inputs // block, *kernel, block, block]
                order = [0, 5, 1, 4, 2, 3]
            steps = [self.fresh(f"{name}/{step}") for step in ("blocks", "order", "plain")]
            self.reshape(name, steps[0], apart)
            self.add("Transpose", [steps[0]], [steps[1]], perm=order)
            self.reshape(steps[1], steps[2], [outputs, inputs, *kernel])
            self.plain[name, direct] = steps[2]
        return self.plain[name, direct]

    def reshape(self, source: str, target: str, shape: list[int]) -> None:
        """Append a Reshape."""
        if self.opset < 5:
            self.add("Reshape", [source], [target], shape=shape)
        else:
            self.add("Reshape", [source, self.constant(f"{target}/shape", shape, np.int64)], [target])

    def reorder_input(self, node: onnx.NodeProto, block: int) -> None:
        """Channels in front, padded to what the next node reads."""
        source, target = node.input[0], node.output[0]
        if _attribute(node, "channels_last", 0):
            first = self.fresh(f"{target}/first")
            self.add("Transpose", [source], [first], perm=[0, 3, 1, 2])
            source = first
        count, given = self.channels[target], self._given(node)
        if count is None or count == given:  # only pools read it, which take whole blocks; or nothing is missing
            self.add("Identity", [source], [target])
            return
        # how many there are is not always known: as many as are missing at most, then as many as are wanted
        more, pads = self.fresh(f"{target}/more"), [0, 0, 0, 0, 0, block - 1, 0, 0]
        if self.opset < 11:
            self.add("Pad", [source], [more], pads=pads)
        else:
            self.add("Pad", [source, self.constant(f"{more}/pads", pads, np.int64)], [more])
        self.first(more, target, count)

    def first(self, source: str, target: str, count: int) -> None:
        """The first `count` channels."""
        if self.opset < 10:
            self.add("Slice", [source], [target], axes=[1], starts=[0], ends=[count])
            return
        limits = [
            self.constant(f"{target}/{what}", [n], np.int64) for what, n in (("from", 0), ("to", count), ("axis", 1))
        ]
        self.add("Slice", [source, *limits], [target])

    def reorder_output(self, node: onnx.NodeProto) -> None:
        """The channels that are none of the padding, at the end if asked."""
        source, target = node.input[0], node.output[0]
        last = _attribute(node, "channels_last", 0)
        kept = self.fresh(f"{target}/kept") if last else target
        count = _attribute(node, "channels", 0)
        if self.channels[source] == count:
            self.add("Identity", [source], [kept])
        else:
            self.first(source, kept, count)
        if last:
            self.add("Transpose", [kept], [target], perm=[0, 2, 3, 1])

    def upsample(self, node: onnx.NodeProto) -> None:
        """Resize, or what it was called before."""
        target = node.output[0]
        values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        mode = values.get("mode", b"nearest").decode()
        scales = self.constant(f"{target}/scales", values["scales"], np.float32)
        if self.opset < 11:
            self.add("Resize" if self.opset == 10 else "Upsample", [node.input[0], scales], [target], mode=mode)
            return
        regions = self.constant(f"{target}/roi", [], np.float32) if self.opset < 13 else ""
        transformation = values.get("coordinate_transformation_mode", b"asymmetric").decode()
        self.add(
            "Resize", [node.input[0], regions, scales], [target], mode=mode, nearest_mode="floor",
            coordinate_transformation_mode=transformation,
        )  # fmt: skip


def _is(node: onnx.NodeProto, op_type: str) -> bool:
    return node.domain == DOMAIN and node.op_type == op_type


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def _group(conv: onnx.NodeProto) -> int:
    return _attribute(conv, "group", 1)
