"""onnxruntime's exception classes, with its codes, names and message form.

They derive from Exception alone, as onnxruntime's do: a program that catches RuntimeError around a
session does not catch these there, and must not here. Everything in ortlite may import this module; it imports nothing.
"""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = [
    "DeviceReset", "EPFail", "EngineError", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf",
    "LimitExceeded", "ModelLoadCanceled", "ModelLoaded", "ModelRequiresCompilation", "NoModel", "NoSuchFile",
    "NotFound", "NotImplemented", "OrtError", "RuntimeException", "describe", "typed",
]  # fmt: skip


class OrtError(Exception):
    """Base of the classes below.

    `str(e)` is `[ONNXRuntimeError] : code : NAME : text`, `e.text` the text alone, and `e.node` the graph's node that
    failed, when one did.
    """

    code: ClassVar[int]
    label: ClassVar[str]

    def __init__(self, text: str = "", node: Any = None):
        super().__init__(f"[ONNXRuntimeError] : {self.code} : {self.label} : {text}")
        self.text = text
        self.node = node

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return type(self), (self.text,)


class Fail(OrtError):
    """Whatever has no class of its own: an error in a kernel, a run that was ended, a model that contradicts itself."""

    code, label = 1, "FAIL"


class LimitExceeded(Fail):
    """A model wants more than an `ortlite.Limits` allows; `limit` names which, `node` where, if it is a node.

    A session's limits raise it before memory is taken. See `ortlite.limits.applied` for an example.
    """

    def __init__(self, text: str = "", node: Any = None, limit: str = ""):
        super().__init__(text, node)
        self.limit = limit

    def __reduce__(self) -> tuple[type, tuple[str, None, str]]:  # type: ignore[override]
        return type(self), (self.text, None, self.limit)


class InvalidArgument(OrtError):
    """An unknown name, or a value of a wrong dtype, rank or size; a file with external data that cannot be read."""

    code, label = 2, "INVALID_ARGUMENT"


class NoSuchFile(OrtError):
    """The model's file is not there."""

    code, label = 3, "NO_SUCHFILE"


class NoModel(OrtError):
    """onnxruntime's class; ortlite does not raise it."""

    code, label = 4, "NO_MODEL"


class EngineError(OrtError):
    """onnxruntime's class; ortlite does not raise it."""

    code, label = 5, "ENGINE_ERROR"


class RuntimeException(OrtError):
    """onnxruntime's class; ortlite does not raise it."""

    code, label = 6, "RUNTIME_EXCEPTION"


class InvalidProtobuf(OrtError):
    """The file, or the bytes, are no model."""

    code, label = 7, "INVALID_PROTOBUF"


class ModelLoaded(OrtError):
    """onnxruntime's class; ortlite does not raise it."""

    code, label = 8, "MODEL_LOADED"


class NotImplemented(OrtError):  # noqa: A001  (onnxruntime's name)
    """There is no kernel for an operator, or none for its dtypes."""

    code, label = 9, "NOT_IMPLEMENTED"


class InvalidGraph(OrtError):
    """A model that ONNX does not allow: unknown attributes, missing inputs, cycles, types that do not fit."""

    code, label = 10, "INVALID_GRAPH"


class EPFail(OrtError):
    """A provider fails as a whole: the session then runs on the CPU provider, where it may fall back."""

    code, label = 11, "EP_FAIL"


class ModelLoadCanceled(OrtError):
    """`SessionOptions.set_load_cancellation_flag` was set."""

    code, label = 12, "MODEL_LOAD_CANCELED"


class ModelRequiresCompilation(OrtError):
    """onnxruntime's class; ortlite does not raise it."""

    code, label = 13, "MODEL_REQUIRES_COMPILATION"


class NotFound(OrtError):
    """onnxruntime's class; ortlite does not raise it."""

    code, label = 14, "NOT_FOUND"


class DeviceReset(OrtError):
    """onnxruntime's class; ortlite does not raise it."""

    code, label = 15, "DEVICE_RESET"


class typed:  # noqa: N801  (used as a function)
    """A context from which every exception leaves as one of the classes above: `with typed("placing", node): ...`.

    What is one already passes; anything else becomes a Fail that says what was being done, and at which node.
    """

    def __init__(self, doing: str, node: Any = None):
        self.doing, self.node = doing, node

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, OrtError):
            where = "" if self.node is None else f" node {self.node.name!r} ({self.node.op_type})"
            raise Fail(f"{self.doing}{where}: {str(error) or type(error).__name__}", self.node) from error


def describe(value: Any) -> str:
    """A value in a few letters, for messages: dtype and shape of an array, a short Python object itself."""
    if value is None:
        return "absent"
    if isinstance(value, dict):
        return f"map of {len(value)}"
    if isinstance(value, tuple) and any(hasattr(item, "shape") for item in value):
        return f"sequence of {len(value)}"
    shape = getattr(value, "shape", None)
    if shape is not None:
        return f"{value.dtype}{list(shape)}"
    text = repr(value)
    if len(text) <= 60:
        return text
    return f"{type(value).__name__} of {len(value)}" if hasattr(value, "__len__") else type(value).__name__
