"""What a run on a CUDA device is within, and copies between it and the host."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["asarray", "fetched", "sent", "settings"]

PINNED = 1 << 24  # bytes of a tensor that crosses through memory which the device reads and writes by itself


@contextmanager
def settings(device: Any, *, short: bool, search: bool | None) -> Iterator[None]:
    """The device is the current one; products and convolutions of float32 are `short`, of TF32, or whole.

    `search`: cuDNN tries its algorithms on every new shape; None leaves that to who set torch up. The settings are
    those of the process: runs at the same time that differ in them see each other's.
    """
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    wanted: list[tuple[Any, str, Any]] = [] if search is None else [(cudnn, "benchmark", search)]
    if _readable(cudnn, "allow_tf32"):  # first, for to set it sets cuDNN's parts
        wanted.append((cudnn, "allow_tf32", short))
    if hasattr(torch.backends, "fp32_precision"):
        parts = products, cudnn.conv, cudnn.rnn
        wanted += [(part, "fp32_precision", "tf32" if short else "ieee") for part in parts]
    else:  # before torch 2.9
        wanted.append((products, "allow_tf32", short))
    changed = []
    with torch.cuda.device(device):
        try:
            for part, name, value in wanted:
                if (before := getattr(part, name)) != value:
                    setattr(part, name, value)
                    changed.append((part, name, before))
            yield
        finally:
            for part, name, before in reversed(changed):
                setattr(part, name, before)


def _readable(part: Any, name: str) -> bool:
    """Whether torch tells a setting; not where somebody has set a part of it in the newer way, by `fp32_precision`."""
    try:
        getattr(part, name)
    except RuntimeError:
        return False
    return True


def asarray(obj: Any, /, *, dtype: Any = None, device: Any = None, copy: bool | None = None) -> Any:
    """torch.asarray, but a number is written by the device: a copy from the host waits, and no graph can have it."""
    if isinstance(obj, bool | int | float | complex):
        return torch.full((), obj, dtype=dtype, device=device)
    return torch.asarray(obj, dtype=dtype, device=device, copy=copy)


def sent(tensor: Any, device: Any) -> Any:
    """A tensor of the host on the device. The host goes on while it is copied, but never its owner's memory.

    The device may read that later, when its owner has written to it; so it gets a copy in pinned memory, which torch
    keeps for as long.
    """
    if device.type != "cuda" or tensor.nbytes > PINNED:
        return tensor.to(device)
    pinned = torch.empty_like(tensor, pin_memory=True)
    return pinned.copy_(tensor).to(device, non_blocking=True)


def fetched(tensor: Any) -> Any:
    """A tensor of the device on the host, once it is computed: in pinned memory, which takes half the time."""
    if not tensor.is_cuda or tensor.nbytes > PINNED:
        return tensor.cpu()
    host = torch.empty_like(tensor, device="cpu", pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(tensor.device).synchronize()
    return host
