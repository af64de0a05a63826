"""onnxruntime's exception classes, as part of its surface; they live in `ortlite.errors`."""

from ortlite import errors
from ortlite.errors import *  # noqa: F403

__all__ = errors.__all__
