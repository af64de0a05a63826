"""InferenceSession: a model, ready to run, behind onnxruntime's methods."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections import ChainMap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from ortlite.api.options import RunOptions, SessionOptions
from ortlite.api.providers import check_and_normalize_provider_args, get_available_providers, resolve
from ortlite.errors import EPFail, Fail, InvalidArgument, typed
from ortlite.provider import CPU, usable

if TYPE_CHECKING:
    from ortlite.api.explain import Explanation
    from ortlite.api.feed import Prepared
    from ortlite.api.values import ModelMetadata, NodeArg
    from ortlite.compile import Shared
    from ortlite.graph import Graph, Model
    from ortlite.pipeline import Stages
    from ortlite.provider import ExecutionProvider

__all__ = ["InferenceSession"]

log = logging.getLogger("ortlite")

FALLBACK = ("allow", "warn", "error")
NO_FALLBACK = (
    "This session contains graph nodes that are assigned to the default CPU EP, but fallback to CPU EP has been "
    "explicitly disabled by the user."
)
UNREAD = {"enable_profiling": "no profile is written"}
LISTED = 20  # nodes that a message names
PARTIALS = 16  # programs for parts of the model that a session keeps


class InferenceSession:
    """Run a model.

    `path_or_bytes` is a path (str or os.PathLike) or the bytes of a model. `providers` are names or (name, options)
    tuples, tried in order for every node; the CPU provider stands last and is added where it is missing.

    Beyond onnxruntime's arguments: `fallback` says what becomes of nodes that none of the other providers runs: "allow"
    (the default), "warn" or "error" (as the config entry session.disable_cpu_ep_fallback=1); `placement` maps the
    name of a node, or of a value it computes, to the provider that must run it.

    Raises TypeError for a source of another type, ValueError for a bad `fallback` or `placement`, and the classes of
    `ortlite.errors` for a model that cannot be read or is not valid. A bad `providers` falls back to the CPU
    provider with a warning, as in onnxruntime, unless `enable_fallback=0`, or `fallback="error"`, or there is a
    `placement`. Unknown arguments, and the options that would write a file, get a UserWarning; options that only tune
    onnxruntime (arenas, execution order) are accepted and have no effect.

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
        if not isinstance(path_or_bytes, str | os.PathLike | bytes):
            raise TypeError(f"Unable to load from type '{type(path_or_bytes)}'")
        if fallback not in {None, *FALLBACK}:
            raise ValueError(f"fallback is one of {', '.join(FALLBACK)}, not {fallback!r}")
        if not isinstance(sess_options, SessionOptions | None):
            raise TypeError(f"sess_options is an ortlite.SessionOptions, not {type(sess_options)}")
        _warn_of_ignored(sess_options, kwargs)
        self._sess_options = sess_options if sess_options is not None else SessionOptions()
        self._fallback = fallback or ("error" if self._no_cpu else "allow")
        self._placement = dict(placement or {})
        self._enable_fallback = bool(kwargs.get("enable_fallback", 1))
        self._disabled = frozenset(kwargs.get("disabled_optimizers") or ())
        self._model_path = None if isinstance(path_or_bytes, bytes) else os.fspath(path_or_bytes)
        self._model_bytes = path_or_bytes if isinstance(path_or_bytes, bytes) else None
        try:
            self._create(providers, provider_options, self._disabled)
        except (ValueError, RuntimeError) as error:
            if not self._may_fall_back:
                raise
            log.warning("EP Error %s when using %s. Falling back to [%r] and retrying.", error, providers, CPU)
            try:
                self._create([CPU], None, self._disabled)
            except (ValueError, RuntimeError) as second:
                raise second from error
            self._enable_fallback = False

    @property
    def _may_fall_back(self) -> bool:
        """Whether a provider that fails as a whole may be replaced by the CPU provider."""
        return self._enable_fallback and not self._placement and self._fallback != "error"

    @property
    def _no_cpu(self) -> bool:
        """Whether the options forbid the CPU provider, even where no other was asked for."""
        return self._sess_options._entries.get("session.disable_cpu_ep_fallback") == "1"  # noqa: SLF001

    def _create(self, providers: Any, provider_options: Any, disabled: frozenset[str]) -> None:
        available = get_available_providers()
        names, options = check_and_normalize_provider_args(providers, provider_options, available)
        if self._no_cpu and CPU in names:
            raise InvalidArgument(
                "Conflicting session configuration: explicitly added the CPU EP to the session, but also disabled "
                "fallback to the CPU EP via session configuration options."
            )
        chosen = resolve(names, options, self._sess_options.__dict__["intra_op_num_threads"])
        if self._fallback == "error" and (lost := [name for name in names if name not in usable()]):
            raise Fail(f"{NO_FALLBACK} Not available here: {', '.join(lost)}; available: {', '.join(available)}.")

        from ortlite import load  # onnx and the kernels are imported with the first session

        entries = self._sess_options._entries  # noqa: SLF001
        source = self._model_path if self._model_bytes is None else self._model_bytes
        assert source is not None
        folder = entries.get("session.model_external_initializers_file_folder_path")
        with typed(f"Load model from {self._model_path or 'bytes'} failed"):
            model = load.load(source, external_data=folder, format_=entries.get("session.load_model_format", ""))
        model = replace(model, graph=_with_dimensions(model.graph, self._sess_options._free_dimensions))  # noqa: SLF001
        _check_placement(self._placement, model.graph, [provider.name for provider in chosen])
        listed = entries.get("optimization.disable_specified_optimizers", "")
        disabled |= set(filter(None, listed.split(",")))
        from ortlite.compile import Shared

        shared = Shared()
        whole = self._build(model, chosen, disabled, shared)
        if self._no_cpu or (len(chosen) > 1 and self._fallback != "allow"):
            self._judge_fallback(whole.stages)
        if path := self._sess_options.__dict__["optimized_model_filepath"]:
            self._write_optimized(path, model, whole.stages.model, disabled)
        # nothing is raised from here on: a session that set_providers could not rebuild stays as it was
        self.model: Model = model  # as loaded
        self._disabled_now = disabled
        self._chosen = chosen
        self._providers = [provider.name for provider in chosen]
        given = dict(zip(names, options, strict=True))
        self._provider_options = {provider.name: given.get(provider.name, {}) for provider in chosen}
        self._whole = whole
        self._shared = shared
        self._partials: dict[tuple[frozenset[str], tuple[str, ...]], Prepared] = {}

    def _build(
        self,
        model: Model,
        providers: Sequence[ExecutionProvider],
        disabled: frozenset[str],
        shared: Shared,
    ) -> Prepared:
        """Take a model, or a part of it, through the pipeline."""
        from ortlite import pipeline
        from ortlite.api.feed import Prepared
        from ortlite.run import check_types

        with typed(f"preparing {model.graph.name!r}"):
            stages = pipeline.build(
                model,
                providers,
                level=int(self._sess_options.__dict__["graph_optimization_level"]),
                disabled=disabled,
                pinned=self._placement,
                defer=self._fallback != "error",
                shared=shared,
            )
        checks = self._sess_options._entries.get("ortlite.check_types") == "1"  # noqa: SLF001
        return Prepared.of(stages, check_types if checks else None)

    def _write_optimized(self, path: str, model: Model, optimized: Model, disabled: frozenset[str]) -> None:
        """Write the model as the optimiser leaves it, without operators newer than it can be written with."""
        from ortlite import save
        from ortlite.optimize import NEWER, optimize

        entries = self._sess_options._entries  # noqa: SLF001
        external = entries.get("session.optimized_model_external_initializers_file_name", "")
        least = int(entries.get("session.optimized_model_external_initializers_min_size_in_bytes", "1024"))
        with typed(f"writing the optimized model to {path}"):
            try:
                save.write(optimized, path, external, least)
            except ValueError:
                level = int(self._sess_options.__dict__["graph_optimization_level"])
                graph = optimize(model.graph, level, disabled | NEWER, self._placement)
                save.write(replace(model, graph=graph), path, external, least)

    def _judge_fallback(self, stages: Stages) -> None:
        """Warn or fail where nodes run on the CPU provider that others were asked to run."""
        from ortlite.api.explain import fallen_back

        nodes = fallen_back(stages.partitions)
        if not nodes:
            return
        lines = [f"  {n.name} ({n.op_type}): {'; '.join(n.reasons) or 'no other provider'}" for n in nodes[:LISTED]]
        lines += [f"  and {len(nodes) - LISTED} more"] if len(nodes) > LISTED else []
        listed = "\n".join(lines)
        if self._fallback == "error":
            raise Fail(f"{NO_FALLBACK}\n{listed}")
        warnings.warn(f"{len(nodes)} nodes run on the CPU provider:\n{listed}", RuntimeWarning, stacklevel=4)

    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        run_options: RunOptions | None = None,
        *,
        taps: str | re.Pattern[str] | Sequence[str | re.Pattern[str]] | None = None,
    ) -> Any:
        """Compute `output_names` (all outputs, in graph order, when None or empty) from `input_feed`.

        Tensors are NumPy arrays of the declared dtype (or nested lists), sequences lists, maps dicts, an empty
        optional None. Outputs are fresh arrays. Raises ValueError for a missing input, InvalidArgument for an unknown
        name or a wrong dtype, rank or dimension, Fail for an error in a kernel.

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
        try:
            return self._run(output_names, input_feed, run_options, taps)
        except EPFail:
            if not self._may_fall_back:
                raise
            self.set_providers([CPU])
            self._enable_fallback = False
            return self._run(output_names, input_feed, run_options, taps)

    def _run(self, output_names: Any, feed: Mapping[str, Any], run_options: Any, taps: Any) -> Any:
        if output_names is None and run_options is None and taps is None:  # the way of most runs, without detours
            inputs = self._whole.feed.exactly(feed)
            if inputs is not None:
                return self._whole.compute(inputs)
        if isinstance(output_names, str):
            raise TypeError("output_names is a sequence of names, not a str")
        if run_options is not None:
            if not isinstance(run_options, RunOptions):
                raise TypeError(f"run_options is an ortlite.RunOptions, not {type(run_options)}")
            if run_options.__dict__["terminate"]:
                raise Fail("Exiting due to terminate flag being set to true.")
        wanted = tuple(output_names or self._whole.graph.outputs)
        tapped = () if taps is None else self._tapped([taps] if isinstance(taps, str | re.Pattern) else taps)
        built = self._partial(feed, (*wanted, *tapped))
        outside = built.compute(built.feed.values(feed), (*wanted, *tapped))
        if taps is None:
            return outside
        return outside[: len(wanted)], dict(zip(tapped, outside[len(wanted) :], strict=True))

    def _tapped(self, taps: Sequence[str | re.Pattern[str]]) -> tuple[str, ...]:
        """The values that names and regular expressions mean: constants, then in the order of computation."""
        graph = self.model.graph
        computed = [*graph.inputs, *(name for node in graph.nodes for name in node.outputs if name)]
        known = [*(name for name in graph.constants if name not in graph.overridable), *computed]
        found: set[str] = set()
        for tap in taps:
            if not isinstance(tap, str | re.Pattern):
                raise TypeError(f"taps are names and regular expressions, not {type(tap)}")
            try:  # weights are asked for by name: an expression for a layer's values does not mean them
                hits = [name for name in known if name == tap] or [n for n in computed if re.fullmatch(tap, n)]
            except re.error as error:
                raise InvalidArgument(f"taps: {_unknown(graph, tap)} (as a regular expression: {error})") from None
            if not hits:
                pattern = tap.pattern if isinstance(tap, re.Pattern) else tap
                raise InvalidArgument(f"taps: {_unknown(graph, pattern, 'is called or matches')}")
            found.update(hits)
        return tuple(name for name in known if name in found)

    def _partial(self, feed: Mapping[str, Any], outputs: tuple[str, ...]) -> Prepared:
        """The program for some outputs from some feeds: the whole model's where those are its own."""
        whole = self._whole.graph
        if feed.keys() <= set(whole.inputs) and set(outputs) <= set(whole.outputs):
            return self._whole
        from ortlite.graph import extract

        graph = self.model.graph
        made = {name for node in graph.nodes for name in node.outputs if name} | graph.constants.keys()
        for name in outputs:
            if name not in made and name not in graph.inputs:
                raise InvalidArgument(f"Invalid output name:{name} ({_unknown(graph, name)})")
        for name in feed:
            if name not in made and name not in graph.inputs:
                raise InvalidArgument(f"Invalid input name: {name} ({_unknown(graph, name)})")
        key = frozenset(feed), tuple(dict.fromkeys(outputs))
        found = self._partials.get(key)
        if found is None:
            part = replace(self.model, graph=extract(graph, list(feed), outputs))
            # weights that the whole has on a device are used there; what a part adds goes with it
            shared = replace(self._shared, device_constants=ChainMap({}, self._shared.device_constants))
            found = self._build(part, self._chosen, self._disabled_now, shared)
            self._partials[key] = found
            while len(self._partials) > PARTIALS:
                self._partials.pop(next(iter(tuple(self._partials))), None)  # other threads may add some
        return found

    def get_inputs(self) -> list[NodeArg]:
        """The inputs that must be fed, in the file's order."""
        graph = self._whole.graph
        return self._args([name for name in graph.inputs if name not in graph.overridable])

    def get_outputs(self) -> list[NodeArg]:
        """The outputs, in the file's order."""
        return self._args(self._whole.graph.outputs)

    def get_overridable_initializers(self) -> list[NodeArg]:
        """Inputs with a default value, which may be fed."""
        return self._args(self._whole.graph.overridable)

    def _args(self, names: Sequence[str]) -> list[NodeArg]:
        from ortlite.api.values import NodeArg

        return [NodeArg.of(name, self._whole.graph.types.get(name)) for name in names]

    def get_modelmeta(self) -> ModelMetadata:
        """What the file says about itself."""
        from ortlite.api.values import ModelMetadata

        m = self._whole.stages.model
        return ModelMetadata(
            m.producer_name, m.graph.name, m.domain, m.description, m.graph_description, m.version, dict(m.metadata)
        )

    def get_session_options(self) -> SessionOptions:
        """The options the session was made with."""
        return self._sess_options

    def get_providers(self) -> list[str]:
        """Names of the session's providers, in order."""
        return list(self._providers)

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        """Options of each provider."""
        return {name: dict(options) for name, options in self._provider_options.items()}

    def set_providers(self, providers: Any = None, provider_options: Any = None) -> None:
        """Rebuild the session on other providers. Raises RuntimeError for an unknown one."""
        self._create(providers, provider_options, frozenset())

    def disable_fallback(self) -> None:
        """Let errors of a provider through instead of running on the CPU provider."""
        self._enable_fallback = False

    def enable_fallback(self) -> None:
        """Run on the CPU provider when another one fails."""
        self._enable_fallback = True

    @property
    def stages(self) -> Stages:
        """What every stage of the pipeline made of the model; each prints."""
        return self._whole.stages

    def explain(self) -> Explanation:
        """Per node the provider that runs it and why not an earlier one; every crossing. Prints as a table.

        What crossings cost is that of the last run of the whole model.

        Example:
            >>> from ortlite.cli.digits import model_bytes
            >>> explanation = InferenceSession(model_bytes()).explain()
            >>> explanation.nodes[1].op_type, explanation.nodes[1].provider, explanation.copies
            ('FusedConv', 'CPUExecutionProvider', ())

        """
        from ortlite.api.explain import explain

        return explain(self._whole.stages.partitions, self._whole.stages.plan, self._whole.input_transfers)


