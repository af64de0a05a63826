"""Runs beside the caller's thread: with a callback, as onnxruntime has them, and for asyncio."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from ortlite.api.names import output_names_of
from ortlite.api.options import RunOptions, adapted, checked
from ortlite.api.values import to_inside
from ortlite.errors import Fail, InvalidArgument, OrtError
from ortlite.stopping import stop_of, stoppable

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from ortlite.api.feed import Prepared
    from ortlite.api.options import SessionOptions

__all__ = ["Asynchronous"]

KINDS = frozenset("biufSUOV")  # of dtypes whose arrays may be inputs: whether they fit, the run finds out


class Asynchronous:
    """The part of an InferenceSession that runs in other threads."""

    _whole: Prepared
    _sess_options: SessionOptions
    run: Callable[..., Any]
    _tried: Callable[..., Any]
    _limits_of: Callable[..., Any]

    def run_async(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        callback: Callable[[list[Any], Any, str], Any],
        user_data: Any,
        run_options: RunOptions | None = None,
    ) -> None:
        """Run in another thread, which calls `callback(results, user_data, error)` at the end.

        `error` is "" after a run, and otherwise the message, with [] for results; what the callback raises is dropped.
        Raises ValueError here for a missing input, InvalidArgument where intra_op_num_threads is 1, as onnxruntime,
        TypeError for a callback that is no function, RuntimeError for what can be no input at all, or no RunOptions.
        """
        if callback is not None and not callable(callback):
            raise TypeError(f"callback is a function, not {type(callback).__name__}")
        if self._sess_options.intra_op_num_threads == 1:
            raise InvalidArgument("intra op thread pool must have at least one thread for RunAsync")
        output_names_of(self._whole.graph, output_names, input_feed)
        self._whole.feed.check_present(input_feed)
        if not isinstance(run_options, RunOptions | None):
            raise RuntimeError(f"run_options is an ortlite.RunOptions, not {type(run_options).__name__}")
        for name, value in input_feed.items():
            if name in self._whole.graph.inputs and getattr(getattr(value, "dtype", None), "kind", "") not in KINDS:
                with suppress(OrtError):  # of the right kind, with wrong contents: the callback hears of it
                    to_inside(name, value, self._whole.graph.types.get(name))

        def work() -> None:
            results, problem = [], ""
            try:
                results = self.run(output_names, input_feed, run_options)
            except OrtError as error:
                problem = error.text
            except Exception as error:  # noqa: BLE001  (the callback gets whatever it is)
                problem = str(error) or type(error).__name__
            callback(results, user_data, problem)

        _executor().submit(work)

    async def run_async_(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        run_options: RunOptions | None = None,
        *,
        timeout: float | None = None,
    ) -> list[Any]:
        """`run` for asyncio: the event loop goes on meanwhile. A task that is cancelled ends its run between two steps.

        Arguments, results and errors are those of `run`.

        Example:
            >>> import asyncio
            >>> from ortlite import InferenceSession
            >>> from ortlite.cli.digits import model_bytes, scans
            >>> session = InferenceSession(model_bytes())
            >>> asyncio.run(session.run_async_(None, {"scan": scans()[0][:2]}))[0].shape
            (2, 10)

        """
        import asyncio  # takes as long as a small session, and few need it

        cancelled = threading.Event()
        limits = self._limits_of(checked(run_options))
        asked = stop_of(run_options, timeout, limits.seconds)

        def stop() -> None:
            if cancelled.is_set():
                raise Fail("The task that awaited this run was cancelled.")
            if asked is not None:
                asked()

        def work() -> Any:
            with stoppable(stop):
                return self._tried(output_names, adapted(input_feed, run_options), None, limits=limits)

        try:
            return await asyncio.wrap_future(_executor().submit(work))
        except asyncio.CancelledError:
            cancelled.set()
            raise


@cache
def _threads(process: int) -> ThreadPoolExecutor:
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(thread_name_prefix="ortlite-run")


def _executor() -> ThreadPoolExecutor:
    """The threads for asynchronous runs; a forked child gets its own."""
    return _threads(os.getpid())
