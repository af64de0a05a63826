"""The table of contents: from a file to a program, one line a stage.

Each stage takes one frozen type and returns the next; print any of them to see what it did.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from ortlite import progress
from ortlite.compile import Program, Shared, compile_plan
from ortlite.graph import Graph, Model
from ortlite.ops import registry
from ortlite.optimize import ALL, optimize, suit
from ortlite.partition import Partitions, partition
from ortlite.plan import Plan, plan
from ortlite.provider import ExecutionProvider, entered
from ortlite.stand_in import StandIn

__all__ = ["Stages", "build"]


class Stages(NamedTuple):
    """What every stage made of a model, the program last."""

    model: Model
    partitions: Partitions
    plan: Plan
    program: Program


def build(
    model: Model,
    providers: Sequence[ExecutionProvider],
    *,
    level: int = ALL,
    disabled: Collection[str] = (),
    pinned: Mapping[str, str] | None = None,
    defer: bool = True,
    outputs_on_device: bool = False,
    seed: int | None = None,
    shared: Shared | None = None,
) -> Stages:
    """Optimise, place, lay out and bind a loaded model (`ortlite.load.load`)."""
    shared = shared or Shared()
    optimized = optimize(model.graph, level, disabled, pinned or ())

    def suited(provider: ExecutionProvider) -> Graph:
        return suit(optimized, provider.rewrites, level, disabled, pinned or ())

    graph = suited(providers[0])
    progress.say("placing")  # where a library is imported, if it was not
    parts = partition(graph, providers, pinned=pinned, defer=defer)
    with entered(providers):  # constants move to their devices
        steps = plan(parts, outputs_on_device=outputs_on_device, device_constants=shared.device_constants)
        for provider in providers:
            provider.settle([*steps.constants.values()])
    others = _stand_in(optimized, suited, providers, steps, seed) if defer and not pinned else None
    program = compile_plan(steps, seed=seed, shared=shared, stand_in=others)
    return Stages(replace(model, graph=graph), parts, steps, program)


def _stand_in(
    graph: Graph,
    suited: Callable[[ExecutionProvider], Graph],
    providers: Sequence[ExecutionProvider],
    steps: Plan,
    seed: int | None,
) -> StandIn | None:
    """The same graph on the CPU provider, where a library's compiler asks for that; None where it does not.

    Nor where an operator is a third party's, whose kernel may be made for one library.
    """
    compilers = [provider.compiler for provider in providers]
    if not any(compiler is not None and compiler.stands_in for compiler in compilers):
        return None
    kernels = [registry.lookup(node.domain, node.op_type, node.opset) for node in graph.walk()]
    if any(kernel is None or not registry.built_in(kernel) for kernel in kernels):
        return None

    def make() -> tuple[Plan, Program]:
        other = plan(partition(suited(providers[-1]), providers[-1:]))
        return other, compile_plan(other, seed=seed)

    return StandIn(steps, make)
