"""What ortlite says while it works, with onnxruntime's severities: to standard error, or to a caller's function."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from time import perf_counter_ns

__all__ = [
    "ERROR", "FATAL", "INFO", "VERBOSE", "WARNING", "emit", "now", "set_default_logger_callback",
    "set_default_logger_severity", "set_default_logger_verbosity", "wanted",
]  # fmt: skip

VERBOSE, INFO, WARNING, ERROR, FATAL = range(5)
LETTERS = "VIWEF"
CATEGORY = "onnxruntime"

Callback = Callable[[int, str, str, str, str], None]
_default = {"severity": WARNING, "verbosity": 0}
_callback: list[Callback] = []


def set_default_logger_severity(severity: int) -> None:
    """Set which messages are written: 0 all, 1 information, 2 warnings (the default), 3 errors, 4 fatal ones only.

    Raises RuntimeError for another number.
    """
    _default["severity"] = _checked(severity)


def set_default_logger_verbosity(verbosity: int) -> None:
    """Accepted: messages have no degrees below 0."""
    _default["verbosity"] = int(verbosity)


def set_default_logger_callback(callback: Callback | None, severity: int = WARNING) -> None:
    """Send messages to `callback(severity, category, logid, location, message)`; None: to standard error again.

    `severity` is a number from 0 (all) to 4 (fatal); the other four are text: `category` is "onnxruntime", `logid` the
    session's, or "Default" outside of sessions, `location` "file:line function". What the callback raises goes to
    sys.unraisablehook. Raises RuntimeError for what cannot be called, or for a severity that is none.
    """
    level = _checked(severity)
    if callback is None:
        _callback.clear()
        return
    if not callable(callback):
        raise RuntimeError(f"the callback cannot be called: {type(callback).__name__}")
    _callback[:] = [callback]
    _default["severity"] = level


def _checked(severity: int) -> int:
    if not isinstance(severity, int):
        raise TypeError(f"a severity is an int, not {type(severity).__name__}")
    if not VERBOSE <= severity <= FATAL:
        raise RuntimeError(f"Invalid log severity {severity}: it is one of 0 to 4")
    return int(severity)


def wanted(severity: int, level: int = -1) -> bool:
    """Whether messages of `severity` are written where options say `level` (-1: the default)."""
    return severity >= (_default["severity"] if level < 0 else level)


def emit(severity: int, message: str, *, level: int = -1, logid: str = "Default") -> None:
    """Write a message, if its severity is wanted. `logid` is a session's, or "Default"."""
    if not wanted(severity, level):
        return
    where = _where()
    for callback in _callback:
        try:
            callback(severity, CATEGORY, logid, where, message)
        except Exception as error:  # noqa: BLE001  (the caller's function must not end the caller's run)
            _tell(error, callback)
        else:
            return
    stamp = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")
    sys.stderr.write(f"{stamp} [{LETTERS[severity]}:{CATEGORY}:{logid}, {where}] {message}\n")


def _where() -> str:
    """The file, the line and the function that say something: the first ones outside of this file, and of `_say`."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_name == "_say":
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}"


def _tell(error: Exception, callback: Callback) -> None:
    """What a callback raises, for sys.unraisablehook. Python's own hook takes nothing that Python code can make."""
    unraisable = _Unraisable(error, callback)
    if sys.unraisablehook is not sys.__unraisablehook__:
        sys.unraisablehook(unraisable)  # type: ignore[arg-type]
        return
    import traceback  # nobody else needs it

    sys.stderr.write(f"{unraisable.err_msg}: {callback!r}\n")
    traceback.print_exception(error)


class _Unraisable:
    """What sys.unraisablehook wants to know."""

    def __init__(self, error: Exception, callback: Callback):
        self.exc_type, self.exc_value, self.exc_traceback = type(error), error, error.__traceback__
        self.err_msg, self.object = "Exception ignored in the logger's callback", callback


def now() -> int:
    """Microseconds of the clock by which profiles go."""
    return perf_counter_ns() // 1000
