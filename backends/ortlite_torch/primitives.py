"""Primitives that PyTorch has itself, with the signatures of the defaults in `ortlite.primitives`.

Nothing here looks at values or names a device: all of it can be differentiated, vmapped and compiled, on any device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import wraps
from math import isfinite, prod
from types import SimpleNamespace
from typing import Any

import array_api_compat.torch
import torch
import torch.nn.functional as F
from torch._subclasses import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _disable_current_modes, is_in_torch_dispatch_mode
from torch.utils._pytree import tree_flatten, tree_unflatten

from ortlite import primitives as default
from ortlite.namespace import Namespace, complete
from ortlite_torch import threads
from ortlite_torch.record import opaque

Pads = Sequence[tuple[int, int]]

compat: Any = array_api_compat.torch
functorch: Any = torch._C._functorch  # noqa: SLF001  (torch has no public name for it)
CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
SUM_POOL = {2: F.avg_pool2d, 3: F.avg_pool3d}
REDUCE = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
BORDERS = {"edge": "replicate", "reflect": "reflect"}
QUOTIENTS = {torch.float32: 126, torch.bfloat16: 126, torch.float64: 1022}  # dtypes in which they overflow; exponents
FEW = 64  # elements that Python compares faster than torch
KEYED = {torch.float32, torch.int8, torch.int16, torch.int32, torch.uint8}


def bit_view(xp: Namespace, x: Any, dtype: Any) -> Any:
    """The bits of `x` as another dtype of the same width."""
    return x.view(dtype)


def forwards() -> bool:
    """Whether somebody takes derivatives forwards."""
    level: int = forward_ad._current_level  # noqa: SLF001  (torch has no public name for it)
    return level >= 0


def differentiated(*tensors: Any) -> bool:
    """Whether somebody takes, or may later take, derivatives by one of `tensors`, which can be None."""
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors):
        return True
    return forwards() or torch._C._are_functorch_transforms_active()  # noqa: SLF001  (torch has no public name for it)


def _around(x: Any, pads: Sequence[tuple[int, int]], value: float = 0) -> Any:
    """The last axes of `x` padded, or cropped by negative pads."""
    return F.pad(x, [n for pair in reversed(list(pads)) for n in pair], value=value) if any(map(any, pads)) else x


def _fits(x: Any, size: Sequence[int], ranks: Any) -> bool:
    """Whether torch's windowed functions take `x`: they want floats, and something of everything."""
    return len(size) in ranks and x.dtype.is_floating_point and 0 not in x.shape


