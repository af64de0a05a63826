"""Products with weights of 4 bits that are packed in other ways than MatMulNBits has them."""

from __future__ import annotations

from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array, Flag, Int, Ints
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
    w = xp.reshape(w, (N, K))
    return xp.astype(matrix_product(xp, wide(xp, A), w.T if transB else w), A.dtype)


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
