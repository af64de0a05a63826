"""What passes between NumPy and torch in every run: a call here costs no more than it must."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np
import torch

from ortlite import dtypes
from ortlite_torch.cuda import fetched, sent
from ortlite_torch.primitives import functorch, symbolic
from ortlite_torch.reach import begin
from ortlite_torch.threads import On

__all__ = ["AS_BITS", "NoGradient", "NoGradientOn", "from_numpy", "to_numpy", "traced", "unshared"]

Tensor = torch.Tensor
# What NumPy holds through ml_dtypes crosses as its bytes.
AS_BITS = {"bfloat16": "int16", "float8_e4m3fn": "uint8", "float8_e4m3fnuz": "uint8", "float8_e5m2": "uint8"}
AS_BITS |= {"float8_e5m2fnuz": "uint8", "float8_e8m0fnu": "uint8"}
# The dtypes that either takes as they are.
PLAIN = frozenset({torch.bool, torch.float32, torch.float64, torch.int8, torch.int32, torch.int64, torch.uint8})
NATIVE = frozenset(np.dtype(str(dtype).removeprefix("torch.")) for dtype in PLAIN)
CPU = torch.device("cpu")


@cache
def _warned() -> None:
    """Let torch say, unheard, that it knows no read-only memory, which it says once: nothing here writes to inputs."""
    array = np.zeros(1)
    array.setflags(write=False)
    with warnings.catch_warnings():  # which takes longer than many an operator
        warnings.simplefilter("ignore")
        torch.from_numpy(array)


def from_numpy(array: Any, device: Any) -> Any:
    """A NumPy array as a tensor, which shares its memory where it can."""
    if type(array) is not np.ndarray or array.dtype not in NATIVE or not array.dtype.isnative:
        array = np.asarray(array)
        if not array.dtype.isnative:
            array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
        if bits := AS_BITS.get(array.dtype.name):
            return from_numpy(array.view(bits), device).view(getattr(torch, array.dtype.name))
    _warned()
    if torch.is_warn_always_enabled():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tensor = _shared(array)
    else:
        tensor = _shared(array)
    return tensor if device == CPU else sent(tensor, device)


def _shared(array: np.ndarray) -> Any:
    """A tensor in the memory of an array, or of its copy where torch has no such strides: negative ones, which an axis
    of one element may have, too, and those between places that are no multiple of an element apart.
    """
    try:
        return torch.from_numpy(array)
    except ValueError:
        return torch.from_numpy(array.copy())


def to_numpy(array: Any) -> np.ndarray:
    """A tensor as a NumPy array, which shares its memory where it can."""
    if array.requires_grad and torch.is_grad_enabled():
        raise ValueError("no gradient flows through NumPy: call under torch.no_grad(), or keep the node on torch")
    if array.dtype in PLAIN and array.is_cpu:
        array = array.detach()
        try:
            storage = array.untyped_storage()
            storage.torchs_own = storage.resizable()  # what NumPy has, or had, is not
            del storage
            plain: np.ndarray = array.numpy()
        except RuntimeError:  # of what is to be negated yet, and of what has no memory
            pass
        else:
            return plain
    array = fetched(array.detach()).resolve_conj().resolve_neg()
    name = str(array.dtype).removeprefix("torch.")
    if name in AS_BITS:
        bits: np.ndarray = array.view(getattr(torch, AS_BITS[name])).numpy()
        return bits.view(dtypes.to_numpy(dtypes.by_name(name)))
    return np.asarray(array.numpy())


users: Any = getattr(torch._C, "_storage_Use_Count", None)  # noqa: SLF001  (which CUDA graphs ask, too)
ALONE = 2  # users of a storage: one tensor, and the object by which we ask


def unshared(array: Any) -> bool:
    """Whether a tensor that `to_numpy` has handed out has memory that torch took and no other tensor has."""
    if users is None:
        return False
    storage = array.untyped_storage()
    return getattr(storage, "torchs_own", False) and bool(users(storage._cdata) == ALONE)  # noqa: SLF001


class NoGradient:
    """torch.no_grad, which every run enters, in a tenth of its time."""

    __slots__ = ("before",)

    def __enter__(self) -> None:
        begin()
        self.before = torch.is_grad_enabled()
        if self.before:
            torch._C._set_grad_enabled(False)  # noqa: SLF001

    def __exit__(self, *_: object) -> None:
        if self.before:
            torch._C._set_grad_enabled(True)  # noqa: SLF001


class NoGradientOn(On):
    """Both: so many threads, and nobody takes derivatives."""

    __slots__ = ("alone",)

    def __init__(self, count: int):
        super().__init__(count)
        self.alone = NoGradient()

    def __enter__(self) -> None:
        super().__enter__()
        self.alone.__enter__()

    def __exit__(self, *_: object) -> None:
        self.alone.__exit__()
        super().__exit__()


def traced(array: Any) -> bool:
    """Whether it has no values: it is what torch.compile, torch.export, vmap, grad and jvp look with."""
    if type(array) is not Tensor:
        return isinstance(array, Tensor) and (symbolic(array) or functorch.is_functorch_wrapped_tensor(array))
    # of torch's own two tests, which take no subclass
    found: bool = torch._is_functional_tensor(array) or functorch.is_functorch_wrapped_tensor(array)  # noqa: SLF001
    return found
