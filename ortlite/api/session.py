"""InferenceSession: a model, ready to run, behind onnxruntime's methods."""

from __future__ import annotations

import os
import re
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeAlias, overload

from ortlite.api import environment, logs
from ortlite.api.asynchronous import Asynchronous
from ortlite.api.description import Described
from ortlite.api.fallback import FALLBACK, check_asked, check_placed
from ortlite.api.names import check_placement, output_names_of, tapped
from ortlite.api.options import RunOptions, SessionOptions, adapted, checked
from ortlite.api.ortvalue_runs import OnOrtValues
from ortlite.api.providers import available_for, check_and_normalize_provider_args, resolve
from ortlite.api.source import configured, loaded, switched_off, write_optimized
from ortlite.errors import EPFail, InvalidArgument, ModelLoadCanceled
from ortlite.garbage import uncollected
from ortlite.limits import Limits, applied, both, current
from ortlite.provider import CPU
from ortlite.stopping import stop_of, stoppable

if TYPE_CHECKING:
    from ortlite.api.binding import IOBinding
    from ortlite.api.feed import Prepared
    from ortlite.api.profile import Profiler
    from ortlite.graph import Model

__all__ = ["InferenceSession"]

Taps: TypeAlias = str | re.Pattern[str] | Sequence[str | re.Pattern[str]]
AFFINITIES = "session.intra_op_thread_affinities"


