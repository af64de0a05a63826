"""InferenceSession: a model, ready to run, behind onnxruntime's methods."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ortlite.api.errors import EPFail, Fail, InvalidArgument
from ortlite.api.options import RunOptions, SessionOptions
from ortlite.api.providers import check_and_normalize_provider_args, get_available_providers, resolve
from ortlite.provider import CPU

if TYPE_CHECKING:
    from ortlite.api.explain import Explanation
    from ortlite.api.values import ModelMetadata, NodeArg
    from ortlite.graph import Graph, Model
    from ortlite.pipeline import Stages

__all__ = ["InferenceSession"]

log = logging.getLogger("ortlite")


class InferenceSession:
    """Run a model.

    `path_or_bytes` is a path (str or os.PathLike) or the bytes of a model. `providers` are names or (name, options)
    tuples, tried in order for every node; the CPU provider stands last and is added where it is missing.

    Raises TypeError for a source of another type, and the classes of `ortlite.api.errors` for a model that
    cannot be read or is not valid. A bad `providers` falls back to the CPU provider with a warning, as in
    onnxruntime, unless `enable_fallback=0`.
    """

    def __init__(
        self,
        path_or_bytes: str | os.PathLike[str] | bytes,
        sess_options: SessionOptions | None = None,
        providers: Sequence[str | tuple[str, dict[Any, Any]]] | None = None,
        provider_options: Sequence[dict[Any, Any]] | None = None,
        **kwargs: Any,
    ):
        if not isinstance(path_or_bytes, str | os.PathLike | bytes):
            raise TypeError(f"Unable to load from type '{type(path_or_bytes)}'")
        self._sess_options = sess_options if sess_options is not None else SessionOptions()
        self._enable_fallback = bool(kwargs.get("enable_fallback", 1))
        self._disabled = frozenset(kwargs.get("disabled_optimizers") or ())
        self._model_path = None if isinstance(path_or_bytes, bytes) else os.fspath(path_or_bytes)
        self._model_bytes = path_or_bytes if isinstance(path_or_bytes, bytes) else None
        try:
            self._create(providers, provider_options, self._disabled)
        except (ValueError, RuntimeError) as error:
            if not self._enable_fallback:
                raise
            log.warning("EP Error %s when using %s. Falling back to [%r] and retrying.", error, providers, CPU)
            try:
                self._create([CPU], None, self._disabled)
            except (ValueError, RuntimeError) as second:
                raise second from error
            self._enable_fallback = False

    def _create(self, providers: Any, provider_options: Any, disabled: frozenset[str]) -> None:
        names, options = check_and_normalize_provider_args(providers, provider_options, get_available_providers())
        chosen = resolve(names, options)

        from ortlite import load, pipeline  # onnx and the kernels are imported with the first session

        entries = self._sess_options._entries  # noqa: SLF001  (options are part of this package)
        source = self._model_path if self._model_bytes is None else self._model_bytes
        assert source is not None
        folder = entries.get("session.model_external_initializers_file_folder_path")
        model = load.load(source, external_data=folder)
        model = replace(model, graph=_with_dimensions(model.graph, self._sess_options._free_dimensions))  # noqa: SLF001
        listed = entries.get("optimization.disable_specified_optimizers", "")
        self._stages: Stages = pipeline.build(
            model,
            chosen,
            level=int(self._sess_options.__dict__["graph_optimization_level"]),
            disabled=disabled | set(filter(None, listed.split(","))),
            check_types=entries.get("ortlite.check_types") == "1",
        )
        self._model: Model = self._stages.model
        self._providers = [provider.name for provider in chosen]
        self._provider_options = {provider.name: dict(provider.options) for provider in chosen}
        graph = self._model.graph
        self._required = [n for n in graph.inputs if n not in graph.overridable]
        self._contexts = [provider.context for provider in chosen]
        self._hosts = [index for index, p in enumerate(self._stages.plan.input_providers) if p.name != CPU]

    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        run_options: RunOptions | None = None,
    ) -> list[Any]:
        """Compute `output_names` (all outputs, in graph order, when None or empty) from `input_feed`.

        Tensors are NumPy arrays of the declared dtype (or nested lists), sequences lists, maps dicts, an empty
        optional None. Outputs are fresh arrays. Raises ValueError for a missing input, InvalidArgument for an unknown
        name or a wrong dtype, rank or dimension, Fail for an error in a kernel.
        """
        from ortlite.api.values import to_outside

        if isinstance(output_names, str):
            raise TypeError("output_names is a sequence of names, not a str")
        if run_options is not None and run_options.__dict__["terminate"]:
            raise Fail("Exiting due to terminate flag being set to true.")
        names = self._model.graph.outputs
        for name in output_names or ():
            if name not in names:
                raise InvalidArgument(f"Invalid output name:{name}")
        inputs = self._inputs(input_feed)
        with ExitStack() as stack:
            for context in self._contexts:
                stack.enter_context(context())
            try:
                results = self._stages.program(inputs)
            except EPFail:
                if not self._enable_fallback:
                    raise
                self.set_providers([CPU])
                self._enable_fallback = False
                return self.run(output_names, input_feed, run_options)
        if output_names:
            results = tuple(results[names.index(name)] for name in output_names)
        return to_outside(results)

    def _inputs(self, feed: Mapping[str, Any]) -> list[Any]:
        """The program's inputs, checked and on the providers where it wants them."""
        from ortlite.api.values import to_inside
        from ortlite.graph import OptionalType

        graph = self._model.graph
        missing = [n for n in self._required if n not in feed and not isinstance(graph.types.get(n), OptionalType)]
        if missing:
            raise ValueError(f"Required inputs ({missing}) are missing from input feed ({list(feed)}).")
        for name in feed:
            if name not in graph.inputs:
                raise InvalidArgument(f"Invalid input name: {name}")
        values = [
            to_inside(name, feed[name], graph.types.get(name)) if name in feed else graph.constants.get(name)
            for name in graph.inputs
        ]
        if self._hosts:
            from ortlite.provider import create, transfer

            cpu = create(CPU)
            for index in self._hosts:
                values[index] = transfer(values[index], cpu, self._stages.plan.input_providers[index])
        return values

    def get_inputs(self) -> list[NodeArg]:
        """The inputs that must be fed, in the file's order."""
        return self._args(self._required)

    def get_outputs(self) -> list[NodeArg]:
        """The outputs, in the file's order."""
        return self._args(self._model.graph.outputs)

    def get_overridable_initializers(self) -> list[NodeArg]:
        """Inputs with a default value, which may be fed."""
        return self._args(self._model.graph.overridable)

    def _args(self, names: Sequence[str]) -> list[NodeArg]:
        from ortlite.api.values import NodeArg

        return [NodeArg.of(name, self._model.graph.types.get(name)) for name in names]

    def get_modelmeta(self) -> ModelMetadata:
        """What the file says about itself."""
        from ortlite.api.values import ModelMetadata

        m = self._model
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

    def explain(self) -> Explanation:
        """Per node the provider that runs it and why not an earlier one; every crossing. Prints as a table."""
        from ortlite.api.explain import explain

        return explain(self._stages.partitions, self._stages.plan)


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
