"""What com.microsoft has besides: older forms of ONNX operators, and helpers of text and generation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod

from ortlite.namespace import Namespace
from ortlite.ops import conv, create, index, pool, shape, vision
from ortlite.ops.annotations import Array, Flag, Float, Int, Ints, Scalar, Text, Texts
from ortlite.ops.conv import interpolate
from ortlite.ops.helpers import normal_axis, one_of, require_broadcast, require_shape
from ortlite.ops.linalg import matrix_product
from ortlite.ops.registry import op
from ortlite.primitives.window import output_shape, padded, window_slices

MS = "com.microsoft"


@op("ConvTransposeWithDynamicPads", domain=MS)
def conv_transpose_with_dynamic_pads(
    xp: Namespace,
    X: Array,
    W: Array,
    Pads: Ints | None = None,
    B: Array | None = None,
    *,
    auto_pad: Text = "NOTSET",
    dilations: Ints | None = None,
    group: Int = 1,
    kernel_shape: Ints | None = None,
    output_padding: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """ConvTranspose whose pads are an input."""
    return conv.conv_transpose(
        xp, X, W, B, auto_pad=auto_pad, dilations=dilations, group=group, kernel_shape=kernel_shape,
        output_padding=output_padding, pads=Pads, strides=strides,
    )  # fmt: skip


@op("SparseToDenseMatMul", domain=MS, results=("B",))
def sparse_to_dense_matmul(
    xp: Namespace, A: Array, B: Array, *, alpha: Float = 1.0, transA: Flag = 0, transB: Flag = 0
) -> Array:
    """`alpha` · A' B'; the sparse A is dense here."""
    return matrix_product(xp, A.T if transA else A, B.T if transB else B) * alpha


@op("Inverse", domain=MS, needs=("linalg",))
def inverse(xp: Namespace, X: Array) -> Array:
    """The inverses of matrices over the last two axes."""
    return xp.linalg.inv(X)


@op("Trilu", domain=MS, any_dtype=True)
def trilu(xp: Namespace, X: Array, k: Int = 0, *, upper: Flag = 1) -> Array:
    """The triangle above (or below) the `k`-th diagonal."""
    return shape.trilu(xp, X, k, upper=upper)


@op("Unique", domain=MS, data_dependent_shape=True, results=("x", "int64", "int64"))
def unique(xp: Namespace, x: Array) -> tuple[Array, Array, Array]:
    """The different elements of a vector in order of first appearance, which of them stands where, and how often."""
    values, _, indices, counts = index.unique(xp, x, sorted=0, n_outputs=4)
    return values, indices, counts


@op("Pad", domain=MS, any_dtype=True, views=True)
def pad(xp: Namespace, data: Array, pads: Ints, value: Scalar | None = None, *, mode: Text = "constant") -> Array:
    """ai.onnx's Pad, from when its `pads` were an attribute there; they may be (1, 2 · rank)."""
    return shape.pad(xp, data, pads, value, mode=mode)


@op("GatherND", domain=MS, any_dtype=True)
def gather_nd(xp: Namespace, data: Array, indices: Array) -> Array:
    """ai.onnx's GatherND, without batch axes."""
    return index.gather_nd(xp, data, indices)


@op("SampleOp", domain=MS, any_dtype=True, views=True)
def sample_op(xp: Namespace, X: Array) -> Array:
    """`X` as it is."""
    return X


@op("UnfoldTensor", domain=MS, any_dtype=True)
def unfold_tensor(xp: Namespace, input: Array, *, dim: Int = -1, size: Int, step: Int = 1) -> Array:
    """The windows of `size` elements along the axis `dim`, `step` apart; their elements are a new last axis.

    Raises ValueError for a window larger than the axis, and for a step below 1.
    """
    axis = normal_axis(dim, input.ndim)
    length = input.shape[axis]
    if not 0 <= size <= length or step < 1:
        raise ValueError(f"windows of size {size}, step {step}, do not fit an axis of {length}")
    count = (length - size) // step + 1
    places = xp.expand_dims(xp.arange(count, dtype=xp.int64) * step, axis=1) + xp.arange(size, dtype=xp.int64)
    y = xp.take(input, xp.reshape(places, (-1,)), axis=axis)
    y = xp.reshape(y, (*input.shape[:axis], count, size, *input.shape[axis + 1 :]))
    return xp.moveaxis(y, axis + 1, -1)


