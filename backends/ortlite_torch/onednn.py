"""Convolutions by oneDNN's own operators: weights in its layout, made once, images with channels last in memory.

torch keeps these operators for what inductor compiles. They have no derivatives, so they serve sessions alone, on the
CPU. oneDNN adds a residual on the way, and does SiLU. Its Relu and bounds make numbers of NaN: on the way where none
can be (`reach`), else afterwards, in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import copysign, inf, prod
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import torch
import torch.nn.functional as F

from ortlite.derived import at_once, lasting
from ortlite.namespace import Namespace
from ortlite.ops.contrib.fused import parameters
from ortlite.ops.conv import fitting_windows
from ortlite_torch import reach
from ortlite_torch.primitives import differentiated
from ortlite_torch.record import opaque
from ortlite_torch.threads import fit

__all__ = ["OVERRIDES"]

onednn: Any = torch.ops.mkldnn
WIDE = 1 << 18  # elements of a result from which on a product gains by what oneDNN does on the way
LIGHT = 25_000_000  # operations of a 1 x 1 convolution: oneDNN's spends 30 microseconds before it begins
SPOT = 1 << 16  # elements of images that are padded sooner than a frame is written
HERE = torch.backends.mkldnn.is_available() and all(
    hasattr(onednn, name)
    for name in (
        "_convolution_pointwise", "_reorder_convolution_weight", "_linear_pointwise", "_reorder_linear_weight",
    )
)  # fmt: skip
convolution: Any = onednn._convolution_pointwise.default if HERE else None  # noqa: SLF001
convolution_and_sum: Any = onednn._convolution_pointwise.binary if HERE else None  # noqa: SLF001
linear: Any = onednn._linear_pointwise.default if HERE else None  # noqa: SLF001
layout: Any = getattr(onednn, "_get_mkldnn_serialized_md", None)  # as bytes, some of which mean nothing
CHANNELS_LAST = torch.channels_last
watched: Callable[[], int] = torch._C._len_torch_dispatch_stack  # noqa: SLF001  (modes that note every operator)


class Kept:
    """What `make(size)` gives, such as weights in the layout that oneDNN wants for images of a size.

    It is kept while few others come up; several sizes may have the same.
    """

    KEPT = 4  # of them
    SIZES = 64

    def __init__(self, make: Callable[[Any], Any]):
        self.make = make
        self.made: dict[Any, Any] = {}

    def of(self, size: Any) -> Any:
        """What is made for one size."""
        made = self.made.get(size)
        if made is None:
            made = self.made[size] = self.make(size)
            while len(held := tuple(self.made.items())) > self.SIZES or len({id(one) for _, one in held}) > self.KEPT:
                self.made.pop(held[0][0], None)  # other threads may do so, too
        return made


def _images(X: Any) -> int:
    """How many images there are, or a power of two below: more of them have the same layout, and packing takes time."""
    images: int = X.shape[0]
    return 1 << max(images.bit_length() - 1, 0)


def packings(W: Any, cut: Callable[[Any], Any] | None, *geometry: Any) -> Kept:
    """The weights of a convolution in the layouts for so many images of some sizes; those of one layout share it.

    In the layout for others, one image or several, oneDNN turns the weights at every call, which may take longer than
    the convolution.
    """
    W = W if cut is None else cut(W)
    alike: WeakValueDictionary[bytes, Any] = WeakValueDictionary()

    def packed(size: tuple[int, ...]) -> Any:
        count, *places = size
        made = onednn._reorder_convolution_weight(W, *geometry, [count, W.shape[1] * geometry[-1], *places])  # noqa: SLF001
        return made if layout is None else alike.setdefault(layout(made).numpy().tobytes(), made)

    return Kept(packed)


def led_by_zeros(W: Any, ahead: tuple[int, int], behind: tuple[int, int], *geometry: Any) -> Kept:
    """The same of weights that have so many rows and columns of zeros before and behind them."""
    return packings(F.pad(W, (ahead[1], behind[1], ahead[0], behind[0])), None, *geometry)


def packed_points(W: Any) -> Any:
    """The weights of single elements as the matrix of a product."""
    return onednn._reorder_linear_weight(W.reshape(W.shape[:2]).contiguous(), None)  # noqa: SLF001


def gain(W: Any) -> float:
    """What a convolution makes of numbers up to 1 in size, at most."""
    return float(W.abs().sum((1, 2, 3)).max())


def largest(B: Any) -> float:
    """What no bias exceeds in size."""
    return float(B.abs().max())


def inferring(*tensors: Any) -> bool:
    """Whether a session computes on the CPU in float32, of which nobody takes derivatives or makes a program."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or differentiated() or watched():
        return False
    return all(tensor is None or (tensor.dtype is torch.float32 and tensor.is_cpu) for tensor in tensors)


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


