"""The programs of a session: its model's, and those of the parts of it that runs ask for."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ortlite import pipeline
from ortlite.api import environment
from ortlite.api.feed import Prepared
from ortlite.api.names import unknown
from ortlite.compile import Shared
from ortlite.errors import InvalidArgument, typed
from ortlite.graph import extract
from ortlite.ops import registry
from ortlite.run import check_types

if TYPE_CHECKING:
    from ortlite.api.options import SessionOptions
    from ortlite.api.profile import Profiler
    from ortlite.graph import Model
    from ortlite.limits import Limits
    from ortlite.provider import ExecutionProvider
    from ortlite.steps import OnStep

__all__ = ["Parts"]

KEPT = 16  # programs for parts of the model


@dataclass
class Parts:
    """The programs for a model as it was loaded: `whole` computes all its outputs, `of(…)` some from some feeds.

    `disabled` are the names of passes, `placement` pins nodes to providers; with `defer` a node may go to a later
    provider that runs it better.
    """

    model: Model
    providers: Sequence[ExecutionProvider]
    options: SessionOptions
    disabled: frozenset[str]
    placement: Mapping[str, str]
    defer: bool
    limits: Limits
    profiler: Profiler | None = None
    shared: Shared = field(default_factory=Shared, init=False)
    whole: Prepared = field(init=False)
    _made: dict[tuple[frozenset[str], tuple[str, ...], bool], Prepared] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.whole = self._build(self.model, self.shared)
        self._inputs, self._outputs = frozenset(self.whole.graph.inputs), frozenset(self.whole.graph.outputs)

    def of(self, feed: Mapping[Any, Any], outputs: tuple[str, ...], on_device: bool = False) -> Prepared:
        """The program for some outputs from some feeds: the whole model's where those are its own.

        `on_device`: outputs stay where they are computed. Raises InvalidArgument for a name that no value has,
        ValueError where an input is missing.
        """
        own = feed.keys() <= self._inputs and self._outputs.issuperset(outputs)
        if own and not on_device:
            return self.whole
        if own:
            feed, outputs = dict.fromkeys(self.whole.graph.inputs), self.whole.graph.outputs
        elif len(known := self._known(feed, outputs)) < len(feed):
            return self.of(known, outputs, on_device)
        key = frozenset(feed), tuple(dict.fromkeys(outputs)), on_device
        found = self._made.get(key)
        if found is None:
            part = self.model if own else replace(self.model, graph=extract(self.model.graph, list(feed), outputs))
            # weights that the whole has on a device are used there; what a part adds goes with it
            shared = replace(self.shared, device_constants=ChainMap({}, self.shared.device_constants))
            found = self._made[key] = self._build(part, shared, on_device)
            while len(self._made) > KEPT:
                self._made.pop(next(iter(tuple(self._made))), None)  # other threads may add some
        return found

    def forget(self) -> None:
        """Let go of all code for shapes that came up."""
        for part in (self.whole, *tuple(self._made.values())):
            part.stages.program.forget()

    @cached_property
    def _names(self) -> frozenset[str]:
        """What all values of the model are called: runs may feed them, and ask for them."""
        graph = self.model.graph
        made = (name for node in graph.nodes for name in node.outputs if name)
        return frozenset((*graph.inputs, *graph.constants, *made))

    def _known(self, feed: Mapping[Any, Any], outputs: tuple[str, ...]) -> Mapping[str, Any]:
        """The feed, without None for what no value is called."""
        graph, names = self.model.graph, self._names
        for name in outputs:
            if name not in names:
                raise InvalidArgument(f"Invalid output name:{name} ({unknown(graph, name)})")
        for name, value in feed.items():
            if not isinstance(name, str):
                self.whole.feed.check_present(feed)
                raise TypeError(f"the names of inputs are str, not {name!r}")
            if name not in names and value is not None:  # None is not looked at
                self.whole.feed.check_present(feed)
                raise InvalidArgument(f"Invalid input name: {name} ({unknown(graph, name)})")
        return {name: value for name, value in feed.items() if name in names}

    def _build(self, model: Model, shared: Shared, on_device: bool = False) -> Prepared:
        """Take a model, or a part of it, through the pipeline."""
        options, profiler = self.options, self.profiler
        with typed(f"preparing {model.graph.name!r}"), registry.local(options._operators):
            stages = pipeline.build(
                model,
                self.providers,
                level=int(options.graph_optimization_level),
                disabled=self.disabled,
                pinned=self.placement,
                defer=self.defer,
                outputs_on_device=on_device,
                seed=environment.seed(),
                shared=shared,
            )
        on_step: OnStep | None = check_types if options._entries.get("ortlite.check_types") == "1" else None
        if profiler is not None:
            profiler.weights.update(map(id, stages.plan.constants.values()))
            on_step = profiler.hook() if on_step is None else profiler.hook(on_step)
        return Prepared.of(stages, on_step, self.limits)
