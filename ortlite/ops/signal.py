"""Fourier transforms and what surrounds them. Complex numbers are pairs along a last axis."""

from __future__ import annotations

from math import log10, pi

from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array, DType, Flag, Float, Int
from ortlite.ops.helpers import normal_axis
from ortlite.ops.registry import op
from ortlite.ops.types import attribute_dtype


def _complex(xp: Namespace, x: Array) -> Array:
    """Pairs, or single real parts, as complex numbers; the last axis goes."""
    dtype = xp.complex128 if xp.dtype_name(x.dtype) == "float64" else xp.complex64
    real = xp.astype(x[..., 0], dtype)
    return real if x.shape[-1] == 1 else real + xp.astype(x[..., 1], dtype) * 1j


def _transform(xp: Namespace, x: Array, length: int | None, axis: int, inverse: int, onesided: int) -> Array:
    """The Fourier transform of pairs; see dft."""
    if not 1 <= x.shape[-1] <= 2:
        raise ValueError(f"the last axis holds a real part or a pair, not {x.shape[-1]} numbers")
    axis = normal_axis(axis, x.ndim)
    if axis == x.ndim - 1:
        raise ValueError(f"axis {axis} is the one of real and imaginary parts")
    if inverse and onesided:
        n = 2 * (x.shape[axis] - 1) if length is None else length
        return xp.expand_dims(xp.fft.irfft(_complex(xp, x), n=n, axis=axis), axis=-1)
    if x.shape[-1] == 1 and not inverse:
        y = xp.fft.rfft(x[..., 0], n=length, axis=axis)
        n = x.shape[axis] if length is None else length
        if not onesided:  # the other half mirrors this one
            before = (slice(None),) * axis
            mirrored = xp.conj(xp.flip(y[(*before, slice(1, (n + 1) // 2), ...)], axis=axis))
            y = xp.concat([y, mirrored], axis=axis)
    else:
        y = (xp.fft.ifft if inverse else xp.fft.fft)(_complex(xp, x), n=length, axis=axis)
        if onesided:
            y = y[(*(slice(None),) * axis, slice(0, y.shape[axis] // 2 + 1), ...)]
    return xp.stack([xp.real(y), xp.imag(y)], axis=-1)


@op("DFT", since=20, needs=("fft",))
def dft(
    xp: Namespace,
    input: Array,
    dft_length: Int | None = None,
    axis: Int = -2,
    *,
    inverse: Flag = 0,
    onesided: Flag = 0,
) -> Array:
    """The discrete Fourier transform along `axis` of (..., 1) real or (..., 2) complex numbers, as (..., 2).

    The signal is cropped or padded with zeros to `dft_length`. `onesided` returns the frequencies up to the middle;
    with `inverse` it takes those and returns real numbers (..., 1). Raises ValueError for an axis that it has not.
    """
    return _transform(xp, input, dft_length, axis, inverse, onesided)


@op("DFT", since=17, needs=("fft",))
def dft_17(
    xp: Namespace,
    input: Array,
    dft_length: Int | None = None,
    *,
    axis: Int = 1,
    inverse: Flag = 0,
    onesided: Flag = 0,
) -> Array:
    """DFT whose axis is by default the first after the batch."""
    return _transform(xp, input, dft_length, axis, inverse, onesided)


@op("STFT", since=17, needs=("fft",))
def stft(
    xp: Namespace,
    signal: Array,
    frame_step: Int,
    window: Array | None = None,
    frame_length: Int | None = None,
    *,
    onesided: Flag = 1,
) -> Array:
    """Fourier transforms of windows of (batch, time, 1 or 2) signals, every `frame_step`: (batch, frames, bins, 2).

    Raises ValueError for a window that is not of `frame_length` or longer than the signal.
    """
    if signal.ndim == 2:  # real files leave the axis of parts out
        signal = xp.expand_dims(signal, axis=-1)
    batch, time, parts = signal.shape
    length = frame_length or (time if window is None else window.shape[0])
    if (window is not None and window.shape[0] != length) or length > time or frame_step < 1:
        raise ValueError(
            f"frames of {length} every {frame_step} do not fit a signal of {time} samples"
            + ("" if window is None else f" and a window of {window.shape[0]}")
        )
    frames = (time - length) // frame_step + 1
    starts = xp.expand_dims(xp.arange(frames, dtype=xp.int64) * frame_step, axis=1)
    indices = xp.reshape(starts + xp.arange(length, dtype=xp.int64), (-1,))
    x = xp.reshape(xp.take(signal, indices, axis=1), (batch, frames, length, parts))
    if window is not None:
        x = x * xp.expand_dims(window, axis=1)
    return _transform(xp, x, None, 2, 0, onesided)


def _cosines(xp: Namespace, size: int, periodic: int, weights: tuple[float, ...], dtype: DType | None) -> Array:
    """A window of `size`: the sum of weighted cosines of 0, 1, 2... periods; a symmetric one of size 1 is 1."""
    period = size if periodic else size - 1
    if not period:
        y = xp.ones((size,), dtype=xp.float64)
    else:
        n = xp.arange(size, dtype=xp.float64)
        y = xp.full((size,), weights[0], dtype=xp.float64)
        for k, weight in enumerate(weights[1:], 1):
            y = y + xp.cos(n * (2 * pi * k / period)) * weight
    return xp.astype(y, xp.float32 if dtype is None else xp.dtype(dtype))


@op("HannWindow", since=17, types=attribute_dtype("output_datatype", "float32"), needs=("float64",))
def hann_window(xp: Namespace, size: Int, *, output_datatype: DType | None = None, periodic: Flag = 1) -> Array:
    """Half a raised cosine of `size` samples; `periodic` leaves out the last sample of a symmetric one."""
    return _cosines(xp, size, periodic, (0.5, -0.5), output_datatype)


@op("HammingWindow", since=17, types=attribute_dtype("output_datatype", "float32"), needs=("float64",))
def hamming_window(xp: Namespace, size: Int, *, output_datatype: DType | None = None, periodic: Flag = 1) -> Array:
    """Hamming's window with the weights 25/46 and 21/46."""
    return _cosines(xp, size, periodic, (25 / 46, -21 / 46), output_datatype)


@op("BlackmanWindow", since=17, types=attribute_dtype("output_datatype", "float32"), needs=("float64",))
def blackman_window(xp: Namespace, size: Int, *, output_datatype: DType | None = None, periodic: Flag = 1) -> Array:
    """Blackman's window with the weights 0.42, 0.5 and 0.08."""
    return _cosines(xp, size, periodic, (0.42, -0.5, 0.08), output_datatype)


@op("MelWeightMatrix", since=17, types=attribute_dtype("output_datatype", "float32"), needs=("float64",))
def mel_weight_matrix(
    xp: Namespace,
    num_mel_bins: Int,
    dft_length: Int,
    sample_rate: Int,
    lower_edge_hertz: Float,
    upper_edge_hertz: Float,
    *,
    output_datatype: DType | None = None,
) -> Array:
    """Triangles of height 1, evenly spaced in mel, over the bins of a onesided spectrum: (bins, num_mel_bins)."""
    low, high = (2595 * log10(1 + edge / 700) for edge in (lower_edge_hertz, upper_edge_hertz))
    step = (high - low) / (num_mel_bins + 2)
    hertz = [700 * (10 ** ((low + i * step) / 2595) - 1) for i in range(num_mel_bins + 2)]
    edges = xp.asarray([(dft_length + 1) * f // sample_rate for f in hertz], dtype=xp.float64)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    bins = xp.expand_dims(xp.arange(dft_length // 2 + 1, dtype=xp.float64), axis=1)
    one = xp.ones_like(left)
    rising = xp.where(centre > left, (bins - left) / xp.where(centre > left, centre - left, one), one)
    falling = (right - bins) / xp.where(right > centre, right - centre, one)
    zero = xp.zeros_like(rising)
    weights = xp.where((bins >= left) & (bins <= centre), rising, zero)
    weights = xp.where((bins > centre) & (bins < right), falling, weights)
    return xp.astype(weights, xp.float32 if output_datatype is None else xp.dtype(output_datatype))