def _channels_last(x: Any) -> bool:
    """Whether images have their channels last in memory, and only so."""
    return x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def _own_padding(size: Sequence[int], pads: Pads) -> list[int] | None:
    """What torch's pools can pad by themselves: the same on both sides, up to half a window."""
    fits = all(lo == hi and 0 <= lo <= k // 2 for k, (lo, hi) in zip(size, pads, strict=True))
    return [lo for lo, _ in pads] if fits else None


def conv(
    xp: Namespace, x: Any, w: Any, *, strides: Sequence[int], pads: Pads, dilations: Sequence[int], groups: int = 1
) -> Any:
    """F.conv1d to F.conv3d; where the pads of an axis differ, the heavier side is padded beforehand."""
    size = w.shape[2:]
    windows = default.window.output_shape(x.shape[2:], size, strides, dilations, pads)
    if not _fits(x, size, CONV) or 0 in w.shape or 0 in windows:
        return NotImplemented
    both = [max(min(pair), 0) for pair in pads]
    x = _around(x, [(lo - b, hi - b) for b, (lo, hi) in zip(both, pads, strict=True)])
    return CONV[len(size)](x, w, None, tuple(strides), both, tuple(dilations), groups)


def conv_transpose(
    xp: Namespace, x: Any, w: Any, *, strides: Sequence[int], pads: Pads, dilations: Sequence[int], groups: int = 1
) -> Any:
    """F.conv_transpose1d to F.conv_transpose3d; the pads crop afterwards."""
    if not _fits(x, w.shape[2:], CONV) or 0 in w.shape:
        return NotImplemented
    y = CONV_TRANSPOSE[w.ndim - 2](x, w, None, tuple(strides), 0, 0, groups, tuple(dilations))
    return _around(y, [(-lo, -hi) for lo, hi in pads])


def max_pool(
    xp: Namespace,
    x: Any,
    size: Sequence[int],
    *,
    strides: Sequence[int],
    pads: Pads,
    dilations: Sequence[int],
    indices: bool = False,
) -> Any:
    """F.max_pool1d to F.max_pool3d; the default body where positions are asked for, and where it is faster.

    Where somebody differentiates, the first of equals has the derivative.
    """
    windows = default.window.output_shape(x.shape[2:], size, strides, dilations, pads)
    fits = _fits(x, size, MAX_POOL) and 0 not in windows
    picks = x.dtype.is_floating_point and differentiated(x)
    # torch's loops over images are slow on the CPU but for channels that are last; slices, reductions are vectorised
    slow = not picks and x.device.type == "cpu" and (len(size) > 1 or set(windows) == {1}) and not _channels_last(x)
    if picks and (indices or not fits):
        given: dict[str, Any] = {"strides": strides, "pads": pads, "dilations": dilations}
        where = default.window.max_pool(xp, x.detach(), size, indices=True, **given)[1] if indices else None
        return default.window.first_max_pool(xp, x, size, **given), where
    if indices or slow or not fits:
        return NotImplemented
    own = _own_padding(size, pads)
    x = _around(x, pads, float("-inf")) if own is None else x
    return MAX_POOL[len(size)](x, tuple(size), tuple(strides), own or 0, tuple(dilations)), None


def sum_pool(
    xp: Namespace, x: Any, size: Sequence[int], *, strides: Sequence[int], pads: Pads, dilations: Sequence[int]
) -> Any:
    """F.avg_pool2d and F.avg_pool3d with a divisor of 1; the default body where it is faster."""
    windows = default.window.output_shape(x.shape[2:], size, strides, dilations, pads)
    slow = x.device.type == "cpu"  # as in max_pool
    if slow or not _fits(x, size, SUM_POOL) or any(d != 1 for d in dilations) or 0 in windows:
        return NotImplemented
    own = _own_padding(size, pads)
    x = _around(x, pads) if own is None else x
    return SUM_POOL[len(size)](x, tuple(size), tuple(strides), own or 0, divisor_override=1)


def pad(xp: Namespace, x: Any, widths: Sequence[tuple[int, int]], mode: str = "constant", value: Any = 0) -> Any:
    """F.pad, which crops by negative widths too; borders that are copied where it has them, else by index."""
    if mode == "constant" and x.ndim and not isinstance(value, complex) and not hasattr(value, "shape"):
        return _around(x, widths, value)
    if (
        mode in BORDERS
        and x.dtype.is_floating_point
        and x.dtype.itemsize > 1
        and x.ndim in {3, 4, 5}
        and 0 not in x.shape
        and not any(map(any, widths[:2]))
        and all(w >= 0 and (w < n or mode == "edge") for n, pair in zip(x.shape, widths, strict=True) for w in pair)
    ):
        return F.pad(x, [n for pair in reversed(list(widths[2:])) for n in pair], BORDERS[mode])
    return NotImplemented


@complete
def erf(xp: Namespace, x: Any) -> Any:
    """torch.erf."""
    return torch.erf(x)


@complete
def relu(xp: Namespace, x: Any) -> Any:
    """torch.relu."""
    return torch.relu(x)


@complete
def leaky_relu(xp: Namespace, x: Any, slope: Any) -> Any:
    """F.leaky_relu; of an array of slopes by hand, whose derivative at 0 is the slope as well."""
    if not isinstance(slope, torch.Tensor):
        return F.leaky_relu(x, slope)
    return torch.where(x > 0, x, x * slope) if differentiated(x, slope) else torch.where(x < 0, x * slope, x)


@complete
def hardtanh(xp: Namespace, x: Any, low: float, high: float) -> Any:
    """F.hardtanh."""
    return F.hardtanh(x, low, high)


def root(xp: Namespace, x: Any, power: float = 0.5) -> Any:
    """Without a guard unless somebody takes derivatives."""
    if differentiated(x):
        return NotImplemented
    return torch.sqrt(x) if power == 0.5 else torch.pow(x, power)


@complete
def fmod(xp: Namespace, x: Any, y: Any) -> Any:
    """torch.fmod, with a remainder also where x / y overflows: on processors torch gives NaN there."""
    if x.dtype not in QUOTIENTS or x.device.type != "cpu":
        return torch.fmod(x, y)
    return _fmod_here(x, y) if readable(xp, x) and readable(xp, y) else _fmod_by_multiples(x, y)


@opaque
def _fmod_here(x: Any, y: Any) -> Any:
    """The same, after a look at the result: the other way takes twenty times as long."""
    result = torch.fmod(x, y)
    return result if isfinite(float(result.detach().sum())) else _fmod_by_multiples(x, y)


def _fmod_by_multiples(x: Any, y: Any) -> Any:
    """By large multiples of y first, which changes no remainder. By infinity, x stays as it is."""
    scale = 2.0 ** QUOTIENTS[x.dtype]
    many = y.detach() * scale  # derivatives by an infinity would be NaN
    return torch.fmod(torch.fmod(torch.fmod(x, many * scale), many), y)


@complete
def sigmoid(xp: Namespace, x: Any) -> Any:
    """torch.sigmoid."""
    return torch.sigmoid(x)


@complete
def softmax(xp: Namespace, x: Any, axis: int) -> Any:
    """torch.softmax."""
    return threads.fit(torch.softmax, threads.norm_work(x), x)(x, axis)


def einsum(xp: Namespace, equation: str, *operands: Any) -> Any:
    """torch.einsum, of floats."""
    if not operands[0].dtype.is_floating_point:
        return NotImplemented
    return torch.einsum(equation, *operands)


def gather_nd(xp: Namespace, data: Any, indices: Any) -> Any:
    """Indexing by one tensor an axis; along one axis the default body is faster."""
    if indices.shape[-1] < 2:
        return NotImplemented
    return _at(data, torch.unbind(indices.to(torch.int64), -1))


def one_hot(xp: Namespace, indices: Any, depth: int, axis: int, on: Any, off: Any) -> Any:
    """Writes one element of each row: `on`, or `off` once more where the place is outside."""
    shape = (*indices.shape[:axis], depth, *indices.shape[axis:])
    if 0 in shape:
        return off.expand(shape)
    inside = (indices >= 0) & (indices < depth)
    index = torch.clamp(indices.to(torch.int64), 0, depth - 1)
    return torch.scatter(off.expand(shape), axis, index.unsqueeze(axis), torch.where(inside, on, off).unsqueeze(axis))


def _lacking(data: Any, reduction: str) -> bool:
    """What torch.scatter_reduce lacks: booleans, an order of complex numbers, and a product's derivative forwards."""
    unordered = data.dtype.is_complex and reduction in {"max", "min"}
    return (reduction != "none" and data.dtype == torch.bool) or unordered or (reduction == "mul" and forwards())


def scatter(xp: Namespace, data: Any, indices: Any, updates: Any, axis: int, reduction: str = "none") -> Any:
    """torch.scatter and torch.scatter_reduce."""
    if _lacking(data, reduction):
        return NotImplemented
    index = indices.to(torch.int64)
    index = torch.where(index < 0, index + data.shape[axis], index)
    if reduction == "none":
        return torch.scatter(data, axis, index, updates)
    return torch.scatter_reduce(data, axis, index, updates, REDUCE[reduction])


def scatter_flat(xp: Namespace, data: Any, indices: Any, updates: Any, reduction: str) -> Any:
    """torch.scatter and torch.scatter_reduce."""
    return scatter(xp, data, indices, updates, 0, reduction)


def scatter_nd(xp: Namespace, data: Any, indices: Any, updates: Any, reduction: str = "none") -> Any:
    """torch.scatter and torch.scatter_reduce of rows."""
    depth = indices.shape[-1]
    if not depth or 0 in data.shape or _lacking(data, reduction):
        return NotImplemented
    row: Any = 0
    for index, size in zip(torch.unbind(indices.to(torch.int64), -1), data.shape, strict=False):
        row = row * size + torch.where(index < 0, index + size, index)
    width = prod(data.shape[depth:])
    row = row.reshape(-1, 1).expand(-1, width)
    rows, updates = data.reshape(-1, width), updates.reshape(-1, width)
    if reduction == "none":
        return torch.scatter(rows, 0, row, updates).reshape(data.shape)
    return torch.scatter_reduce(rows, 0, row, updates, REDUCE[reduction]).reshape(data.shape)


def top_k(xp: Namespace, x: Any, k: int, axis: int, largest: bool, sorted: bool) -> Any:
    """torch.topk of keys in which the place breaks ties, for dtypes that leave room for it in 64 bits."""
    axis %= x.ndim
    size = x.shape[axis]
    if x.dtype not in KEYED or k == size or 0 in x.shape:
        return NotImplemented
    bits = x.detach()
    if x.dtype == torch.float32:  # its bits in the order of the numbers: one zero, one NaN, which is the largest
        bits = torch.where(torch.isnan(bits), torch.nan, bits + 0.0).view(torch.int32)
        bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    place = torch.arange(size, device=x.device).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    keys = (bits.to(torch.int64) << 32) + (size - 1 - place if largest else place)
    indices = torch.topk(keys, k, axis, largest)[1]
    return torch.gather(x, axis, indices), indices


def gradient(xp: Namespace, body: Any, inputs: Sequence[Any], count: int) -> tuple[Any, ...]:
    """torch.func.vjp, which differentiates what has no rule in the default body, and can be differentiated again."""
    fn = body.on(Namespace(xp.library, {**vars(xp), "lift": lambda x: x}))
    y, back = torch.func.vjp(lambda *variables: fn(*variables, *inputs[count:])[0], *inputs[:count])
    found: tuple[Any, ...] = back(torch.ones_like(y))
    return found


def symbolic(x: Any) -> bool:
    """Whether it has no values: it is what torch.compile and torch.export look with."""
    return isinstance(x, FakeTensor | FunctionalTensor) or torch._is_functional_tensor(x)  # noqa: SLF001


@complete
def concrete_value(xp: Namespace, x: Any) -> Any:
    """The element; None for what torch.compile and vmap look with. A constant of the model is known to them too."""
    if not isinstance(x, torch.Tensor):
        return default.control.concrete_value(xp, x)
    while functorch.is_functorch_wrapped_tensor(x):
        if functorch.is_batchedtensor(x):
            return None
        x = functorch.get_unwrapped(x)  # of grad and jvp, which look at values
    if symbolic(x):
        return None
    with _disable_current_modes() if is_in_torch_dispatch_mode() else nullcontext():
        return default.control.concrete_value(xp, x)


@complete
def readable(xp: Namespace, x: Any) -> bool:
    """In the host's memory, and no tensor of torch.compile, torch.export or torch.func."""
    if not isinstance(x, torch.Tensor):
        return True
    traced = torch.compiler.is_compiling() or symbolic(x) or functorch.is_functorch_wrapped_tensor(x)
    return not traced and x.device.type == "cpu" and not is_in_torch_dispatch_mode()


@complete
def require_range(xp: Namespace, name: str, x: Any, lowest: int, highest: int) -> None:
    """As the default body, in one go; where a kernel is being recorded, the check is a line of the recording."""
    if not all(x.shape) or not readable(xp, x):
        return
    _check_range(name, x, lowest, highest)


@opaque
def _check_range(name: str, x: Any, lowest: int, highest: int) -> None:
    if x.numel() <= FEW:
        found = x.reshape(-1).tolist()
        ends = min(found), max(found)
    else:
        low, high = torch.aminmax(x)
        ends = low.item(), high.item()
    for value in ends:
        if not lowest <= value <= highest:
            raise ValueError(f"{name} must lie from {lowest} to {highest}, not be {value}")


def cond(xp: Namespace, pred: Any, then: Any, otherwise: Any, *operands: Any) -> Any:
    """One branch where the predicate is known; torch.cond under torch.compile and export, which is told the captures.

    Under vmap both run, and torch.where chooses: torch.cond gives back the first result alone.
    """
    if concrete_value(xp, pred) is not None:
        return NotImplemented
    pred = pred.reshape(())
    if torch._C._are_functorch_transforms_active():  # noqa: SLF001  (torch has no public name for it)
        (yes, spec), (no, other) = tree_flatten(then(*operands)), tree_flatten(otherwise(*operands))
        _agree([yes, no], spec == other)
        return tree_unflatten([torch.where(pred, a, b) for a, b in zip(yes, no, strict=True)], spec)
    read, places = tree_flatten((then.captures, otherwise.captures, operands))
    traced = {id(x): x for x in read if isinstance(x, torch.Tensor) and symbolic(x)}
    found: list[Any] = []

    def branch(which: int, fn: Any) -> Callable[..., Any]:
        def run(*tensors: Any) -> Any:
            given = dict(zip(traced, tensors, strict=True))
            bound = tree_unflatten([given.get(id(x), x) for x in read], places)
            results, spec = tree_flatten(replace(fn, captures=bound[which])(*bound[2]))
            found.append((results, spec))
            _agree([found[0][0], results], found[0][1] == spec)
            return tuple(x.clone() for x in results)  # torch.cond refuses what shares memory with its operands

        return run

    results = torch.ops.higher_order.cond(pred, branch(0, then), branch(1, otherwise), tuple(traced.values()))
    return tree_unflatten(list(results), found[0][1])


def _agree(results: Sequence[Sequence[Any]], same: bool) -> None:
    """Raises ValueError where two branches differ in more than values."""
    yes, no = ([f"{str(x.dtype)[6:]}{list(x.shape)}" if hasattr(x, "dtype") else str(x) for x in r] for r in results)
    if not same or yes != no or any(not isinstance(x, torch.Tensor) for x in results[0]):
        listed = f"{', '.join(yes)} and {', '.join(no)}"
        raise ValueError(f"the branches give {listed}; they must agree where torch traces the condition")


PRIMITIVES: dict[str, Callable[..., Any]] = {
    fn.__name__: fn
    for fn in (
        bit_view, conv, conv_transpose, max_pool, sum_pool, pad, erf, relu, leaky_relu, hardtanh, root, fmod, sigmoid,
        softmax, einsum, gather_nd, one_hot, scatter, scatter_flat, scatter_nd, top_k, gradient, concrete_value,
        readable, require_range, cond,
    )
}  # fmt: skip


# Names of the standard that torch has with gaps.


def matmul(a: Any, b: Any) -> Any:
    """torch.matmul, also of integers where only floats are multiplied: on CUDA."""
    floats = a.dtype.is_floating_point or a.dtype.is_complex
    if a.device.type == "cpu" and not floats and b.ndim == 2 and torch.compiler.is_compiling():
        # inductor takes a product with a constant matrix for a layer, and packs none of integers
        rows = a.reshape(1, prod(a.shape[:-1]), a.shape[-1])
        return torch.matmul(rows, b[None]).reshape(*a.shape[:-1], b.shape[-1])
    if a.device.type == "cpu" or floats:
        return threads.fit(torch.matmul, threads.product_work(a, b), a)(a, b)
    return pieces_matmul(a, b)


def pieces_matmul(a: Any, b: Any) -> Any:
    """The product of integers, modulo their width, by products of 16 bits: exact in float64 up to 2^21 of them."""
    bits = torch.iinfo(a.dtype).bits
    starts = range(0, bits, 16)

    def cut(x: Any) -> list[Any]:
        x = x.to(torch.int64)
        return [((x >> s) & 0xFFFF if s + 16 < bits else x >> s).to(torch.float64) for s in starts]

    left, right = cut(a), cut(b)
    total: Any = 0
    for i, s in enumerate(starts):
        for j in range(len(starts) - i):
            total = total + (torch.matmul(left[i], right[j]).to(torch.int64) << (s + 16 * j))
    return total.to(a.dtype)


SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}


