"""Run a graph once, on the CPU provider: what constant folding and the judge of compare do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ortlite.compile import compile_plan
from ortlite.graph import Graph
from ortlite.partition import partition
from ortlite.plan import plan
from ortlite.provider import CPU, create
from ortlite.steps import OnStep

__all__ = ["evaluate"]


def evaluate(
    graph: Graph, inputs: Sequence[Any] = (), *, seed: int | None = None, on_step: OnStep | None = None
) -> tuple[Any, ...]:
    """The graph's outputs. `seed` makes random operators repeat; for `on_step` see `run.interpret`."""
    cpu = create(CPU)
    with cpu.context():
        return compile_plan(plan(partition(graph, (cpu,))), seed=seed)(inputs, on_step)
