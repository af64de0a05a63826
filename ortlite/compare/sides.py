"""What is compared: something that runs a model and hands out every value on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from ortlite import pipeline, provider
from ortlite.api.feed import feed_of
from ortlite.api.values import to_outside
from ortlite.graph import Graph, Model, Node, ancestors, extract
from ortlite.guard import Bounded
from ortlite.limits import current
from ortlite.ops import registry
from ortlite.optimize import DISABLED
from ortlite.optimize.inline_if import inline_constant_if
from ortlite.provider import CPU, entered
from ortlite.transfer import TransferStats, transfer

__all__ = ["ProviderSide", "Side", "drawing", "made", "unfolded"]


class Side(Protocol):
    """One of the two that are compared."""

    @property
    def name(self) -> str:
        """What reports call it."""

    def run(self, model: Model, feed: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
        """The values `names` of the model's main graph, computed from `feed`; without those it cannot hand out.

        `feed` may give values that nodes compute: those nodes then do not run.
        """


class ProviderSide:
    """An execution provider of ours, what it cannot run on the CPU provider. No optimisation pass hides a value."""

    def __init__(self, name: str, options: Mapping[str, str] | None = None):
        """Raises RuntimeError for a provider that is unknown or not available."""
        cpu = provider.create(CPU)
        chosen = cpu if name == CPU else provider.create(name, options)
        self.providers = (cpu,) if chosen is cpu else (chosen, cpu)

    @property
    def name(self) -> str:
        """The provider's name, without the words that all have in common, and its options."""
        options = ",".join(f"{name}={value}" for name, value in self.providers[0].options.items())
        short = self.providers[0].name.removesuffix("ExecutionProvider")
        return f"{short}:{options}" if options else short

    def run(self, model: Model, feed: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
        """See Side. Raises what a session does for wrong feeds and failing nodes."""
        graph = extract(model.graph, list(feed), names)
        with entered(self.providers):
            stages = pipeline.build(replace(model, graph=graph), self.providers, level=DISABLED, seed=0)
            values = feed_of(graph).values(feed)
            places = stages.plan.input_providers
            inputs = [transfer(v, self.providers[-1], p, TransferStats()) for v, p in zip(values, places, strict=True)]
            limits = current()
            results = (Bounded(stages.program, limits) if limits.of_runs else stages.program)(inputs)
            return dict(zip(graph.outputs, to_outside(results), strict=True))

    def elsewhere(self, model: Model) -> set[str]:
        """The values of the main graph that this provider leaves to the CPU provider; shape arithmetic is not meant."""
        graph = extract(model.graph, (), made(model.graph))
        stages = pipeline.build(replace(model, graph=graph), self.providers, level=DISABLED)
        pairs = zip(stages.partitions.graph.nodes, stages.partitions.placements, strict=True)
        return {name for node, place in pairs if place.provider and not place.host for name in node.outputs if name}


def made(graph: Graph) -> tuple[str, ...]:
    """Every value that the nodes of the main graph compute, in order."""
    return tuple(name for node in graph.nodes for name in node.outputs if name)


def drawing(graph: Graph) -> tuple[Node, ...]:
    """The nodes that draw random numbers, in subgraphs too: no two libraries need to draw the same."""
    return tuple(node for node in graph.nodes if any(_draws(inner, graph) for inner in _within(node)))


def unfolded(model: Model, side: Side, feed: Mapping[str, Any]) -> Model:
    """The model with each If of its main graph replaced by the branch that it takes on `side`.

    What a model keeps in one giant If can then be seen. An If that hangs on random numbers stays.
    """
    while True:
        graph = model.graph
        random = set(map(id, drawing(graph)))
        conditions = {
            node.inputs[0]
            for node in graph.nodes
            if (node.domain, node.op_type) == ("", "If")
            and not random.intersection(map(id, ancestors(graph.nodes, [node.inputs[0]], feed)[0]))
        }
        if not conditions:
            return model
        known = {**graph.constants, **feed}
        known |= side.run(model, feed, sorted(conditions - known.keys())) if conditions - known.keys() else {}
        taken = {f"{name}, taken": np.asarray(known[name]) for name in conditions}
        names = Counter(node.name for node in graph.nodes)  # values of the branch are named after the node: be it one
        nodes = tuple(
            replace(node, inputs=(f"{node.inputs[0]}, taken",), name=node.name if names[node.name] == 1 else "")
            if (node.domain, node.op_type) == ("", "If") and node.inputs[0] in conditions
            else node
            for node in graph.nodes
        )
        inlined = inline_constant_if(graph.with_nodes(nodes, constants={**graph.constants, **taken}))
        constants = {name: value for name, value in inlined.constants.items() if name not in taken}
        model = replace(model, graph=replace(inlined, constants=constants))


def _within(node: Node) -> Iterable[Node]:
    yield node
    for graph in node.subgraphs.values():
        yield from graph.walk()


def _draws(node: Node, graph: Graph) -> bool:
    kernel = registry.lookup(node.domain, node.op_type, node.opset)
    if kernel is None or "rng" not in kernel.injected:
        return False
    if node.op_type != "Dropout":
        return True
    if kernel.since == 1:
        return not node.attributes.get("is_test", 0)
    training = node.inputs[2] if len(node.inputs) > 2 else ""  # a value that is not known may be true
    return bool(training) and bool(graph.constants[training].any() if training in graph.constants else True)
