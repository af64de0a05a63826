"""The table of contents: from a file to a program, one line a stage.

Each stage takes one frozen type and returns the next; print any of them to see what it did.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from ortlite import progress
from ortlite.compile import Program, Shared, compile_plan
from ortlite.graph import Model
from ortlite.optimize import ALL, optimize
from ortlite.partition import Partitions, partition
from ortlite.plan import Plan, plan
from ortlite.provider import ExecutionProvider, entered

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
    graph = optimize(model.graph, level, disabled, pinned or ())
    progress.say("placing")  # where a library is imported, if it was not
    parts = partition(graph, providers, pinned=pinned, defer=defer)
    with entered(providers):  # constants move to their devices
        steps = plan(parts, outputs_on_device=outputs_on_device, device_constants=shared.device_constants)
    program = compile_plan(steps, seed=seed, shared=shared)
    return Stages(replace(model, graph=graph), parts, steps, program)
