"""Weights of a product in 2, 4 or 8 bits, block by block, as MatMulNBits and DequantizeLinear read them.

These are the functions of onnxruntime's compiled module that its quantisation tools, which are Python, call:
`quantize_matmul_4bits(packed, weights, scales, zero_points, block_size, N, K, symmetric)` writes to its first,
third and fourth arguments. Along K every `block_size` numbers of a column share a scale and a zero point.
"""

from __future__ import annotations

from functools import partial

import numpy as np

__all__ = [
    "quantize_matmul_2bits", "quantize_matmul_4bits", "quantize_matmul_8bits", "quantize_qdq_matmul_4bits",
]  # fmt: skip


def _quantize(
    bits: int,
    packed: np.ndarray,
    weights: np.ndarray,
    scales: np.ndarray,
    zero_points: np.ndarray,
    block_size: int,
    N: int,
    K: int,
    symmetric: bool,
) -> None:
    """Quantise `weights [K, N]`: `packed [N, blocks, bytes]`, `scales [N, blocks]`, `zero_points [N, bytes]`."""
    found, scale, zero = _blocks(bits, weights, block_size, symmetric, scales.dtype)
    found.reshape(N, -1)[:, K + -K % (8 // bits) :] = 0  # bytes that hold nothing
    packed[...] = _packed(found, bits).reshape(packed.shape)
    scales[...] = scale.reshape(scales.shape)
    if not symmetric:
        zero_points[...] = _packed(zero, bits, 2 ** (bits - 1)).reshape(zero_points.shape)


def quantize_qdq_matmul_4bits(
    packed: np.ndarray,
    weights: np.ndarray,
    scales: np.ndarray,
    zero_points: np.ndarray,
    block_size: int,
    N: int,
    K: int,
    symmetric: bool,
) -> bool:
    """The same for DequantizeLinear, in whose tensors rows follow each other. Returns whether numbers have signs."""
    found, scale, zero = _blocks(4, weights, block_size, symmetric, scales.dtype)
    rows = found.reshape(N, -1)[:, :K].T
    packed[...] = _packed((rows ^ 8 if symmetric else rows).reshape(-1), 4).reshape(packed.shape)
    scales[...] = scale.T.reshape(scales.shape)
    if not symmetric:
        zero_points[...] = _packed(zero.T.reshape(-1), 4).reshape(zero_points.shape)
    return bool(symmetric)


def _blocks(
    bits: int, weights: np.ndarray, block_size: int, symmetric: bool, kept: np.dtype
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The numbers `[N, blocks, block_size]`, their scales and zero points `[N, blocks]`; scales are kept as `kept`.

    Symmetric: the number of largest size becomes the lowest, and the zero points, all in the middle, are not written.
    """
    (rows, columns), top, middle = weights.shape, 2**bits - 1, 2 ** (bits - 1)
    blocks = -(-rows // block_size)
    values = np.zeros((blocks * block_size, columns), np.float32)
    values[:rows] = weights
    values = np.ascontiguousarray(values.T).reshape(columns, blocks, block_size)
    low, high = values.min(-1), values.max(-1)
    if symmetric:
        scale = np.where(np.abs(high) > np.abs(low), high, low) / np.float32(-middle)
        zero = np.full(scale.shape, middle, np.float32)
    else:
        low, high = np.minimum(low, 0), np.maximum(high, 0)
        scale = (high - low) / np.float32(top)
        zero = np.clip(_round(np.divide(-low, scale, out=np.zeros_like(low), where=scale != 0)), 0, top)
        scale = scale.astype(kept).astype(np.float32)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
    found = np.clip(_round(values * inverse[..., None] + zero[..., None]), 0, top)
    return found.astype(np.uint8), scale, zero.astype(np.uint8)


def _round(values: np.ndarray) -> np.ndarray:
    """Half away from zero, as C does."""
    rounded: np.ndarray = np.copysign(np.floor(np.abs(values) + np.float32(0.5)), values)
    return rounded


def _packed(values: np.ndarray, bits: int, rest: int = 0) -> np.ndarray:
    """Numbers of `bits` along the last axis in bytes, the first one lowest; the last byte is filled up with `rest`."""
    each = 8 // bits
    full = np.full((*values.shape[:-1], -(-values.shape[-1] // each), each), rest, np.uint8)
    full.reshape(*values.shape[:-1], -1)[..., : values.shape[-1]] = values
    together: np.ndarray = np.bitwise_or.reduce(full << (bits * np.arange(each, dtype=np.uint8)), axis=-1)
    return together


quantize_matmul_2bits = partial(_quantize, 2)
quantize_matmul_4bits = partial(_quantize, 4)
quantize_matmul_8bits = partial(_quantize, 8)