class InferenceSession(Described, Asynchronous, OnOrtValues):
    """Run a model.

    `path_or_bytes` is a path (str or os.PathLike) or the bytes of a model. `providers` are names or (name, options)
    tuples, tried in order for every node; the CPU provider stands last and is added where it is missing.

    Beyond onnxruntime's arguments: `fallback` says what becomes of nodes that none of the other providers runs: "allow"
    (the default), "warn" or "error" (as the config entry session.disable_cpu_ep_fallback=1); `placement` maps the
    name of a node, or of a value it computes, to the provider that must run it.

    Raises TypeError for a source of another type, ValueError for a bad `fallback` or `placement`, and the classes of
    `ortlite.errors` for a model that cannot be read or is not valid. A bad `providers` falls back to the CPU
    provider with a warning, as in onnxruntime, unless `enable_fallback=0`, or `fallback="error"`, or there is a
    `placement`. Unknown arguments get a UserWarning; options that only tune onnxruntime (arenas, execution order) are
    accepted and have no effect.

    Example:
        >>> from ortlite.cli.digits import model_bytes, scans
        >>> session = InferenceSession(model_bytes(), providers=["CPUExecutionProvider"])
        >>> [arg.name for arg in session.get_inputs()], session.get_outputs()[0].shape
        (['scan'], ['batch', 10])
        >>> session.run(None, {"scan": scans()[0][:2]})[0].argmax(axis=1).tolist()
        [2, 8]

    """

    def __init__(
        self,
        path_or_bytes: str | os.PathLike[str] | bytes,
        sess_options: SessionOptions | None = None,
        providers: Sequence[str | tuple[str, dict[Any, Any]]] | None = None,
        provider_options: Sequence[dict[Any, Any]] | None = None,
        *,
        fallback: str | None = None,
        placement: Mapping[str, str] | None = None,
        **kwargs: Any,
    ):
        if not isinstance(path_or_bytes, str | os.PathLike | bytes) or path_or_bytes == "":
            empty = isinstance(path_or_bytes, str)  # other types are not asked: an array has no truth
            raise TypeError(f"Unable to load from type '{type(path_or_bytes)}'{' (empty)' if empty else ''}")
        if fallback not in {None, *FALLBACK}:
            raise ValueError(f"fallback is one of {', '.join(FALLBACK)}, not {fallback!r}")
        if not isinstance(sess_options, SessionOptions | None):
            raise TypeError(f"sess_options is an ortlite.SessionOptions, not {type(sess_options)}")
        if providers and not hasattr(providers, "__iter__"):
            raise TypeError(f"'providers' should be a sequence, not {type(providers).__name__}")
        self._sess_options = SessionOptions() if sess_options is None else sess_options
        _warn_of_ignored(kwargs, self._sess_options)
        self._sess_options_initial = self._sess_options
        self._limits: Limits = both(self._sess_options.limits, current())
        self._fallback = fallback or ("error" if self._no_cpu else "allow")
        self._placement = dict(placement or {})
        self._enable_fallback = int(kwargs.get("enable_fallback", 1)) == 1
        self._disabled = frozenset(kwargs.get("disabled_optimizers") or ())
        if not all(isinstance(name, str) for name in self._disabled):
            raise TypeError(f"disabled_optimizers are names, not {sorted(map(repr, self._disabled))}")
        int(kwargs.get("read_config_from_model", 0))  # raises for what is no number
        self._model_path = None if isinstance(path_or_bytes, bytes) else os.fspath(path_or_bytes)
        self._model_bytes = path_or_bytes if isinstance(path_or_bytes, bytes) else None
        self._profiler: Profiler | None = None
        self._fallback_providers = [CPU]
        if self._sess_options.has_providers():
            if providers:
                warnings.warn("The argument `providers` counts, not those of sess_options.", UserWarning, stacklevel=2)
            else:
                providers = self._sess_options._providers
        with self._within():
            try:
                self._create(providers, provider_options, self._disabled)
            except (ValueError, RuntimeError) as error:
                if not self._may_fall_back:
                    raise
                banner = (
                    f"EP Error {error} when using {providers}. Falling back to {self._fallback_providers} and retrying."
                )
                logs.emit(logs.WARNING, banner)
                try:
                    self._create([CPU], None, self._disabled)
                except (ValueError, RuntimeError) as second:
                    raise second from error
                self._enable_fallback = False

    @contextmanager
    def _within(self) -> Iterator[None]:
        """The limits that hold while the session is made."""
        with uncollected(), applied(self._limits), stoppable(stop_of(None, None, self._limits.seconds)):
            yield

    @property
    def _may_fall_back(self) -> bool:
        """Whether a provider that fails as a whole may be replaced by the CPU provider."""
        return self._enable_fallback and not self._placement and self._fallback != "error"

    @property
    def _no_cpu(self) -> bool:
        """Whether the options forbid the CPU provider, even where no other was asked for."""
        return self._sess_options._entries.get("session.disable_cpu_ep_fallback") == "1"

    def _create(self, providers: Any, provider_options: Any, disabled: frozenset[str]) -> None:
        """Make the session. Call it in `_within()`, which is no frame more for warnings to look through."""
        options = self._sess_options
        if options._cancelled:
            raise ModelLoadCanceled("Session creation was cancelled by SessionOptions.set_load_cancellation_flag.")
        if not -1 <= options.log_severity_level <= logs.FATAL:
            raise RuntimeError(f"Invalid session log severity level: {options.log_severity_level} is none of -1 to 4")
        available = available_for(providers)
        names, given = check_and_normalize_provider_args(providers, provider_options, available)
        resolve(names, given)  # unknown names are told before a large model is read
        check_asked(self._fallback, self._no_cpu, names, available)

        began = logs.now()
        source = self._model_path if self._model_bytes is None else self._model_bytes
        assert source is not None
        model = loaded(source, options)
        if options._select is not None and not names:
            from ortlite.api.ep_devices import selected

            names = selected(options._select, model)
            given = [{} for _ in names]
        options = configured(options, model)
        threads = options.intra_op_num_threads
        if not options.use_per_session_threads and not threads:
            threads = environment.global_threads()
        chosen = resolve(names, given, threads)
        names_of = [provider.name for provider in chosen]
        check_placement(self._placement, model.graph, names_of)
        disabled |= switched_off(options)
        profiler = None
        if options.enable_profiling:
            from ortlite.api.profile import Profiler

            profiler = Profiler(options.profile_file_prefix, began)
            profiler.add("Session", f"model_loading_{'array' if self._model_bytes else 'uri'}", began)
        from ortlite.api.parts import Parts

        since, defer = logs.now(), self._fallback != "error"
        parts = Parts(model, chosen, options, disabled, self._placement, defer, self._limits, profiler)
        if self._no_cpu or (len(chosen) > 1 and self._fallback != "allow"):
            check_placed(self._fallback, parts.whole.stages.partitions)
        if options.optimized_model_filepath:
            write_optimized(options, model, disabled, self._placement)
        if profiler is not None:
            profiler.add("Session", "session_initialization", since)
            weakref.finalize(self, profiler.write)
        # nothing is raised from here on: a session that set_providers could not rebuild stays as it was
        self.model: Model = model  # as loaded
        self._options = options
        self._profiler = profiler
        self._plain = profiler is None and self._limits.seconds is None and bool(model.graph.outputs)
        self._chosen = chosen
        self._providers = names_of
        asked = dict(zip(names, given, strict=True))
        self._provider_options = {provider.name: asked.get(provider.name, {}) for provider in chosen}
        self._parts = parts
        self._whole: Prepared = parts.whole
        self._descriptions, self._metadata = {}, None  # until somebody asks
        self._say(logs.INFO, f"Session of {model.graph.name!r} initialized on {', '.join(names_of)}.")
        if logs.wanted(logs.VERBOSE, options.log_severity_level):
            for row in self.explain().nodes:
                self._say(logs.VERBOSE, f"Node placement: {row.name} ({row.op_type}) on {row.provider}")

    def _say(self, severity: int, message: str) -> None:
        level = self._options.log_severity_level
        logs.emit(severity, message, level=level, logid=self._options.logid)

    @overload
    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        run_options: RunOptions | None = None,
        *,
        timeout: float | None = None,
    ) -> list[Any]: ...
    @overload
    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        run_options: RunOptions | None = None,
        *,
        taps: Taps,
        timeout: float | None = None,
    ) -> tuple[list[Any], dict[str, Any]]: ...
    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        run_options: RunOptions | None = None,
        *,
        taps: Taps | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Compute `output_names` (all outputs, in graph order, when None or empty) from `input_feed`.

        Tensors are NumPy arrays of the declared dtype (or nested lists, OrtValues, arrays of a library with DLPack),
        sequences lists, maps dicts, an empty optional None. Outputs are fresh NumPy arrays. Raises ValueError for a
        missing input, InvalidArgument for an unknown name or a wrong dtype, rank or dimension, Fail for an error in a
        kernel. `run_options.terminate`, and `timeout` seconds (`ortlite.stopping.RunTimeout`), end it between two steps
        with Fail.

        Any value of the main graph may be asked for by its name, and any may be fed: what only it needs is then not
        computed, and its inputs need not be fed. With `taps`, names or regular expressions that match whole names, the
        result is (outputs, {name: value}) with every value that one of them means; constants are meant by name only.

        Example:
            >>> from ortlite.cli.digits import model_bytes, scans
            >>> session = InferenceSession(model_bytes())
            >>> outputs, values = session.run(None, {"scan": scans()[0][:2]}, taps="h")
            >>> values["h"].shape
            (2, 48)

        """
        if run_options is None and timeout is None:
            if output_names is None and taps is None and type(input_feed) is dict and self._plain:
                try:  # the way of most runs, without detours
                    inputs = self._whole.feed.exactly(input_feed)
                    if inputs is not None:
                        return self._whole.compute(inputs)
                except EPFail:
                    if not self._may_fall_back:
                        raise
            if self._limits.seconds is None:
                return self._tried(output_names, input_feed, taps)
        limits = self._limits_of(checked(run_options))
        with stoppable(stop_of(run_options, timeout, limits.seconds)):
            return self._tried(output_names, adapted(input_feed, run_options), taps, limits=limits)

    def _limits_of(self, run_options: RunOptions | None) -> Limits:
        """What holds for a run with these options."""
        return self._limits if run_options is None else both(self._limits, run_options.limits)

    def _tried(
        self,
        output_names: Any,
        feed: Mapping[str, Any],
        taps: Any,
        on_device: bool = False,
        limits: Limits | None = None,
    ) -> Any:
        """Run; where a provider fails as a whole, once more on the CPU provider."""
        try:
            if self._profiler is None:
                return self._run(output_names, feed, taps, on_device, limits)
            return self._profiled(output_names, feed, taps, on_device, limits)
        except EPFail as error:
            if not self._may_fall_back:
                raise
            banner = f"EP Error: {error} using {self._providers}. Falling back to {[CPU]} and retrying."
            logs.emit(logs.WARNING, banner)
            self.set_providers([CPU])
            self._enable_fallback = False
            return self._run(output_names, feed, taps, on_device, limits)

    def _profiled(
        self, output_names: Any, feed: Mapping[str, Any], taps: Any, on_device: bool, limits: Limits | None
    ) -> Any:
        profiler = self._profiler
        assert profiler is not None
        since = profiler.now()
        result = self._run(output_names, feed, taps, on_device, limits)
        profiler.add("Session", "SequentialExecutor::Execute", since)
        profiler.add("Session", "model_run", since)
        return result

    def _run(
        self, output_names: Any, feed: Mapping[str, Any], taps: Any, on_device: bool, limits: Limits | None = None
    ) -> Any:
        wanted = output_names_of(self._whole.graph, output_names, feed)
        if not wanted and not taps:
            raise InvalidArgument("At least one output should be requested: the model has none (`taps` gives values).")
        if on_device:
            from ortlite.api.values import on_device as located

            built = self._parts.of(feed, wanted, on_device=True)
            return [located(value) for value in built.results(built.feed.values(feed), wanted, limits)]
        tapped_names = () if taps is None else tapped(self.model.graph, [taps] if _one(taps) else taps)
        built = self._parts.of(feed, (*wanted, *tapped_names))
        outside = built.compute(built.feed.values(feed), (*wanted, *tapped_names), limits)
        if taps is None:
            return outside
        return outside[: len(wanted)], dict(zip(tapped_names, outside[len(wanted) :], strict=True))

    def io_binding(self) -> IOBinding:
        """A new IOBinding: what to read inputs from, and where to write outputs."""
        from ortlite.api.binding import IOBinding

        return IOBinding(self)

    def set_providers(self, providers: Any = None, provider_options: Any = None) -> None:
        """Rebuild the session on other providers. Raises RuntimeError for an unknown one."""
        with self._within():
            self._create(providers, provider_options, frozenset())

    def end_profiling(self) -> str:
        """Write the profile, and return its path; "" where there is none, or it was written before."""
        return "" if self._profiler is None else self._profiler.write()

    def get_profiling_start_time_ns(self) -> int:
        """When profiling began, in nanoseconds since 1970; 0 where it did not."""
        return 0 if self._profiler is None else self._profiler.start_ns

    def set_ep_dynamic_options(self, options: Mapping[str, str]) -> None:
        """Accepted: no provider here has options that change while a session lives.

        Raises TypeError for what is no dict, RuntimeError for an empty one.
        """
        if not isinstance(options, Mapping):
            raise TypeError(f"options is a dict from str to str, not {type(options).__name__}")
        if not options:
            raise RuntimeError("Dynamic options: expected to have at least one element")
        warnings.warn("ortlite's providers have no dynamic options: these have no effect.", UserWarning, stacklevel=2)

    def release_captured_graph(self, graph_annotation_id: int = 0) -> None:
        """Let go of the CUDA graphs, and of all other code for shapes that came up; made anew when they do again.

        Graphs have no ids here: an int is asked for, and every graph goes. Raises TypeError for what is none.
        """
        if not isinstance(graph_annotation_id, int):
            raise TypeError(f"graph_annotation_id is an int, not {type(graph_annotation_id).__name__}")
        self._parts.forget()

    def __reduce__(self) -> Any:
        from ortlite.api.pickles import rebuild, source_of

        providers = [(name, dict(self._provider_options[name])) for name in self._providers]
        keywords = {
            "fallback": self._fallback,
            "placement": self._placement,
            "enable_fallback": int(self._enable_fallback),
            "disabled_optimizers": tuple(self._parts.disabled),
        }
        source = source_of(self._model_path, self._model_bytes)
        return rebuild, (InferenceSession, source, self._sess_options, providers, keywords)

    @property
    def _sess(self) -> Any:
        """What onnxruntime keeps here: the same session, with the methods of its inner class."""
        from ortlite.api.inner import InferenceSession as Inner

        return Inner._of(self)

    _profiling_start_time_ns = property(get_profiling_start_time_ns)

    def disable_fallback(self) -> None:
        """Let errors of a provider through instead of running on the CPU provider."""
        self._enable_fallback = False

    def enable_fallback(self) -> None:
        """Run on the CPU provider when another one fails."""
        self._enable_fallback = True


def _one(taps: Any) -> bool:
    return isinstance(taps, str | re.Pattern)


def _warn_of_ignored(keywords: Mapping[str, Any], options: SessionOptions) -> None:
    """Say what was asked for and has no effect."""
    for name in keywords.keys() - {"enable_fallback", "read_config_from_model", "disabled_optimizers"}:
        near = get_close_matches(name, ["providers", "provider_options", "sess_options", "fallback", "placement"], 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        warnings.warn(f"InferenceSession has no argument {name!r}: it is ignored.{hint}", UserWarning, stacklevel=3)
    if options._entries.get(AFFINITIES):
        warnings.warn(
            f"{AFFINITIES} has no effect: say which processors the process may use (taskset, os.sched_setaffinity).",
            UserWarning,
            stacklevel=3,
        )