@op("ExpandDims", domain=MS, any_dtype=True, views=True)
def expand_dims(xp: Namespace, X: Array, axis: Int) -> Array:
    """A new axis of length 1."""
    return xp.expand_dims(X, axis=axis)


@op("Range", domain=MS, data_dependent_shape=True)
def range_(xp: Namespace, start: Array, limit: Scalar, delta: Scalar | None = None) -> Array:
    """`start`, `start` + `delta` (default 1), … as long as `limit` is not reached."""
    return create.range_(xp, start, limit, (1.0 if isinstance(limit, float) else 1) if delta is None else delta)


@op("GridSample", domain=MS)
def grid_sample(
    xp: Namespace,
    X: Array,
    Grid: Array,
    *,
    align_corners: Flag = 0,
    mode: Text = "bilinear",
    padding_mode: Text = "zeros",
) -> Array:
    """GridSample of images."""
    return vision.grid_sample(xp, X, Grid, align_corners=align_corners, mode=mode, padding_mode=padding_mode)


@op("CropAndResize", domain=MS)
def crop_and_resize(
    xp: Namespace,
    X: Array,
    rois: Array,
    batch_indices: Array,
    crop_size: Ints,
    *,
    extrapolation_value: Float = 0.0,
    mode: Text = "bilinear",
) -> Array:
    """Boxes (y1, x1, y2, x2, in shares of the image) of images (N, C, H, W), resized to `crop_size`.

    `mode` bilinear or nearest; beyond the image there is `extrapolation_value`. Raises ValueError for another mode.
    """
    one_of("mode", mode, "bilinear", "nearest")
    count = rois.shape[0]
    require_shape("rois", rois, count, 4)
    require_shape("batch_indices", batch_indices, count)
    xp.require_range("batch_indices", batch_indices, 0, X.shape[0] - 1)
    coordinates = []
    for axis, (length, out) in enumerate(zip(X.shape[2:], crop_size, strict=True)):
        low, high = rois[:, axis : axis + 1], rois[:, axis + 2 : axis + 3]
        steps = xp.arange(out, dtype=X.dtype)
        if out > 1:
            coordinates.append(low * (length - 1) + steps * ((high - low) * (length - 1) / (out - 1)))
        else:
            coordinates.append((low + high) * (0.5 * (length - 1)) + steps)
    y, x = xp.expand_dims(coordinates[0], axis=2), xp.expand_dims(coordinates[1], axis=1)
    inside = (y >= 0) & (y <= X.shape[2] - 1) & (x >= 0) & (x <= X.shape[3] - 1)
    whole = (count, *crop_size)
    coordinates = [xp.expand_dims(xp.broadcast_to(c, whole), axis=1) for c in (y, x)]
    if mode == "nearest":
        coordinates = [xp.floor(c + 0.5) for c in coordinates]
    images = xp.expand_dims(xp.take(X, xp.astype(batch_indices, xp.int64), axis=0), axis=1)
    found = xp.reshape(interpolate(xp, images, coordinates), (count, X.shape[1], *crop_size))
    outside = xp.asarray(extrapolation_value, dtype=X.dtype)
    return xp.where(xp.expand_dims(inside, axis=1), found, outside)


DIFFERENCES = 1 << 18  # elements that CDist holds at once


