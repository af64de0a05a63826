"""What is known of values before a model runs: shapes, and the elements of integer vectors that say shapes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ortlite.optimize.dims import Dim, Shape

__all__ = ["SMALL", "Facts"]

SMALL = 64  # elements of a constant whose values may say a shape
WIDE = (np.int32, np.int64)  # of the constants that count: sums of narrower ones overflow early


class Facts:
    """The shapes of values, as far as they are certain, and the elements of integer vectors that say shapes."""

    def __init__(self, constants: Mapping[str, np.ndarray]):
        self.constants = constants
        self.shapes: dict[str, Shape] = {}
        self.values: dict[str, tuple[Dim, ...]] = {}

    def shape(self, name: str) -> Shape | None:
        """The shape of a value."""
        found = self.shapes.get(name)
        if found is None and (constant := self.constants.get(name)) is not None:
            found = self.shapes[name] = constant.shape
        return found

    def value(self, name: str) -> tuple[Dim, ...] | None:
        """The elements of an integer vector, or of a scalar."""
        found = self.values.get(name)
        if found is not None or (constant := self.constants.get(name)) is None:
            return found
        if constant.dtype not in WIDE or constant.size > SMALL or constant.ndim > 1:
            return None
        found = self.values[name] = tuple(constant.reshape(-1).tolist())
        return found
