"""What `ortlite.tools` asks of a session beyond its methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ortlite.api.session import InferenceSession
    from ortlite.steps import OnStep

__all__ = ["by_steps", "file_of"]


def by_steps(session: InferenceSession, on_step: OnStep) -> Callable[[Mapping[str, Any]], list[Any]]:
    """The session as a function of its feed that runs step by step, each by `on_step`."""
    built = session._whole._replace(on_step=on_step)
    return lambda feed: built.compute(built.feed.values(feed))


def file_of(session: InferenceSession) -> str | bytes | None:
    """What the session was made from: a path, or bytes."""
    return session._model_path if session._model_bytes is None else session._model_bytes
