"""Locks that a forked child can take, whatever the parent's other threads held when it was forked."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any

__all__ = ["renewed_after_fork"]

_owners: weakref.WeakKeyDictionary[Any, tuple[str, Callable[[], Any]]] = weakref.WeakKeyDictionary()


def renewed_after_fork(owner: Any, attribute: str, make: Callable[[], Any]) -> None:
    """Set `owner.attribute` to a new lock now, and again in every child: a thread that held it is not there."""
    setattr(owner, attribute, make())
    _owners[owner] = attribute, make


def _renew() -> None:
    for owner, (attribute, make) in list(_owners.items()):
        setattr(owner, attribute, make())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
