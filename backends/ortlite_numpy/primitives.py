"""Primitives for which NumPy has something faster than the default body."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

PRIMITIVES: dict[str, Callable[..., Any]] = {}