class After(NamedTuple):
    """What follows a convolution: something of its shape is added, then comes the activation."""

    sum: bool = False
    activation: str = ""
    params: tuple[float, ...] = ()

    def apply(self, y: Any, Z: Any) -> Any:
        """The same in place."""
        if self.sum:
            y.add_(Z)
        return ACTIVATIONS[self.activation](y, *self.params)

    def split(self, bounded: bool, *, products: bool = False, packed: bool = True) -> tuple[Any, After]:
        """What oneDNN calls the part that it does right on the way, and its parameters; and the rest.

        `bounded`: neither NaN nor infinity comes up.
        """
        if not packed:
            return (), self
        left = self if products else self._replace(sum=False)
        if not self.activation:
            return ("none", []), left if left.sum else NOTHING
        if self.activation == "QuickGelu" and self.params == (1.0,) and not self.sum:
            return ("swish", []), NOTHING
        if bounded and self.activation == "Relu" and not left.sum:
            return ("relu", []), NOTHING
        signed = any(p == 0 and copysign(1, p) < 0 for p in self.params)  # a bound of -0.0
        if bounded and self.activation == "Clip" and not self.sum and self.params[0] <= self.params[1] and not signed:
            return ("hardtanh", list(self.params)), NOTHING
        return ("none", []), left

    def bound(self) -> tuple[float, float, float]:
        """What no result exceeds if no sum exceeds b: b times the first, plus the second, at most the third."""
        if self.activation == "Clip":
            low, high = self.params
            return 1.0, max(low, -high, 0.0), max(abs(low), abs(high))
        return (max((1.0, *map(abs, self.params))), 1.0, inf) if self.activation else (1.0, 0.0, inf)


NOTHING = After()


