"""How many elements the arrays will have that a node makes, told from its inputs before it runs.

Where a row of the table below says nothing, onnx infers the shapes of the outputs. None: nobody can tell; then only
what the kernel asks its namespace for is known before (`ortlite.bounded`), and the result once it is there.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import ceil, isfinite, prod
from typing import Any, TypeAlias

import numpy as np

from ortlite import dtypes
from ortlite.graph import Node, TensorType
from ortlite.plan import Call
from ortlite.save import inferred_shapes
from ortlite.schema import OWN

__all__ = ["Cache", "made", "size", "together"]

Given: TypeAlias = Sequence[Any]  # the values of a node's inputs, None where one is left out
Rule: TypeAlias = Callable[[Node, Given], Sequence[int] | None]
Cache: TypeAlias = dict[Any, Sequence[int] | None]
MOST = 4096  # entries of a cache
SMALL = 64  # elements of a value that may decide shapes


def made(call: Call, given: Given, cache: Cache) -> Sequence[int] | None:
    """The elements of each array that a step makes: its outputs, and what besides is large. None: unknown."""
    node, kernel = call.node, call.kernel
    rule = RULES.get((node.domain, node.op_type))
    if rule is None and kernel.fn.__module__ in BROADCASTING:
        rule = _broadcast
    try:
        if rule is not None and (found := rule(node, given)) is not None:
            return found
        return None if node.domain not in INFERRED or node.subgraphs else _cached(call, given, cache)
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError, ZeroDivisionError):
        return None  # the inputs do not fit: the kernel says how


INFERRED = {"", "ai.onnx.ml", "ai.onnx.preview"}
BROADCASTING = {f"ortlite.ops.{name}" for name in ("elementwise", "logical", "activation")}
BROADCASTING |= {"ortlite.ops.reduce"}  # one input, and axes, which are no array


def _cached(call: Call, given: Given, cache: Cache) -> Sequence[int] | None:
    deciding = [_deciding(call, i, value) for i, value in enumerate(given)]
    forms = tuple(_shape(value) for value in given)
    key = id(call), forms, tuple(None if v is None else (v.tobytes(), v.dtype) for v in deciding)
    if key not in cache:
        if len(cache) >= MOST:
            cache.clear()
        cache[key] = _inferred(call, forms, deciding)
    return cache[key]


def _deciding(call: Call, position: int, value: Any) -> np.ndarray | None:
    """The value of an input that a kernel wants as a Python object: it may decide shapes."""
    param = call.kernel.param(position)
    if param is None or not (param.host or call.kernel.data_dependent_shape):
        return None
    if not isinstance(value, np.ndarray | np.generic) or value.size > SMALL or value.dtype == object:
        return None
    return np.asarray(value)


def _inferred(call: Call, forms: Sequence[Any], deciding: Sequence[np.ndarray | None]) -> Sequence[int] | None:
    types: dict[str, TensorType] = {}
    values: dict[str, np.ndarray] = {}
    for index, (name, form) in enumerate(zip(call.node.inputs, forms, strict=False)):
        if not name or form is None:
            continue
        value = deciding[index]
        dtype = call.given[index] if index < len(call.given) else None
        known = dtypes.by_name(dtype or "float32") if value is None else dtypes.of_numpy(value.dtype)
        types[name] = TensorType(known, form)
        if value is not None:
            values[name] = value
    try:
        shapes = inferred_shapes(call.node, types, values)
    except Exception:  # noqa: BLE001  (onnx has errors of its own; the kernel says what is wrong)
        return None
    if any(shape is None or None in shape for shape, name in zip(shapes, call.node.outputs, strict=True) if name):
        return None
    return [prod(shape) for shape in shapes if shape is not None]  # type: ignore[arg-type]


def _shape(value: Any) -> tuple[int, ...] | None:
    shape = getattr(value, "shape", None)
    return None if shape is None else tuple(shape)


def size(value: Any) -> int:
    """Elements of an array, or of all arrays of a sequence."""
    if isinstance(value, tuple):
        return sum(map(size, value))
    return 0 if value is None or _shape(value) is None else prod(value.shape)


def _at(given: Given, index: int) -> Any:
    return given[index] if index < len(given) else None


def _ints(value: Any) -> list[int]:
    return [int(n) for n in np.asarray(value).reshape(-1)[:SMALL].tolist()]


# Rules


def together(shapes: Sequence[tuple[int, ...]]) -> int:
    """Elements of arrays of these shapes broadcast to each other. Raises ValueError where they do not fit."""
    rank = max(map(len, shapes), default=0)
    total = 1
    for axis in range(1, rank + 1):
        sizes = {shape[-axis] for shape in shapes if len(shape) >= axis} - {1}
        if len(sizes) > 1:
            raise ValueError(sizes)
        total *= sizes.pop() if sizes else 1
    return total


def _broadcast(node: Node, given: Given, positions: Sequence[int] | None = None) -> Sequence[int] | None:
    """All inputs, or those at `positions`, broadcast to each other."""
    chosen = given if positions is None else [_at(given, i) for i in positions]
    return [together([tuple(value.shape) for value in chosen if value is not None])]


def _reduced(node: Node, given: Given) -> Sequence[int] | None:
    return [max(map(size, given), default=0)]


def _product(node: Node, given: Given, b: int = 1) -> Sequence[int] | None:
    """Matrices (..., M, K) and (..., K, N), each turned where its flag says so."""
    left, right = tuple(given[0].shape), tuple(given[b].shape)
    if not left or not right:
        return None
    if len(left) > 1 and node.attributes.get("transA"):
        left = (*left[:-2], left[-1], left[-2])
    if len(right) > 1 and node.attributes.get("transB"):
        right = (*right[:-2], right[-1], right[-2])
    rows = left[-2] if len(left) > 1 else 1
    columns = right[-1] if len(right) > 1 else 1
    if node.attributes.get("transBatchA") or node.attributes.get("transBatchB"):
        batch = prod(left[:-2]) * prod(right[:-2])  # at most
    else:
        batch = together([left[:-2], right[:-2]])
    return [batch * rows * columns]


def _gemm(node: Node, given: Given, c: int = 2) -> Sequence[int] | None:
    (rows,) = _product(node, [_at(given, 0), _at(given, 1)]) or (0,)
    return [rows, size(_at(given, c))]


def _packed(node: Node, given: Given) -> Sequence[int] | None:
    inner, columns = int(node.attributes["K"]), int(node.attributes["N"])
    return [size(given[0]) // max(inner, 1) * columns, inner * columns]


def _range(node: Node, given: Given) -> Sequence[int] | None:
    start, limit, delta = (1 if v is None else np.asarray(v).reshape(-1)[0].item() for v in (*given, None, None)[:3])
    steps = (limit - start) / delta
    return [max(ceil(steps), 0)] if isfinite(steps) else None


def _gather(node: Node, given: Given) -> Sequence[int] | None:
    shape = tuple(given[0].shape)
    axis = node.attributes.get("axis", 0)
    return [size(given[1]) * (prod(shape) // shape[axis] if shape[axis] else 0)]


def _scaled(node: Node, given: Given) -> Sequence[int] | None:
    """Upsample, and Resize of its time: by `scales`, an attribute or an input."""
    shape = tuple(given[0].shape)
    scales = _at(given, 1) if _at(given, 1) is not None else node.attributes.get("scales")
    if scales is None:
        scales = (*[1.0] * (len(shape) - 2), node.attributes["height_scale"], node.attributes["width_scale"])
    sizes = [n * max(float(s), 0.0) for n, s in zip(shape, np.asarray(scales).reshape(-1).tolist(), strict=True)]
    return [int(prod(sizes))] if isfinite(prod(sizes)) else None


def _unpool(node: Node, given: Given) -> Sequence[int] | None:
    shape = _at(given, 2)
    return None if shape is None else [prod(_ints(shape))]


def _einsum(node: Node, given: Given) -> Sequence[int] | None:
    """From left to right: what a product of the first operands leaves are axes that are needed later."""
    terms, arrow, result = node.attributes["equation"].replace(" ", "").partition("->")
    if "." in terms:
        return None
    names = terms.split(",")
    if not arrow:
        result = "".join(sorted(c for c in set(terms) - {","} if terms.count(c) == 1))
    sizes: dict[str, int] = {}
    for term, value in zip(names, given, strict=True):
        for axis, n in zip(term, value.shape, strict=True):
            sizes[axis] = max(n, sizes.get(axis, 1))
    found = []
    for count in range(1, len(names) + 1):
        later = set(result).union(*map(set, names[count:]))
        kept = set().union(*map(set, names[:count])) & later
        if count > 1:
            found.append(prod(sizes[axis] for axis in kept))
    return [prod(sizes[axis] for axis in set(result)), *found]


def _attention(query: int, key: int, past: int, heads: str) -> Rule:
    """The scores: for each head, every query with every key. Inputs are (batch, [heads,] sequence, size)."""

    def rule(node: Node, given: Given) -> Sequence[int] | None:
        q, k, before = _at(given, query), _at(given, key), _at(given, past)
        q_shape = tuple(q.shape)
        k_shape = q_shape if k is None else tuple(k.shape)
        heads_ = q_shape[1] if len(q_shape) == 4 else int(node.attributes[heads])
        keys = (k_shape[-2] if len(k_shape) < 5 else k_shape[1]) + (0 if before is None else before.shape[-2])
        queries = q_shape[-2] if len(q_shape) < 5 else q_shape[1]
        return [q_shape[0] * heads_ * queries * keys, size(q), 2 * (size(k) + size(before))]

    return rule


def _blocks(node: Node, given: Given) -> Sequence[int] | None:
    """The scores of SparseAttention, and its blocks as matrices."""
    (batch, queries), (layouts, bounds) = given[0].shape[:2], given[5].shape
    scores = batch * int(node.attributes["num_heads"]) * queries * _ints(given[7])[0]
    return [scores, layouts * bounds * max(bounds, given[6].shape[1]), size(given[3])]


def _windows(channels: int, kernel: int | None, *, last: str = "") -> Rule:
    """Convolutions and pools of the domains that onnx infers nothing for: at most that many windows lie in an image.

    `channels` and `kernel` are positions of the image and of the weights; `last`: the attribute of channels at the end.
    """

    def rule(node: Node, given: Given) -> Sequence[int] | None:
        shape = tuple(given[channels].shape)
        at_end = last == "always" or bool(node.attributes.get(last, 0))
        spatial = shape[1:-1] if at_end else shape[2:]
        depth = shape[-1] if at_end else shape[1]
        weights = None if kernel is None else tuple(given[kernel].shape)
        out = depth if weights is None else weights[0]
        pads = [int(p) for p in node.attributes.get("pads", ())] or [0] * (2 * len(spatial))
        strides = [int(s) for s in node.attributes.get("strides", ())] or [1] * len(spatial)
        if node.attributes.get("auto_pad", "NOTSET").startswith("SAME"):
            pads = [0] * len(pads)
        rank = len(spatial)
        places = [
            max(n + max(pads[i], 0) + max(pads[i + rank], 0), 0) // max(strides[i], 1) + 1
            for i, n in enumerate(spatial)
        ]
        padded = [n + max(pads[i], 0) + max(pads[i + rank], 0) for i, n in enumerate(spatial)]
        return [shape[0] * out * prod(places), shape[0] * depth * prod(padded)]

    return rule


def _transposed(node: Node, given: Given) -> Sequence[int] | None:
    """ConvTranspose with pads that are an input."""
    shape, weights = tuple(given[0].shape), tuple(given[1].shape)
    rank = len(shape) - 2
    strides = list(node.attributes.get("strides", ())) or [1] * rank
    dilations = list(node.attributes.get("dilations", ())) or [1] * rank
    more = list(node.attributes.get("output_padding", ())) or [0] * rank
    out = [(n - 1) * s + (k - 1) * d + 1 + m for n, s, k, d, m in zip(
        shape[2:], strides, weights[2:], dilations, more, strict=True)]  # fmt: skip
    pads = [abs(p) for p in _ints(given[2])] if _at(given, 2) is not None else [0] * (2 * rank)
    grown = [max(o, 0) + p + q for o, p, q in zip(out, pads[:rank], pads[rank:], strict=True)]
    return [shape[0] * weights[1] * int(node.attributes.get("group", 1)) * prod(grown)]


def _crops(node: Node, given: Given) -> Sequence[int] | None:
    return [given[1].shape[0] * given[0].shape[1] * prod(_ints(given[3]))]


def _joined(node: Node, given: Given) -> Sequence[int] | None:
    return [sum(map(size, given))]


def _distances(node: Node, given: Given) -> Sequence[int] | None:
    return [given[0].shape[0] * given[1].shape[0]]


def _rows(value: Any) -> int:
    return int(value.shape[0]) if len(value.shape) > 1 else 1


def _support(node: Node, given: Given) -> Sequence[int] | None:
    """Every row with every support vector, and the scores."""
    vectors = node.attributes.get("vectors_per_class") or (node.attributes.get("n_supports", 0),)
    count = max(int(sum(vectors)), 1)
    classes = max(len(vectors), 1)
    return [_rows(given[0]) * count, _rows(given[0]) * classes * classes]


def _trees(node: Node, given: Given) -> Sequence[int] | None:
    """For every row the place in every tree, and the scores."""
    names = ("nodes_treeids", "tree_roots")
    trees = next((len(set(node.attributes[name])) for name in names if node.attributes.get(name)), 1)
    labels = ("class_ids", "target_ids", "leaf_targetids")
    classes = 1 + max((max(node.attributes[name]) for name in labels if node.attributes.get(name)), default=0)
    classes = max(classes, int(node.attributes.get("n_targets", 1)))
    return [_rows(given[0]) * trees, _rows(given[0]) * classes]


def _grams(node: Node, given: Given) -> Sequence[int] | None:
    width = max(node.attributes["ngram_indexes"], default=0) + 1
    return [_rows(given[0]) * max(width, len(node.attributes["ngram_indexes"]))]


def _categories(node: Node, given: Given) -> Sequence[int] | None:
    count = len(node.attributes.get("cats_int64s") or node.attributes.get("cats_strings") or ())
    return [size(given[0]) * count]


def _pieces(node: Node, given: Given) -> Sequence[int] | None:
    """Texts cut: as many places for each as the one of the most pieces has."""
    delimiter = node.attributes.get("delimiter", "") or None
    most = node.attributes.get("maxsplit")
    texts = given[0].reshape(-1).tolist()
    counts = [len(t.split()) if delimiter is None else t.count(delimiter) + 1 for t in texts]
    width = max(counts, default=0) if most is None else min(max(counts, default=0), max(int(most), 0) + 1)
    return [size(given[0]) * width]


def _tokens(node: Node, given: Given) -> Sequence[int] | None:
    return [size(given[0]) * (max(map(len, given[0].reshape(-1).tolist()), default=0) + 2)]


def _picture(node: Node, given: Given) -> Sequence[int] | None:
    """What the head of the file says."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(np.asarray(given[0]).tobytes())) as image:
            return [image.width * image.height * 4]
    except (OSError, SyntaxError, Image.DecompressionBombError):
        return None


