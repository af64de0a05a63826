"""A part of a specialised program as a module, whose buffers are the weights: inductor freezes no others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

__all__ = ["Region"]


class Region(torch.nn.Module):  # type: ignore[misc]  # what torch is made of is not looked into
    """`fn`, its arguments at the positions of `constants` known."""

    def __init__(self, fn: Callable[..., Any], constants: Mapping[int, Any]):
        super().__init__()
        self.fn = fn
        self.places = [""] * fn.__code__.co_argcount
        for index, value in constants.items():
            self.places[index] = f"constant{index}"
            self.register_buffer(self.places[index], value, persistent=False)

    def forward(self, *arrays: Any) -> Any:
        rest = iter(arrays)
        return self.fn(*[getattr(self, name) if name else next(rest) for name in self.places])