def packed_convolution(
    X: Any,
    W: Any,
    B: Any,
    windows: tuple[Any, ...],
    derived: Any,
    cut: Callable[[Any], Any] | None = None,
    after: After = NOTHING,
    Z: Any = None,
) -> Any:
    """The same, of images and weights as `cut` makes them. `windows`: what fitting_windows takes behind the shapes."""
    if not _fits(X, W, B) or not (Z is None or inferring(Z)):
        return NotImplemented
    B = None if B is None else B.contiguous()  # oneDNN reads one number after the other, whatever lies between them
    group = windows[0]
    steps, gaps, around = fitting_windows(X.shape, W.shape, *windows)
    if min(map(min, around)) < 0:
        return NotImplemented
    shape = _shape(X, W, steps, gaps, around)
    if min(shape) < 1 or (Z is not None and tuple(Z.shape) != shape):
        return NotImplemented
    if cut is None and group == 1 and X.shape[2:] == W.shape[2:] and not any(map(any, around)) and max(gaps) == 1:
        # one place: oneDNN takes its slowest way there, milliseconds for 48 channels into 1152
        y = F.linear(X.reshape(X.shape[0], -1), W.reshape(W.shape[0], -1), B)
        return after.apply(y.reshape(X.shape[0], -1, 1, 1), Z)
    work = 2 * prod(shape) * prod(W.shape[1:])
    both = tuple(map(min, around))
    geometry = both, tuple(steps), tuple(gaps), group
    rest = [(lo - b, hi - b) for b, (lo, hi) in zip(both, around, strict=True)]
    framed = any(map(any, rest))
    products = cut is None and (geometry, framed) == POINTS and prod(W.shape[2:]) == 1 and work <= LIGHT
    if cut is not None or not all(b is None or lasting(derived, b) for b in (W, B)):
        X = (_padded(X, rest) if framed else X).contiguous(memory_format=CHANNELS_LAST)
        if products:
            return after.apply(_product(X, W.reshape(W.shape[:2]), B, None, fit(F.linear, work, X), ()), Z)
        X = X if cut is None else cut(X)
        packed = derived(packings, W, cut, *geometry).of((_images(X), *X.shape[2:]))
        return after.apply(fit(convolution, work, X)(X, packed, B, *geometry, "none", [], ""), Z)
    if products:
        large = prod(shape) >= WIDE and after.split(bounded=True, products=True)[0][0] != "none"
        weights = derived(packed_points, W) if large else W.reshape(W.shape[:2])
        call = fit(linear if large else F.linear, work, X)
        ways = [
            _Way(None, _product, weights, call, *after.split(sure, products=True, packed=large))
            for sure in (False, True)
        ]
    else:
        place = (*geometry, fit(convolution if Z is None else convolution_and_sum, work, X))
        size = _images(X), *(n + sum(pair) for n, pair in zip(X.shape[2:], rest, strict=True))
        weights = derived(packings, W, None, *geometry).of(size)
        ways = [_Way(rest if framed else None, _windows, weights, place, *after.split(sure)) for sure in (False, True)]
        if framed and (led := _led(W, geometry, around)) is not None:
            ahead, behind, *geometry = led
            weights = derived(led_by_zeros, W, ahead, behind, *geometry).of((_images(X), *X.shape[2:]))
            ways[1] = _Way(None, _windows, weights, (*geometry, place[-1]), *after.split(bounded=True))
    led = ways[1].rest != ways[0].rest
    gains = led or ways[0].name != ways[1].name
    if not gains and after.activation not in {"", "Relu", "Clip"}:  # behind which more may gain
        return ways[0](X, B, Z)
    most = X.numel() if led else prod(shape) if gains else 0
    found = _Bounded(ways[0], ways[1], derived(gain, W), 0.0 if B is None else derived(largest, B), most, after)
    return _bounded(found, X, B, Z)


POINTS = ((0, 0), (1, 1), (1, 1), 1), False