@op("CDist", domain=MS)
def cdist(xp: Namespace, A: Array, B: Array, *, metric: Text = "sqeuclidean") -> Array:
    """The distance of every row of `A` (M, K) to every row of `B` (N, K): (M, N).

    `metric` euclidean, or sqeuclidean for its square. Raises ValueError for another, and for rows of other lengths.
    """
    one_of("metric", metric, "euclidean", "sqeuclidean")
    if A.ndim != 2 or B.ndim != 2 or A.shape[1] != B.shape[1]:
        raise ValueError(f"A {list(A.shape)} and B {list(B.shape)} are no matrices with rows of one length")
    # from the differences, a few rows at a time: squares less twice the product would lose the digits of near rows
    rows = max(DIFFERENCES // max(prod(B.shape), 1), 1)
    parts = []
    for start in range(0, max(A.shape[0], 1), rows):
        some = A[start : min(start + rows, A.shape[0]), :]
        apart = xp.expand_dims(some, axis=1) - xp.expand_dims(B, axis=0)
        parts.append(xp.sum(xp.square(apart), axis=2, dtype=A.dtype))
    y = parts[0] if len(parts) == 1 else xp.concat(parts, axis=0)
    return xp.sqrt(y) if metric == "euclidean" else y


MASK = 0xFFFFFFFF


def _murmur(data: bytes, seed: int) -> int:
    """MurmurHash3_x86_32 of bytes (A. Appleby, public domain)."""

    def turn(x: int, r: int) -> int:
        return (x << r | x >> (32 - r)) & MASK

    h = seed & MASK
    for start in range(0, len(data) // 4 * 4, 4):
        k = int.from_bytes(data[start : start + 4], "little") * 0xCC9E2D51 & MASK
        h = (turn(h ^ turn(k, 15) * 0x1B873593 & MASK, 13) * 5 + 0xE6546B64) & MASK
    tail = data[len(data) // 4 * 4 :]
    if tail:
        h ^= turn(int.from_bytes(tail, "little") * 0xCC9E2D51 & MASK, 15) * 0x1B873593 & MASK
    h ^= len(data)
    h = (h ^ h >> 16) * 0x85EBCA6B & MASK
    h = (h ^ h >> 13) * 0xC2B2AE35 & MASK
    return h ^ h >> 16


@op("MurmurHash3", domain=MS, python_objects=True, results=("",))
def murmur_hash_3(xp: Namespace, X: Array, *, positive: Flag = 1, seed: Int = 0) -> Array:
    """The 32-bit hash of every element (text in UTF-8), unsigned if `positive`."""
    flat = xp.reshape(X, (-1,))
    data = [v.encode() if isinstance(v, str) else v.tobytes() for v in flat]
    hashes = xp.asarray([_murmur(d, seed) for d in data], dtype=xp.uint32)
    return xp.reshape(hashes if positive else xp.astype(hashes, xp.int32), X.shape)


@op("Tokenizer", domain=MS, python_objects=True, data_dependent_shape=True)
def tokenizer(
    xp: Namespace,
    X: Array,
    *,
    mark: Flag,
    mincharnum: Int,
    pad_value: Text,
    separators: Texts | None = None,
    tokenexp: Text = "",
) -> Array:
    """Texts (C) or (N, C) cut into tokens of at least `mincharnum` characters, along a new last axis.

    At `separators`, which are regular expressions (an empty one cuts everywhere), or as `tokenexp` matches them. With
    `mark` a start (U+0002) and an end (U+0003) surround each text's tokens. Raises ValueError when neither is given.
    """
    if separators is None and not tokenexp:
        raise ValueError("one of separators and tokenexp must be given")
    rows = []
    for word in X.reshape(-1).tolist():
        found = [m.group(0) for m in re.finditer(tokenexp, word)] if tokenexp else None
        tokens = _cut([word], separators or ()) if found is None else found
        rows.append([t for t in tokens if len(t) >= mincharnum])
    if not any(rows):
        return xp.empty((*X.shape, 0), dtype=xp.dtype("string"))
    if mark:
        rows = [["\x02", *tokens, "\x03"] for tokens in rows]
    width = max(map(len, rows))
    result = xp.empty((len(rows), width), dtype=xp.dtype("string"))
    for i, tokens in enumerate(rows):
        result[i, :] = [*tokens, *[pad_value] * (width - len(tokens))]
    return xp.reshape(result, (*X.shape, width))


def _cut(words: Sequence[str], separators: Sequence[str]) -> list[str]:
    """Words cut at one separator after the other."""
    pieces = list(words)
    for separator in separators:
        if not separator:
            pieces = [c for piece in pieces for c in piece]
        else:
            pieces = [part for piece in pieces for part in re.split(separator, piece) if part]
    return pieces


@op("NGramRepeatBlock", domain=MS, results=("scores",), views=True)
def ngram_repeat_block(xp: Namespace, input_ids: Array, scores: Array, *, ngram_size: Int) -> Array:
    """`scores` (batch, vocabulary), -inf for a token that would repeat an n-gram of `input_ids` (batch, length)."""
    batch, length = input_ids.shape
    before = ngram_size - 1
    if length < ngram_size:
        return scores
    last = input_ids[:, length - before :]
    count = length - before
    same = xp.ones((batch, count), dtype=xp.bool)
    for i in range(before):
        same = same & (input_ids[:, i : i + count] == last[:, i : i + 1])
    following = xp.astype(input_ids[:, before:], xp.int64)
    vocabulary = xp.arange(scores.shape[1], dtype=xp.int64)
    blocked = xp.any(xp.expand_dims(same, axis=2) & (xp.expand_dims(following, axis=2) == vocabulary), axis=1)
    return xp.where(blocked, xp.asarray(float("-inf"), dtype=scores.dtype), scores)


@op("DynamicTimeWarping", domain=MS, data_dependent_shape=True, results=("int32",))
def dynamic_time_warping(xp: Namespace, input: Array) -> Array:
    """The cheapest path through costs (M, N), or (1, M, N), from the first place to the last: (2, steps).

    A step goes to the next row, the next column, or both.
    """
    if input.ndim == 3 and input.shape[0] == 1:
        input = input[0, ...]
    if input.ndim != 2:
        raise ValueError(f"costs are (M, N) or (1, M, N), not {list(input.shape)}")
    rows, columns = input.shape
    if not rows or not columns:
        return xp.zeros((2, 0), dtype=xp.int32)
    # by diagonals, whose places do not depend on each other: the place of row i on diagonal d is in column d - i
    row = xp.expand_dims(xp.arange(rows, dtype=xp.int64), axis=0)
    column = xp.expand_dims(xp.arange(rows + columns - 1, dtype=xp.int64), axis=1) - row
    inside = (column >= 0) & (column < columns)
    places = xp.reshape(row * columns + xp.clip(column, 0, columns - 1), (-1,))
    infinity = xp.asarray(float("inf"), dtype=input.dtype)
    costs = xp.take(xp.reshape(input, (-1,)), places, axis=0)
    costs = xp.where(inside, xp.reshape(costs, inside.shape), infinity)
    outside = xp.full((1,), float("inf"), dtype=input.dtype)

    def step(state: tuple[Array, ...], slices: tuple[Array, ...]) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        before, diagonal = state  # what led to the last diagonal, shifted by a row; the last diagonal
        above = xp.concat([outside, diagonal[:-1]])
        # of equals, as Whisper's own: the diagonal or the row above only where it is less than both others
        diagonally = (before < above) & (before < diagonal)
        down = (above < before) & (above < diagonal)
        best = xp.where(diagonally, before, xp.where(down, above, diagonal))
        zero, one, two = (xp.asarray(n, dtype=xp.int32) for n in range(3))
        return (above, slices[0] + best), (xp.where(diagonally, zero, xp.where(down, one, two)),)

    start = xp.concat([xp.zeros((1,), dtype=input.dtype), xp.full((rows - 1,), float("inf"), dtype=input.dtype)])
    _, (moves,) = xp.scan(step, (start, xp.full((rows,), float("inf"), dtype=input.dtype)), [costs])
    i, j, path = rows - 1, columns - 1, []
    while i >= 0 and j >= 0:
        path.append((i, j))
        move = int(moves[i + j, i])
        i, j = i - (move != 2), j - (move != 1)
    return xp.asarray([list(line) for line in zip(*reversed(path), strict=True)], dtype=xp.int32)


@op("MaxpoolWithMask", domain=MS)
def maxpool_with_mask(
    xp: Namespace,
    X: Array,
    M: Array,
    *,
    auto_pad: Text = "NOTSET",
    kernel_shape: Ints,
    pads: Ints | None = None,
    storage_order: Int = 0,
    strides: Ints | None = None,
) -> Array:
    """MaxPool where each row of a window ends at the first place at which the mask `M` is 0.

    `M` broadcasts to `X`. As in onnxruntime, the first place of an image with two axes or more never counts as masked,
    and a window that sees nothing is the lowest number.
    """
    if M.ndim != X.ndim or M.shape[2:] != X.shape[2:]:
        raise ValueError(f"the mask {list(M.shape)} does not fit the images {list(X.shape)}")
    require_broadcast("M", M, X.shape)
    size, strides, _, padding = pool.pool_windows(X.shape, kernel_shape, strides, None, pads, auto_pad, 0)
    spatial, ones = X.shape[2:], [1] * len(size)
    lowest = float(xp.finfo(X.dtype).min)
    open_ = M != 0
    if len(spatial) > 1:
        open_ = open_ | xp.reshape(xp.arange(prod(spatial), dtype=xp.int64) == 0, (1, 1, *spatial))
    out = output_shape(spatial, size, strides, ones, padding)
    x = padded(xp, X, padding, lowest)
    open_ = padded(xp, xp.astype(open_, xp.uint8), padding, 1) != 0
    y = xp.full((*X.shape[:2], *out), lowest, dtype=X.dtype)
    going = open_
    for number, window in enumerate(window_slices(out, size, strides, ones)):
        seen, here = open_[(..., *window)], x[(..., *window)]
        going = seen if number % size[-1] == 0 else going & seen
        y = xp.where(going & (here > y), here, y)
    return y


@op("WordConvEmbedding", domain=MS, results=("W",))
def word_conv_embedding(
    xp: Namespace,
    Sequence: Array,
    W: Array,
    B: Array,
    C: Array,
    *,
    char_embedding_size: Int | None = None,
    conv_window_size: Int | None = None,
    embedding_size: Int | None = None,
) -> Array:
    """Words (count, letters) as vectors: the maximum over each word of tanh of a convolution of its letters' vectors.

    `Sequence` are rows of the table `C` (letters, size), 0 for no letter; `W` is (vectors, 1, window, size), `B`
    (vectors). A word has as many letters as there are numbers above 0, and at least a window; one that begins with 0
    is a vector of zeros.
    """
    window, width = W.shape[-2:]
    if Sequence.ndim != 2 or Sequence.shape[1] < window:
        raise ValueError(
            f"Sequence {list(Sequence.shape)} must be (words, letters), not fewer than the window {window}"
        )
    require_shape("W", W, embedding_size or W.shape[0], 1, conv_window_size or window, char_embedding_size or width)
    require_shape("B", B, W.shape[0])
    require_shape("C", C, C.shape[0], width)
    xp.require_range("Sequence", Sequence, 0, C.shape[0] - 1)
    words, letters = Sequence.shape
    lengths = xp.sum(xp.astype(Sequence > 0, xp.int64), axis=1, keepdims=True)
    ids = xp.reshape(xp.astype(Sequence, xp.int64), (-1,))
    vectors = xp.reshape(xp.take(C, ids, axis=0), (words, letters, width))
    places = letters - window + 1
    windows = xp.concat([vectors[:, i : i + places, :] for i in range(window)], axis=2)
    y = xp.tanh(xp.matmul(windows, xp.reshape(W, (W.shape[0], -1)).T) + B)
    ends = xp.arange(places, dtype=xp.int64) + window
    inside = (ends <= lengths) | (ends == window)
    y = xp.max(xp.where(xp.expand_dims(inside, axis=2), y, xp.asarray(-1.0, dtype=y.dtype)), axis=1)
    return xp.where(Sequence[:, :1] > 0, y, xp.zeros_like(y))


@op("BifurcationDetector", domain=MS, data_dependent_shape=True, results=("src_tokens", "int64"), views=True)
def bifurcation_detector(
    xp: Namespace,
    src_tokens: Array,
    cur_tokens: Array,
    prev_suffix_match_idx: Int,
    pred_tokens: Array | None = None,
    *,
    max_ngram_size: Int = 3,
    min_ngram_size: Int = 1,
) -> tuple[Array, Array]:
    """Speculative decoding from the source: what to keep of the predictions, and where the source goes on.

    The predictions count up to the first that differs from the source behind `prev_suffix_match_idx`. Then the one
    place in the source is looked for where the last n tokens stand, for growing n: the place behind it, or -1 for none
    or several.
    """
    tokens = cur_tokens
    if pred_tokens is not None:
        limit = min(pred_tokens.shape[0] - 1, src_tokens.shape[0] - prev_suffix_match_idx)
        ahead = src_tokens[prev_suffix_match_idx : prev_suffix_match_idx + limit]
        (wrong,) = xp.nonzero(pred_tokens[:limit] != ahead)
        kept = (int(wrong[0]) if wrong.shape[0] else limit) + 1
        tokens = xp.concat([cur_tokens, pred_tokens[:kept]])
    length, count = src_tokens.shape[0], tokens.shape[0]
    found = -1
    for n in range(min_ngram_size, max_ngram_size + 1):
        if n > count or n > length:
            break
        same = xp.ones((length - n + 1,), dtype=xp.bool)
        for i in range(n):
            same = same & (src_tokens[i : length - n + 1 + i] == tokens[count - n + i])
        (starts,) = xp.nonzero(same)
        found = int(starts[0]) + n if starts.shape[0] == 1 else -1
        if starts.shape[0] < 2:
            break
    return tokens, xp.asarray(found, dtype=xp.int64)
