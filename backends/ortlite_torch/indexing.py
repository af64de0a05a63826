"""Gather, GatherND and Concat by one function of torch, which refuses what is wrong by itself.

The kernels look at all indices and count the negative ones from the end before it: ten calls where one does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ortlite.derived import at_once, lasting
from ortlite.namespace import Namespace
from ortlite.ops import index
from ortlite.ops.helpers import normal_axis
from ortlite_torch.record import opaque

__all__ = ["OVERRIDES"]

TAKEN = {torch.float32, torch.float64, torch.int32, torch.int64, torch.bool}


def gather(xp: Namespace, data: Any, indices: Any, *, axis: int = 0, derived: Any = at_once) -> Any:
    """torch.index_select; torch.select_copy, where the index is one number of the model's."""
    axis = normal_axis(axis, data.ndim)
    fits = data.dtype in TAKEN and indices.dtype in {torch.int32, torch.int64}
    if not fits or 0 in (*data.shape, *indices.shape) or not (xp.readable(data) and xp.readable(indices)):
        return NotImplemented
    if not indices.ndim and lasting(derived, indices):
        place = derived(int, indices)
        return torch.select_copy(data, axis, place) if -data.shape[axis] <= place < data.shape[axis] else NotImplemented
    return _taken(xp, data, indices, axis)


@opaque
def _taken(xp: Namespace, data: Any, indices: Any, axis: int) -> Any:
    """The slices; the kernel counts negative indices from the end, and tells of those that are out of range."""
    try:
        taken = torch.index_select(data, axis, indices.reshape(-1))
    except (IndexError, RuntimeError):
        return index.gather(xp, data, indices, axis=axis)
    return taken if indices.ndim == 1 else taken.reshape(data.shape[:axis] + indices.shape + data.shape[axis + 1 :])


def gather_nd(xp: Namespace, data: Any, indices: Any, *, batch_dims: int = 0) -> Any:
    """Torch's indexing by as many tensors as a tuple has numbers, which refuses what is out of range, too."""
    fits = data.dtype in TAKEN and indices.dtype == torch.int64 and not batch_dims and indices.ndim
    if not fits or 0 in (*data.shape, *indices.shape) or not (xp.readable(data) and xp.readable(indices)):
        return NotImplemented
    return NotImplemented if indices.shape[-1] > data.ndim else _found(xp, data, indices)


@opaque
def _found(xp: Namespace, data: Any, indices: Any) -> Any:
    """The slices; where an index is out of range, the kernel tells of it."""
    try:
        return data[indices.unbind(-1)]
    except (IndexError, RuntimeError):
        return index.gather_nd(xp, data, indices)


def concat(xp: Namespace, *inputs: Any, axis: int) -> Any:
    """torch.cat, which sees by itself what does not fit, but for ranks, and leaves it to the kernel to say so."""
    rank = inputs[0].ndim
    if torch.compiler.is_compiling() or any(x.ndim != rank for x in inputs):
        return NotImplemented
    try:
        return torch.cat(inputs, axis)
    except (IndexError, RuntimeError):
        return NotImplemented


OVERRIDES: dict[tuple[str, str, int], Callable[..., Any]] = {
    ("", "Concat", 4): concat,
    ("", "Gather", 1): gather,
    ("", "GatherND", 11): gather_nd,
}
