"""What a forked child does anew: it has none of the parent's other threads, nor what they held."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any

__all__ = ["in_child", "renewed_after_fork"]

_owners: weakref.WeakKeyDictionary[Any, tuple[str, Callable[[], Any]]] = weakref.WeakKeyDictionary()


def in_child(function: Callable[[], object]) -> None:
    """Call `function` in every child, in the order of these calls. Where nothing can be forked, it is never called."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=function)


def renewed_after_fork(owner: Any, attribute: str, make: Callable[[], Any]) -> None:
    """Set `owner.attribute` to a new lock now, and again in every child: a thread that held it is not there."""
    setattr(owner, attribute, make())
    _owners[owner] = attribute, make


def _renew() -> None:
    for owner, (attribute, make) in list(_owners.items()):
        setattr(owner, attribute, make())


in_child(_renew)