def _unknown(graph: Graph, name: Any, how: str = "is called") -> str:
    """What to say of a name that no value of the main graph has: what is like it, or where else it is."""
    for node in graph.nodes:
        for attribute, body in node.subgraphs.items():
            if any(name in (*inner.outputs, *inner.inputs) for inner in body.walk()):
                owner = f"node {node.name!r}" if node.name else f"the node that computes {node.outputs[0]!r}"
                return (
                    f"{name!r} is a value inside the {attribute} of {owner} ({node.op_type}), which may run any number "
                    "of times: only values of the main graph can be asked for or fed"
                )
    known = dict.fromkeys([*graph.inputs, *graph.constants, *(o for node in graph.nodes for o in node.outputs if o)])
    return f"no value {how} {name!r}{_near(str(name), known)}"


def _near(name: str, known: Collection[str]) -> str:
    """Names that are like one that is unknown: what a function called so computes, else what is spelt almost so."""
    inside = [other for other in known if other.startswith(f"{name}/") or other.endswith(f"/{name}")]
    near = inside[:3] or get_close_matches(name, known, 3)
    return f"; near it: {', '.join(map(repr, near))}" if near else ""


def _warn_of_ignored(options: SessionOptions | None, keywords: Mapping[str, Any]) -> None:
    """Say what was asked for and has no effect."""
    for name in keywords.keys() - {"enable_fallback", "read_config_from_model", "disabled_optimizers"}:
        near = get_close_matches(name, ["providers", "provider_options", "sess_options", "fallback", "placement"], 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        warnings.warn(f"InferenceSession has no argument {name!r}: it is ignored.{hint}", UserWarning, stacklevel=3)
    for name, consequence in UNREAD.items():
        if options is not None and options.__dict__[name]:
            warnings.warn(f"ortlite does not read SessionOptions.{name}: {consequence}.", UserWarning, stacklevel=3)


def _check_placement(placement: Mapping[str, str], graph: Graph, providers: Sequence[str]) -> None:
    """Raise ValueError for a name that no node has or computes, and for a provider that the session has not."""
    names = dict.fromkeys(n for node in graph.walk() for n in (node.name, *node.outputs) if n) if placement else {}
    for name, provider in placement.items():
        if name not in names:
            near = _near(name, names)
            raise ValueError(f"placement: no node is called {name!r} or computes a value of that name{near}")
        if provider not in providers:
            raise ValueError(f"placement: {name!r} is to run on {provider!r}, which is not among {list(providers)}")


def _with_dimensions(graph: Graph, overrides: Mapping[str, int]) -> Graph:
    """The graph with symbolic dimensions of its inputs fixed."""
    from ortlite.graph import TensorType

    if not overrides:
        return graph
    types = dict(graph.types)
    for name in graph.inputs:
        type_ = types.get(name)
        if isinstance(type_, TensorType) and type_.shape is not None:
            shape = tuple(overrides.get(d, d) if isinstance(d, str) else d for d in type_.shape)
            types[name] = replace(type_, shape=shape)
    return replace(graph, types=types)