def _as_signed(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A function that moves elements, for the unsigned integers too: torch only stores those."""

    @wraps(fn)
    def apply(x: Any, *args: Any, **keywords: Any) -> Any:
        twin = SIGNED.get(x.dtype)
        return fn(x, *args, **keywords) if twin is None else fn(x.view(twin), *args, **keywords).view(x.dtype)

    return apply


@_as_signed
def _at(x: Any, key: tuple[Any, ...]) -> Any:
    return x[key]


def take_along_axis(x: Any, indices: Any, /, *, axis: int = -1) -> Any:
    """torch.gather, which does not broadcast."""
    axis %= x.ndim
    same = all(n == m or i == axis for i, (n, m) in enumerate(zip(x.shape, indices.shape, strict=True)))
    return torch.gather(x, axis, indices) if same else torch.take_along_dim(x, indices, axis)


def _precise(name: str) -> Callable[..., Any]:
    """A transform of torch.fft; on CUDA in double precision: cuFFT's single precision keeps fewer bits."""
    transform = getattr(torch.fft, name)
    single = torch.float32 if name == "irfft" else torch.complex64

    def apply(x: Any, *, n: int | None = None, axis: int = -1) -> Any:
        if x.device.type == "cpu" or x.dtype not in {torch.float32, torch.complex64}:
            return transform(x, n=n, dim=axis)
        return transform(x.to(torch.complex128 if x.is_complex() else torch.float64), n=n, dim=axis).to(single)

    return apply


def astype(x: Any, dtype: Any, /, *, copy: bool = True) -> Any:
    """Tensor.to; what float8_e4m3fn cannot hold becomes NaN, as elsewhere, and not its largest number."""
    if dtype == torch.float8_e4m3fn and x.dtype.is_floating_point:
        x = torch.where(x.abs() > 464, torch.nan, x)  # halfway to where the next number would be
    return compat.astype(x, dtype, copy=copy)


def _alike(name: str) -> Callable[..., Any]:
    """A function of two tensors; torch's own where they have one dtype, and nothing is to be promoted."""
    plain, promoting = getattr(torch, name), getattr(compat, name)

    def apply(x: Any, y: Any, /, **keywords: Any) -> Any:
        same = getattr(x, "dtype", 0) == getattr(y, "dtype", 1) and not keywords
        return plain(x, y) if same else promoting(x, y, **keywords)

    return apply


def where(condition: Any, x: Any, y: Any, /) -> Any:
    """torch.where, also of the unsigned integers that it does not know on CUDA."""
    twin = SIGNED.get(getattr(x, "dtype", None)) if getattr(y, "dtype", None) == getattr(x, "dtype", None) else None
    if twin is None:
        return compat.where(condition, x, y)
    return torch.where(condition, x.view(twin), y.view(twin)).view(x.dtype)


def moveaxis(x: Any, source: Any, destination: Any, /) -> Any:
    """torch.movedim: its other name cannot be vmapped."""
    return torch.movedim(x, source, destination)


def unstack(x: Any, /, *, axis: int = 0) -> Any:
    """torch.unbind."""
    return torch.unbind(x, axis)


def sign(x: Any, /) -> Any:
    """torch.sign, and NaN of NaN: by no mask, whose count the host would wait for."""
    return torch.where(torch.isnan(x), torch.nan, torch.sign(x)) if x.dtype.is_floating_point else compat.sign(x)


def clip(x: Any, /, min: Any = None, max: Any = None) -> Any:
    """torch.clamp, but for two of its derivatives by tensors.

    It gives nobody the gradient of what is beyond two bounds that are the same, and forwards none at a bound.
    """
    tensors = [bound for bound in (min, max) if isinstance(bound, torch.Tensor)]
    if not tensors or not x.dtype.is_floating_point or not differentiated(x, *tensors):
        return compat.clip(x, min, max)
    for bound, beyond in ((min, torch.lt), (max, torch.gt)):
        if bound is not None:
            x = torch.where(beyond(x, bound) | (bound != bound), bound, x)  # noqa: PLR0124  (a bound that is NaN)
    return x


NAMES: dict[str, Any] = {
    "astype": astype,
    "clip": clip,
    "matmul": matmul,
    "moveaxis": moveaxis,
    "sign": sign,
    "unstack": unstack,
    **{name: _alike(name) for name in ("add", "multiply", "subtract")},
    "where": where,
    "flip": _as_signed(compat.flip),
    "take": _as_signed(compat.take),
    "take_along_axis": _as_signed(take_along_axis),
    "tril": _as_signed(compat.tril),
    "triu": _as_signed(compat.triu),
    "fft": SimpleNamespace(**{name: _precise(name) for name in ("fft", "ifft", "rfft", "irfft")}),
}