def _shape(X: Any, W: Any, steps: Sequence[int], gaps: Sequence[int], around: Sequence[tuple[int, int]]) -> Any:
    """That of the result."""
    places = zip(X.shape[2:], W.shape[2:], steps, gaps, around, strict=True)
    return X.shape[0], W.shape[0], *((n + sum(p) - d * (k - 1) - 1) // s + 1 for n, k, s, d, p in places)


def _led(W: Any, geometry: Any, around: Sequence[tuple[int, int]]) -> Any:
    """Rows and columns of zeros before and behind weights that make the zeros around an image the same on both sides.

    Of a convolution channel by channel they take no time, and save a copy of the image in a frame. But zero times
    infinity is NaN. The geometry comes with them.
    """
    _, steps, gaps, group = geometry
    if group != W.shape[0]:
        return None
    wide = tuple(map(max, around))
    missing = [(p - lo, p - hi) for p, (lo, hi) in zip(wide, around, strict=True)]
    if any(n % d for d, pair in zip(gaps, missing, strict=True) for n in pair):
        return None
    ahead = tuple(lo // d for d, (lo, _) in zip(gaps, missing, strict=True))
    behind = tuple(hi // d for d, (_, hi) in zip(gaps, missing, strict=True))
    return ahead, behind, wide, steps, gaps, group


class _Way:
    """How a convolution is computed: what oneDNN does of what follows it, and what is left."""

    __slots__ = ("call", "left", "name", "place", "rest", "tail", "weights")

    def __init__(self, rest: Any, call: Any, weights: Any, place: Any, name: Any, left: After):
        self.rest, self.call, self.weights, self.place, self.name, self.left = rest, call, weights, place, name, left
        self.tail = (*place[:-1], *name, "") if call is _windows else ()

    def __call__(self, X: Any, B: Any, Z: Any) -> Any:
        if self.rest is not None:
            X = _padded(X, self.rest)
        X = X.contiguous(memory_format=CHANNELS_LAST)
        if Z is None and self.tail:
            y = self.place[-1](X, self.weights, B, *self.tail)
        else:
            y = self.call(X, self.weights, B, Z, self.place, self.name)
        return y if self.left is NOTHING else self.left.apply(y, Z)


def _windows(X: Any, weights: Any, B: Any, Z: Any, place: Any, name: tuple[str, list[float]]) -> Any:
    """A convolution by oneDNN, the sum with Z, and what it does on the way behind it."""
    *geometry, call = place
    unary = (None, [], None) if name[0] == "none" else (*name, None)
    return call(X, Z.contiguous(memory_format=CHANNELS_LAST), weights, B, *geometry, "add", 1.0, *unary)


def _product(X: Any, weights: Any, B: Any, Z: Any, call: Any, name: Any) -> Any:
    """The same of single elements, as a product with the matrix of weights: by torch's or, with a name, by oneDNN's."""
    rows = X.permute(0, 2, 3, 1)
    y = call(rows, weights, B, *name, "") if name else call(rows, weights, B)
    return y.permute(0, 3, 1, 2)


class _Bounded:
    """A convolution in two ways: of any numbers, and of those that make neither NaN nor infinity."""

    __slots__ = ("after", "any", "gain", "most", "shift", "some")

    def __init__(self, of_any: _Way, of_some: _Way, gain: float, shift: float, most: int, after: After):
        self.any, self.some = of_any, of_some
        self.gain, self.shift, self.most, self.after = gain, shift, most, after.bound()

    def bound(self, X: Any, Z: Any) -> float | None:
        """What no sum exceeds, as far as that is known or easily found out; of NaN and infinity there is no bound."""
        of_z, came = 0.0 if Z is None else reach.known(Z), reach.known(X) is not None
        of_x = None if of_z is None else reach.measured(X, self.most)
        if of_z is None or of_x is None:
            return None
        found = of_x * self.gain + self.shift + of_z
        if found > reach.MOST and came:  # it has come a long way
            found = reach.norm(X) * self.gain + self.shift + (0.0 if Z is None else reach.norm(Z))
        return found if found <= reach.MOST else None


@opaque
def _bounded(made: _Bounded, X: Any, B: Any, Z: Any) -> Any:
    if X.numel() > made.most and not hasattr(X, "ortlite_reach"):  # as in most models without bounds
        return made.any(X, B, Z)
    bound = made.bound(X, Z)
    if bound is None:
        return made.any(X, B, Z)
    y = made.some(X, B, Z)
    factor, more, most = made.after
    reach.know(y, min(bound * factor + more, most))
    return y


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
    """The same, then `Z` added and the activation."""
    if activation not in ACTIVATIONS:
        return NotImplemented
    windows = (group, kernel_shape, strides, dilations, pads, auto_pad)
    after = After(Z is not None, activation, tuple(map(float, parameters(activation, activation_params))))
    return packed_convolution(X, W, B, windows, derived, after=after, Z=Z)


ACTIVATIONS: dict[str, Any] = {
    "": lambda y: y,
    "Relu": torch.relu_,
    "Sigmoid": torch.sigmoid_,
    "Tanh": torch.tanh_,
    "LeakyRelu": F.leaky_relu_,
    "Clip": lambda y, low, high: y.clamp_(low, high),
    "HardSwish": lambda y: y.mul_(F.hardsigmoid(y)),  # F.hardswish makes infinity of 1e38
    "QuickGelu": lambda y, alpha: F.silu(y, inplace=True) if alpha == 1 else y.mul_(torch.sigmoid(alpha * y)),
}

OVERRIDES: dict[tuple[str, str, int], Callable[..., Any]] = {
    ("", "Conv", 1): conv,
    ("com.microsoft", "FusedConv", 1): fused_conv,
}
