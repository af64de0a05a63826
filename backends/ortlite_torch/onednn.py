"""Convolutions by oneDNN's own operators: weights in its layout, made once, images with channels last in memory.

torch keeps these operators for what inductor compiles. They have no derivatives, so they serve sessions alone, on the
CPU. What follows a convolution is done in place: oneDNN's own epilogues make 0 of NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F

from ortlite.derived import at_once
from ortlite.namespace import Namespace
from ortlite.ops.conv import fitting_windows
from ortlite_torch.primitives import differentiated
from ortlite_torch.threads import fit

__all__ = ["OVERRIDES"]

onednn: Any = torch.ops.mkldnn
LIGHT = 25_000_000  # operations of a 1 x 1 convolution: oneDNN's spends 30 microseconds before it begins
SPOT = 1 << 16  # elements of images that are padded sooner than a frame is written
HERE = torch.backends.mkldnn.is_available() and all(
    hasattr(onednn, name) for name in ("_convolution_pointwise", "_reorder_convolution_weight")
)
convolution: Any = onednn._convolution_pointwise.default if HERE else None  # noqa: SLF001


class Kept:
    """What `make(size)` gives, such as weights in the layout that oneDNN wants for images of a size.

    It is kept while few other sizes come up.
    """

    KEPT = 4  # sizes

    def __init__(self, make: Callable[[Any], Any]):
        self.make = make
        self.made: dict[Any, Any] = {}

    def of(self, size: Any) -> Any:
        """What is made for one size."""
        made = self.made.get(size)
        if made is None:
            made = self.make(size)
            while len(self.made) >= self.KEPT:
                self.made.pop(next(iter(tuple(self.made))), None)  # other threads may do so, too
            self.made[size] = made
        return made


def packings(W: Any, cut: Callable[[Any], Any] | None, *geometry: Any) -> Kept:
    """The weights of a convolution in the layouts for images of some sizes: of another size they are slow by far."""
    W = W if cut is None else cut(W)
    return Kept(
        lambda size: onednn._reorder_convolution_weight(W, *geometry, [1, W.shape[1] * geometry[-1], *size])  # noqa: SLF001
    )


def inferring(*tensors: Any) -> bool:
    """Whether a session computes on the CPU in float32, of which nobody takes derivatives or makes a program."""
    given = [tensor for tensor in tensors if tensor is not None]
    return (
        {tensor.dtype for tensor in given} == {torch.float32}
        and given[0].device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not differentiated(*given)
    )


def conv(
    xp: Namespace,
    X: Any,
    W: Any,
    B: Any = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: tuple[int, ...] | None = None,
    group: int = 1,
    kernel_shape: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
    derived: Any = at_once,
) -> Any:
    """A convolution of images of float32."""
    windows = (group, kernel_shape, strides, dilations, pads, auto_pad)
    return packed_convolution(X, W, B, windows, derived)


def packed_convolution(
    X: Any, W: Any, B: Any, windows: tuple[Any, ...], derived: Any, cut: Callable[[Any], Any] | None = None
) -> Any:
    """The same, of images and weights as `cut` makes them. `windows`: what fitting_windows takes behind the shapes."""
    if not _fits(X, W, B):
        return NotImplemented
    group = windows[0]
    steps, gaps, around = fitting_windows(X.shape, W.shape, *windows)
    both = [min(pair) for pair in around]
    if min(both) < 0:
        return NotImplemented
    rest = [(lo - b, hi - b) for b, (lo, hi) in zip(both, around, strict=True)]
    if any(map(any, rest)):
        X = _padded(X, rest)
    if cut is None and group == 1 and X.shape[2:] == W.shape[2:] and not any(both) and max(gaps) == 1:
        # one place: oneDNN takes its slowest way there, milliseconds for 48 channels into 1152
        return F.linear(X.reshape(X.shape[0], -1), W.reshape(W.shape[0], -1), B).reshape(X.shape[0], -1, 1, 1)
    geometry = tuple(both), tuple(steps), tuple(gaps), group
    work = 2 * X.shape[0] * prod(W.shape) * prod(X.shape[2:]) // prod(steps)
    X = (X if cut is None else cut(X)).contiguous(memory_format=torch.channels_last)
    if cut is None and work <= LIGHT and W.shape[2:] == (1, 1) and geometry == ((0, 0), (1, 1), (1, 1), 1):
        y = fit(F.linear, work, X)(X.permute(0, 2, 3, 1), W.reshape(W.shape[:2]), B)
        return y.permute(0, 3, 1, 2)
    packed = derived(packings, W, cut, *geometry).of((X.shape[2], X.shape[3]))
    return fit(convolution, work, X)(X, packed, B, *geometry, "none", [], "")


def _padded(X: Any, around: Sequence[tuple[int, int]]) -> Any:
    """The images in a frame of zeros, with channels last: F.pad writes all of it twice."""
    (top, bottom), (left, right) = around
    if X.numel() <= SPOT or min(top, bottom, left, right) < 0:
        return F.pad(X, (left, right, top, bottom))
    (count, channels, height, width), (tall, wide) = X.shape, (X.shape[2] + top + bottom, X.shape[3] + left + right)
    y = torch.empty((count, channels, tall, wide), dtype=X.dtype, memory_format=torch.channels_last)
    for axis, start, size in ((2, 0, top), (2, top + height, bottom), (3, 0, left), (3, left + width, right)):
        if size:
            torch.narrow(y, axis, start, size).zero_()
    torch.narrow(torch.narrow(y, 2, top, height), 3, left, width).copy_(X)
    return y


def _fits(X: Any, W: Any, B: Any) -> bool:
    return (
        HERE
        and X.ndim == W.ndim == 4
        and inferring(X, W, B)
        and 0 not in X.shape
        and 0 not in W.shape
        and (B is None or tuple(B.shape) == (W.shape[0],))
    )


def fused_conv(
    xp: Namespace,
    X: Any,
    W: Any,
    B: Any = None,
    Z: Any = None,
    *,
    activation: str = "",
    activation_params: Sequence[float] | None = None,
    auto_pad: str = "NOTSET",
    dilations: tuple[int, ...] | None = None,
    group: int = 1,
    kernel_shape: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
    derived: Any = at_once,
) -> Any:
    """The same, then `Z` added and the activation, in place."""
    if activation not in ACTIVATIONS:
        return NotImplemented
    y = conv(
        xp, X, W, B, auto_pad=auto_pad, dilations=dilations, group=group, kernel_shape=kernel_shape, pads=pads,
        strides=strides, derived=derived,
    )  # fmt: skip
    if y is NotImplemented or (Z is not None and (Z.shape != y.shape or Z.dtype != y.dtype)):
        return NotImplemented
    if Z is not None:
        y.add_(Z)
    return ACTIVATIONS[activation](y, *(activation_params or ()))


ACTIVATIONS: dict[str, Any] = {
    "": lambda y: y,
    "Relu": torch.relu_,
    "Sigmoid": torch.sigmoid_,
    "Tanh": torch.tanh_,
    "LeakyRelu": lambda y, alpha=0.01: F.leaky_relu_(y, alpha),
    "Clip": lambda y, low, high: y.clamp_(low, high),
    "HardSwish": lambda y: y.mul_(F.hardsigmoid(y)),  # F.hardswish makes infinity of 1e38
    "QuickGelu": lambda y, alpha: F.silu(y, inplace=True) if alpha == 1 else y.mul_(torch.sigmoid(alpha * y)),
}

OVERRIDES: dict[tuple[str, str, int], Callable[..., Any]] = {
    ("", "Conv", 1): conv,
    ("com.microsoft", "FusedConv", 1): fused_conv,
}
