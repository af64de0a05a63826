"""Products with constant matrices in what inductor compiles: by oneDNN, too, where MKL is slow (see `products`).

Inductor packs float32 for MKL wherever torch has it, and has no option to choose. What chooses for it does so in the
`with` statement of `packed_for_onednn` alone, and in its thread: elsewhere torch.compile stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, wraps
from typing import Any

from ortlite_torch import products

__all__ = ["packed_for_onednn"]

inside = ContextVar("inside", default=False)


@contextmanager
def packed_for_onednn() -> Iterator[None]:
    """What inductor compiles meanwhile has oneDNN's products, unless MKL is the faster one here."""
    if not products.BY_MKL:
        _prepare()
    token = inside.set(not products.BY_MKL)
    try:
        yield
    finally:
        inside.reset(token)


@cache
def _prepare() -> None:
    """Let inductor ask, where this torch has the place for it."""
    from torch._inductor.fx_passes import mkldnn_fusion

    device = getattr(mkldnn_fusion, "CpuMkldnnDeviceOp", None)
    names = "pack_linear_weight", "pack_linear"
    if all(hasattr(device, name) for name in names):
        for name in names:
            setattr(device, name, _asking(getattr(device, name)))


def _asking(pack: Callable[..., Any]) -> Callable[..., Any]:
    """`pack` as for a short type, of which all are oneDNN's, where oneDNN is to have them."""

    @wraps(pack)
    def packed(self: Any, graph: Any, is_lp_weight: bool, *given: Any) -> Any:
        return pack(self, graph, is_lp_weight or inside.get(), *given)

    return packed
