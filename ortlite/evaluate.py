"""Run a graph once, on the CPU provider: what constant folding and the judge of compare do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ortlite import run
from ortlite.compile import compile_plan
from ortlite.graph import Graph
from ortlite.partition import partition
from ortlite.plan import Call, plan
from ortlite.provider import CPU, create
from ortlite.steps import Bound, OnStep

__all__ = ["NeedsError", "evaluate", "going_on"]


def evaluate(
    graph: Graph, inputs: Sequence[Any] = (), *, seed: int | None = None, on_step: OnStep | None = None
) -> tuple[Any, ...]:
    """The graph's outputs. `seed` makes random operators repeat; for `on_step` see `run.interpret`."""
    cpu = create(CPU, {"compiled": "0"})  # for one run nothing is worth compiling, nor loading a compiler
    with cpu.context():
        return compile_plan(plan(partition(graph, (cpu,))), seed=seed)(inputs, on_step)


class NeedsError(LookupError):
    """What a node reads is missing."""


def going_on(failures: dict[str, Exception], step: OnStep = run.step) -> OnStep:
    """An `on_step` that goes on after a step that fails: `failures` says which values are missing, and why.

    The exception is what `step` raised, or a NeedsError. Values of subgraphs are not missed one by one: the node fails.
    """
    called: dict[int, str] = {}  # slot -> the value in it
    missing: dict[int, str] = {}  # the same, of those that are missing

    def on_step(bound: Bound, values: list[Any]) -> None:
        names = bound.step.node.outputs if isinstance(bound.step, Call) else (called.get(bound.step.source, ""),)
        called.update((slot, name) for slot, name in zip(bound.outputs, names, strict=True) if slot is not None)
        lost = next((missing[slot] for slot in bound.step.reads() if slot in missing), None)
        try:
            if lost is not None:
                raise NeedsError(f"needs {lost!r}")
            step(bound, values)
        except Exception as error:  # noqa: BLE001  (whatever a kernel raises)
            for name, slot in zip(names, bound.outputs, strict=True):
                if slot is not None:
                    missing[slot] = name
                    failures.setdefault(name, error)

    return on_step
