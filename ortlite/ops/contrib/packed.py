"""Weights that are packed in other ways than MatMulNBits has them: bitsandbytes, MLAS, GGML."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from ortlite import dtypes
from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array, DType, Flag, Int, Ints
from ortlite.ops.contrib.quant import unpacked
from ortlite.ops.helpers import one_of, require_shape
from ortlite.ops.linalg import matrix_product
from ortlite.ops.quant import wide
from ortlite.ops.registry import op

MS = "com.microsoft"

# The 16 numbers of FP4 and of NF4 (Dettmers and others, QLoRA: quantiles of the normal distribution).
FP4 = (0.0, 1 / 192, 2 / 3, 1.0, 1 / 3, 0.5, 1 / 6, 0.25)
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
CODES = {0: (*FP4, *(-v for v in FP4)), 1: NF4}


@op("MatMulBnb4", domain=MS, any_dtype=True)
def matmul_bnb4(
    xp: Namespace,
    A: Array,
    B: Array,
    absmax: Array,
    *,
    K: Int,
    N: Int,
    block_size: Int,
    quant_type: Int,
    training_mode: Flag = 0,
    transB: Flag = 1,
) -> Array:
    """`A` times the transpose of weights (N, K) of bitsandbytes; the weights themselves where not `transB`.

    Two places of a table of 16 numbers (`quant_type` 0 FP4, 1 NF4) are in a byte, the first in the high bits; they
    count in units of `absmax`, one for each `block_size` of the weights in a row.
    """
    w = bnb4_weights(xp, B, absmax, N, K, block_size, quant_type)
    return xp.astype(matrix_product(xp, wide(xp, A), w.T if transB else w), A.dtype)


def bnb4_weights(xp: Namespace, B: Array, absmax: Array, N: int, K: int, block_size: int, quant_type: int) -> Array:
    """The weights (N, K) of MatMulBnb4 as floats."""
    one_of("quant_type", quant_type, *CODES)
    one_of("block_size", block_size, *(2**n for n in range(4, 13)))
    count, blocks = N * K, -(-N * K // block_size)
    require_shape("B", xp.reshape(B, (-1,)), (count + 1) // 2)
    require_shape("absmax", xp.reshape(absmax, (-1,)), blocks)
    low_first = xp.reshape(xp.astype(unpacked(xp, xp.reshape(B, (-1,)), 4), xp.int64), (-1, 2))
    places = xp.reshape(xp.flip(low_first, axis=1), (-1,))[:count]
    w = xp.take(xp.asarray(CODES[quant_type], dtype=xp.float32), places, axis=0)
    block = xp.arange(count, dtype=xp.int64) // block_size
    w = w * xp.take(xp.reshape(wide(xp, absmax), (-1,)), block, axis=0)
    return xp.reshape(w, (N, K))


def floats_of_bits(xp: Namespace, bits: Array, exponent: int, mantissa: int) -> Array:
    """The float32 numbers that integers spell: a sign, `exponent` bits and `mantissa` bits."""
    bits = xp.astype(bits, xp.int64)
    bias = 2 ** (exponent - 1) - 1
    digits, rest = bits % 2**mantissa, bits // 2**mantissa
    power, sign = rest % 2**exponent, rest // 2**exponent
    normal = power > 0
    digits = xp.astype(xp.where(normal, digits + 2**mantissa, digits), xp.float32)
    power = xp.where(normal, power, xp.ones_like(power)) - (bias + mantissa)
    size = digits * xp.pow(xp.asarray(2.0, dtype=xp.float32), xp.astype(power, xp.float32))
    return xp.where(sign > 0, -size, size)


def _bytes_as_number(xp: Namespace, x: Array) -> Array:
    """Bytes along the last axis, the lowest first, as one integer."""
    places = xp.asarray([256**i for i in range(x.shape[-1])], dtype=xp.int64)
    return xp.sum(xp.astype(x, xp.int64) * places, axis=-1, dtype=xp.int64)


@op("MatMulFpQ4", domain=MS)
def matmul_fp_q4(xp: Namespace, A: Array, B: Array, B_shape: Ints, *, blk_quant_type: Int = 1) -> Array:
    """`A` times weights (K, N), packed column by column in blocks of 32 with a scale each, a float32 in front.

    `blk_quant_type` 1: behind the scale comes a zero point; 0: it is 8. Then 16 bytes: the low bits are the first 16
    weights, the high bits the others. Raises ValueError for 2, whose layout the processor decides in onnxruntime.
    """
    one_of("blk_quant_type", blk_quant_type, 0, 1)
    if len(B_shape) != 2:
        raise ValueError(f"B_shape {list(B_shape)} must be the K and N of a matrix")
    depth, columns = B_shape
    blocks, head = -(-depth // 32), 4 + blk_quant_type
    require_shape("B", B, columns * blocks * (head + 16))
    blob = xp.reshape(B, (columns, blocks, head + 16))
    scale = floats_of_bits(xp, _bytes_as_number(xp, blob[..., :4]), 8, 23)
    pairs = xp.reshape(unpacked(xp, blob[..., head:], 4), (columns, blocks, 16, 2))
    w = xp.reshape(xp.permute_dims(pairs, (0, 1, 3, 2)), (columns, blocks, 32))
    zero = xp.astype(blob[..., 4:5], xp.float32) if blk_quant_type else 8.0
    w = xp.reshape((w - zero) * xp.expand_dims(scale, axis=2), (columns, blocks * 32))[:, :depth]
    return matrix_product(xp, A, w.T)


# The 16 numbers of GGML's IQ4.
IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def _halves(xp: Namespace, x: Array) -> Array:
    """The low 4 bits of all bytes of the last axis, behind them the high ones."""
    return xp.concat([x % 16, x // 16], axis=-1)


def _half(xp: Namespace, x: Array) -> Array:
    """Two bytes along the last axis as a float16, in float32, the axis kept."""
    return xp.expand_dims(floats_of_bits(xp, _bytes_as_number(xp, x), 5, 10), axis=-1)


def _signed(xp: Namespace, x: Array) -> Array:
    return xp.where(x > 127, x - 256, x)


def _scaled(xp: Namespace, q: Array, scales: Array) -> Array:
    """Integers (…, n) times scales (…, groups), each for a group of them."""
    *lead, groups = scales.shape
    count = prod(q.shape[len(lead) :])
    q = xp.reshape(xp.astype(q, xp.float32), (*lead, groups, count // groups))
    return xp.reshape(q * xp.expand_dims(scales, axis=-1), (*lead, count))


def _q4_0(xp: Namespace, b: Array) -> Array:
    return _scaled(xp, _halves(xp, b[..., 2:]) - 8, _half(xp, b[..., :2]))


def _fifth_bits(xp: Namespace, b: Array) -> Array:
    """The bits of 4 bytes, the lowest first."""
    bits = xp.expand_dims(b, axis=-1) // xp.asarray([2**i for i in range(8)], dtype=b.dtype) % 2
    return xp.reshape(bits, (*b.shape[:-1], b.shape[-1] * 8))


def _q5_0(xp: Namespace, b: Array) -> Array:
    q = _halves(xp, b[..., 6:]) + 16 * _fifth_bits(xp, b[..., 2:6]) - 16
    return _scaled(xp, q, _half(xp, b[..., :2]))


def _q8_0(xp: Namespace, b: Array) -> Array:
    return _scaled(xp, _signed(xp, b[..., 2:]), _half(xp, b[..., :2]))


def _q5_k(xp: Namespace, b: Array) -> Array:
    s, high, low = b[..., 4:16], b[..., 16:48], xp.reshape(b[..., 48:], (*b.shape[:-1], 4, 32))
    first, second, third = s[..., :4], s[..., 4:8], s[..., 8:]
    scales = xp.concat([first % 64, third % 16 + first // 64 * 16], axis=-1)
    least = xp.concat([second % 64, third // 16 + second // 64 * 16], axis=-1)
    fifth = xp.expand_dims(high, axis=-2) // xp.asarray([[2**i] for i in range(8)], dtype=b.dtype) % 2
    q = xp.reshape(_halves(xp, low), (*b.shape[:-1], 8, 32)) + 16 * fifth
    scales, least = (xp.astype(v, xp.float32) for v in (scales, least))
    scales, least = scales * _half(xp, b[..., :2]), least * _half(xp, b[..., 2:4])
    return _scaled(xp, q, scales) - _scaled(xp, xp.ones_like(q), least)


def _q6_k(xp: Namespace, b: Array) -> Array:
    low = xp.reshape(b[..., :128], (*b.shape[:-1], 2, 64))
    high = xp.reshape(b[..., 128:192], (*b.shape[:-1], 2, 1, 32))
    high = high // xp.asarray([[4**i] for i in range(4)], dtype=b.dtype) % 4
    q = xp.reshape(_halves(xp, low), high.shape) + 16 * high - 32
    scales = xp.astype(_signed(xp, b[..., 192:208]), xp.float32) * _half(xp, b[..., 208:])
    return _scaled(xp, q, scales)


def _iq4(xp: Namespace, q: Array) -> Array:
    return xp.reshape(xp.take(xp.asarray(IQ4, dtype=q.dtype), xp.reshape(q, (-1,)), axis=0), q.shape)


def _iq4_nl(xp: Namespace, b: Array) -> Array:
    return _scaled(xp, _iq4(xp, _halves(xp, b[..., 2:])), _half(xp, b[..., :2]))


def _iq4_xs(xp: Namespace, b: Array) -> Array:
    low = xp.reshape(xp.stack([b[..., 4:8] % 16, b[..., 4:8] // 16], axis=-1), (*b.shape[:-1], 8))
    high = xp.expand_dims(_bytes_as_number(xp, b[..., 2:4]), axis=-1)
    high = high // xp.asarray([4**i for i in range(8)], dtype=b.dtype) % 4
    scales = xp.astype(low + 16 * high - 32, xp.float32) * _half(xp, b[..., :2])
    q = _iq4(xp, _halves(xp, xp.reshape(b[..., 8:], (*b.shape[:-1], 8, 16))))
    return _scaled(xp, q, scales)


# GGML's types: the number of weights in a block, its bytes, and the block as weights.
GGML: dict[int, tuple[int, int, Callable[[Namespace, Array], Array]]] = {
    0: (1, 4, lambda xp, b: floats_of_bits(xp, _bytes_as_number(xp, b), 8, 23)),
    1: (1, 2, lambda xp, b: floats_of_bits(xp, _bytes_as_number(xp, b), 5, 10)),
    2: (32, 18, _q4_0),
    6: (32, 22, _q5_0),
    8: (32, 34, _q8_0),
    13: (256, 176, _q5_k),
    14: (256, 210, _q6_k),
    20: (32, 18, _iq4_nl),
    23: (256, 136, _iq4_xs),
    30: (1, 2, lambda xp, b: floats_of_bits(xp, _bytes_as_number(xp, b), 8, 7)),
}

BFLOAT16 = dtypes.by_name("bfloat16")


@op("GatherPacked", domain=MS, any_dtype=True, results=("output_dtype",))
def gather_packed(
    xp: Namespace,
    data: Array,
    indices: Array,
    *,
    K: Int,
    output_dtype: DType = BFLOAT16,
    packed_type: Int,
) -> Array:
    """Rows of a table of GGML's blocks (rows, bytes) as `K` numbers each; row 0 for an index out of range.

    `packed_type` is GGML's: F32, F16, BF16, Q4_0, Q5_0, Q8_0, Q5_K, Q6_K, IQ4_NL, IQ4_XS. Raises ValueError for others,
    and where the bytes are not those of `K` numbers.
    """
    one_of("packed_type", packed_type, *GGML)
    block, size, unpack = GGML[packed_type]
    if K < 1 or K % block:
        raise ValueError(f"K {K} must be a multiple of the {block} numbers of a block")
    require_shape("data", data, data.shape[0], K // block * size)
    index = xp.reshape(xp.astype(indices, xp.int64), (-1,))
    index = xp.where((index >= 0) & (index < data.shape[0]), index, xp.zeros_like(index))
    rows = xp.reshape(xp.take(data, index, axis=0), (index.shape[0], K // block, size))
    y = xp.reshape(unpack(xp, xp.astype(rows, xp.int64)), (*indices.shape, K))
    return xp.astype(y, xp.dtype(output_dtype))