def _embedded(node: Node, given: Given) -> Sequence[int] | None:
    return [size(given[0]) * int(given[2].shape[-1])]


def _padded(node: Node, given: Given) -> Sequence[int] | None:
    shape, pads = tuple(given[0].shape), _ints(given[1])
    return [prod(max(n + lo + hi, 0) for n, lo, hi in zip(shape, pads, pads[len(shape) :], strict=False))]


def _tuples(node: Node, given: Given) -> Sequence[int] | None:
    depth = int(given[1].shape[-1])
    return [size(given[1]) // max(depth, 1) * prod(given[0].shape[depth:])]


def _unfolded(node: Node, given: Given) -> Sequence[int] | None:
    length, width = given[0].shape[int(node.attributes.get("dim", -1))], int(node.attributes["size"])
    count = (length - width) // int(node.attributes.get("step", 1)) + 1
    return [size(given[0]) // max(length, 1) * count * width]


def _packed_blob(node: Node, given: Given) -> Sequence[int] | None:
    inner, columns = _ints(given[2])
    return [size(given[0]) // max(inner, 1) * columns, inner * columns]


def _letters(node: Node, given: Given) -> Sequence[int] | None:
    """The windows of all words, and what the convolution makes of them."""
    (words, letters), (vectors, _, window, width) = given[0].shape, given[1].shape
    places = words * max(letters - window + 1, 0)
    return [places * window * width, places * vectors]


def _diagonals(node: Node, given: Given) -> Sequence[int] | None:
    rows, columns = given[0].shape[-2:]
    return [rows * (rows + columns)]


def _linear(node: Node, given: Given) -> Sequence[int] | None:
    """Results of every head of queries or values, keys as often as they are shared, and the states that are kept."""
    heads, shared = int(node.attributes["q_num_heads"]), int(node.attributes["kv_num_heads"])
    batch, time, hidden = given[0].shape
    wide, width = hidden // max(heads, 1), given[2].shape[2] // max(shared, 1)
    states = batch * shared * wide * width * max(int(node.attributes.get("state_window", 0)), 1)
    return [batch * time * max(heads, shared) * max(wide, width), states]


def _deltas(node: Node, given: Given) -> Sequence[int] | None:
    """GatedDeltaNet: requests side by side, where one may be as long as all tokens, and their states."""
    state, bounds = _at(given, 6), _at(given, 3)
    tokens, batch = prod(given[0].shape[: 1 if _at(given, 1) is None else -2]), 1
    if _at(given, 1) is None or state is not None:
        batch, heads, width, wide = state.shape
        tokens = size(given[0]) // max(given[0].shape[-1], 1) if _at(given, 1) is None else tokens
    else:
        (heads, width), wide = given[2].shape[-2:], given[0].shape[-1]
        batch = bounds.shape[0] - 1 if bounds is not None else given[0].shape[0]
    if bounds is not None:
        ends = np.asarray(bounds)
        tokens = max(int((ends[1:] - ends[:-1]).max(initial=0)), 0) * batch
    return [tokens * heads * max(width, wide), batch * heads * width * wide]


def _convolved(node: Node, given: Given) -> Sequence[int] | None:
    """What comes before the image, too, and the states that are kept."""
    channels, _, taps = given[1].shape
    held = given[0].shape[0] * channels * (taps - 1) * max(int(node.attributes.get("dilation", 1)), 1)
    return [size(given[0]) + held, held * max(int(node.attributes.get("state_window", 0)), 1)]


def _hashes(position: int) -> Rule:
    """A hash for each token, n-gram and head; the sizes of the vocabularies are at `position`."""
    return lambda node, given: [size(given[0]) * max(size(given[position]), 1)]


def _attended(node: Node, given: Given) -> Sequence[int] | None:
    """All outputs of AttnLSTM, the gates of all steps, and the keys of the memory."""
    (time, batch, _), (count, gates, hidden) = given[0].shape, given[2].shape
    return [time * count * batch * hidden, time * batch * gates, batch * given[11].shape[1] * given[9].shape[2]]


def _experts(node: Node, given: Given) -> Sequence[int] | None:
    """The tokens inside an expert, and which expert counts for which; packed weights of one, unpacked."""
    hidden = int(given[0].shape[-1])
    tokens, (experts, rows) = size(given[0]) // max(hidden, 1), given[2].shape[:2]
    return [size(given[0]), tokens * rows, tokens * experts * int(node.attributes.get("k", 1)), rows * hidden]


def _continued(node: Node, given: Given) -> Sequence[int] | None:
    """As many tokens as asked for, of each example."""
    return [given[0].shape[0] * _ints(given[1])[0]]


def _searched(node: Node, given: Given) -> Sequence[int] | None:
    """As many tokens as asked for, of each beam of each example."""
    return [given[0].shape[0] * _ints(given[1])[0] * _ints(given[3])[0]]


def _boxes(node: Node, given: Given) -> Sequence[int] | None:
    """At most every box, or as many of each class as are asked for, three numbers each."""
    batch, classes, boxes = given[1].shape
    return [3 * batch * classes * boxes]


_FIRST_TWO = partial(_broadcast, positions=(0, 1))
_ML, _MS = "ai.onnx.ml", "com.microsoft"
RULES: Mapping[tuple[str, str], Rule] = {
    **{("", name): _reduced for name in (
        "Cast CastLike Identity Reshape Flatten Squeeze Unsqueeze Transpose Slice Split Shape Size Softmax Dropout "
        "DepthToSpace SpaceToDepth Trilu CumSum CumProd ReverseSequence Compress TopK Unique ScatterND ScatterElements "
        "Scatter SequenceConstruct SequenceAt SequenceErase SequenceInsert SplitToSequence SequenceLength "
        "SequenceEmpty Optional OptionalGetElement OptionalHasElement StringNormalizer RegexFullMatch "
        "BatchNormalization InstanceNormalization GroupNormalization LRN LpNormalization MeanVarianceNormalization"
    ).split()},
    ("", "NonZero"): lambda node, given: [size(given[0]) * max(len(given[0].shape), 1)],
    ("", "MatMul"): _product,
    ("", "MatMulInteger"): _product,
    ("", "QLinearMatMul"): partial(_product, b=3),
    ("", "Gemm"): _gemm,
    ("", "Range"): _range,
    ("", "Gather"): _gather,
    ("", "Upsample"): _scaled,
    ("", "MaxUnpool"): _unpool,
    ("", "Einsum"): _einsum,
    ("", "LayerNormalization"): _broadcast,
    ("", "RMSNormalization"): _broadcast,
    ("", "Attention"): _attention(0, 1, 4, "q_num_heads"),
    ("", "ConcatFromSequence"): _joined,
    ("", "StringConcat"): _broadcast,
    ("", "StringSplit"): _pieces,
    ("", "ImageDecoder"): _picture,
    ("", "TfIdfVectorizer"): _grams,
    ("", "NonMaxSuppression"): _boxes,
    (_ML, "SVMClassifier"): _support,
    (_ML, "SVMRegressor"): _support,
    (_ML, "TreeEnsemble"): _trees,
    (_ML, "TreeEnsembleClassifier"): _trees,
    (_ML, "TreeEnsembleRegressor"): _trees,
    (_ML, "OneHotEncoder"): _categories,
    (_ML, "ArrayFeatureExtractor"): lambda node, given: [
        size(given[1]) * (size(given[0]) // max(int(given[0].shape[-1]), 1))
    ],
    (_ML, "CastMap"): lambda node, given: [max(len(given[0]), int(node.attributes.get("max_map", 1)))],
    (_MS, "FusedMatMul"): _product,
    (_MS, "TransposeMatMul"): _product,
    (_MS, "MatMulIntegerToFloat"): _product,
    (_MS, "DynamicQuantizeMatMul"): _product,
    (_MS, "FusedGemm"): _gemm,
    (_MS, "QGemm"): partial(_product, b=3),
    (_MS, "MatMulNBits"): _packed,
    (_MS, "MatMulBnb4"): _packed,
    (_MS, "MatMulFpQ4"): _packed_blob,
    (_MS, "GatherPacked"): lambda node, given: [size(given[1]) * int(node.attributes["K"])],
    (_MS, "MatMulInteger16"): _product,
    (_MS, "Pad"): _padded,
    (_MS, "GatherND"): _tuples,
    (_MS, "UnfoldTensor"): _unfolded,
    (_MS, "MaxpoolWithMask"): _windows(0, None),
    (_MS, "WordConvEmbedding"): _letters,
    (_MS, "DynamicTimeWarping"): _diagonals,
    (_MS, "Range"): _range,
    (_MS, "FusedConv"): _windows(0, 1),
    (OWN, "PointwiseDepthwiseConv"): _windows(0, 2),
    (_MS, "QLinearConv"): _windows(0, 3, last="channels_last"),
    (_MS, "NhwcMaxPool"): _windows(0, None, last="always"),
    (_MS, "QLinearAveragePool"): _windows(0, None, last="channels_last"),
    (_MS, "ConvTransposeWithDynamicPads"): _transposed,
    (_MS, "CropAndResize"): _crops,
    (_MS, "CDist"): _distances,
    (_MS, "LinearAttention"): _linear,
    (_MS, "GatedDeltaNet"): _deltas,
    (_MS, "CausalConvWithState"): _convolved,
    (_MS, "NGramHashMapping"): _hashes(2),
    (_MS, "VarlenNGramHashMapping"): _hashes(2),
    (_MS, "AttnLSTM"): _attended,
    (_MS, "GreedySearch"): _continued,
    (_MS, "Sampling"): _continued,
    (_MS, "BeamSearch"): _searched,
    (_MS, "WhisperBeamSearch"): _searched,
    (_MS, "MoE"): _experts,
    (_MS, "QMoE"): _experts,
    (_MS, "QLinearConcat"): _joined,
    (_MS, "EmbedLayerNormalization"): _embedded,
    (_MS, "QEmbedLayerNormalization"): _embedded,
    (_MS, "Tokenizer"): _tokens,
    (_MS, "MultiHeadAttention"): _attention(0, 1, 6, "num_heads"),
    (_MS, "GroupQueryAttention"): _attention(0, 1, 3, "num_heads"),
    (_MS, "SparseAttention"): _blocks,
    (_MS, "Attention"): _attention(0, 0, 4, "num_heads"),
    (_MS, "QAttention"): _attention(0, 0, 8, "num_heads"),
    **{(_MS, name): _FIRST_TWO for name in (
        "SkipLayerNormalization SkipSimplifiedLayerNormalization SimplifiedLayerNormalization BiasGelu FastGelu"
    ).split()},
    (_MS, "QLinearAdd"): partial(_broadcast, positions=(0, 3)),
    (_MS, "QLinearMul"): partial(_broadcast, positions=(0, 3)),
    (_MS, "QLinearWhere"): partial(_broadcast, positions=(0, 1, 4)),
}  # fmt: skip
