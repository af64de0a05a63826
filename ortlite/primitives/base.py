"""The object that kernels know as `xp`. What it guarantees them stands in `ortlite.namespace`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

__all__ = ["Namespace"]


class Namespace:
    """One library's namespace. A bag of names: reading one is one dictionary look-up."""

    def __init__(self, library: str, names: Mapping[str, Any]):
        self.__dict__.update(names)
        self.library = library

    def __repr__(self) -> str:
        return f"<Namespace of {self.library}>"

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...
