"""Convolutions by oneDNN's own operators: weights in its layout, made once, images with channels last in memory.

torch keeps these operators for what inductor compiles. They have no derivatives, so they serve sessions alone, on the
CPU. What follows a convolution is done in place: oneDNN's own epilogues make 0 of NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from ortlite.derived import at_once
from ortlite.namespace import Namespace
from ortlite.ops.conv import fitting_windows
from ortlite_torch.primitives import differentiated

__all__ = ["OVERRIDES"]

onednn: Any = torch.ops.mkldnn
HERE = torch.backends.mkldnn.is_available() and all(
    hasattr(onednn, name) for name in ("_convolution_pointwise", "_reorder_convolution_weight")
)


class Packings:
    """Weights in the layouts that oneDNN wants for images of some sizes: of another size they are slow by far."""

    KEPT = 4  # sizes

    def __init__(self, W: Any, *geometry: Any):
        self.weights, self.geometry = W, geometry
        self.made: dict[tuple[int, int], Any] = {}

    def of(self, height: int, width: int) -> Any:
        """The weights for one size, kept while few others come up."""
        packed = self.made.get((height, width))
        if packed is None:
            W, groups = self.weights, self.geometry[-1]
            like = [1, W.shape[1] * groups, height, width]
            packed = onednn._reorder_convolution_weight(W, *self.geometry, like)  # noqa: SLF001
            while len(self.made) >= self.KEPT:
                self.made.pop(next(iter(tuple(self.made))), None)  # other threads may do so, too
            self.made[height, width] = packed
        return packed


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
    if not _fits(X, W, B):
        return NotImplemented
    steps, gaps, around = fitting_windows(X.shape, W.shape, group, kernel_shape, strides, dilations, pads, auto_pad)
    both = [min(pair) for pair in around]
    if min(both) < 0:
        return NotImplemented
    rest = [(lo - b, hi - b) for b, (lo, hi) in zip(both, around, strict=True)]
    if any(map(any, rest)):
        X = F.pad(X, [n for pair in reversed(rest) for n in pair])
    geometry = tuple(both), tuple(steps), tuple(gaps), group
    packed = derived(Packings, W, *geometry).of(X.shape[2], X.shape[3])
    X = X.contiguous(memory_format=torch.channels_last)
    return onednn._convolution_pointwise(X, packed, B, *geometry, "none", [], "")  # noqa: SLF001


def _fits(X: Any, W: Any, B: Any) -> bool:
    kinds = {tensor.dtype for tensor in (X, W, B) if tensor is not None}
    return (
        HERE
        and kinds == {torch.float32}
        and X.ndim == W.ndim == 4
        and X.device.type == "cpu"
        and 0 not in X.shape
        and 0 not in W.shape
        and (B is None or tuple(B.shape) == (W.shape[0],))
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not differentiated(X, W, B)
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
}

OVERRIDES: dict[tuple[str, str, int], Callable[..., Any]] = {
    ("", "Conv", 1): conv,
    ("com.microsoft", "FusedConv", 1): fused_conv,
}
