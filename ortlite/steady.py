"""Code for runs of which only a part of the signature comes up again, as where a cache grows by a token a run.

Such signatures never repeat, so no function of their own repays. But most of a decoder works on one token in every run:
where some inputs are the same in three runs of other signatures, what follows from them is baked in, and kernels on
shapes that stayed the same are written out, as in a function of one signature. Shapes that merely happened to stay the
same are looked at in every run; where one differs, the code for all signatures answers instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

from ortlite import run, specialise
from ortlite.graph import TensorType
from ortlite.inline import Inlined
from ortlite.plan import Call, Plan, Transfer
from ortlite.specialise import Guards
from ortlite.steps import Bound

__all__ = ["Steady", "lengthens"]

Function = Callable[..., tuple[Any, ...]]
Keep = Callable[[Mapping[int, Any]], Mapping[int, Any]]

RUNS = 4  # of other signatures before anything is noted: a function takes as long as ten of them
TRIES = 16  # runs in which shapes are noted
WRONG = 8  # runs in which a shape differed, after which the function is given up


class Steady:
    """What a program learns of the shapes of its runs, and the function made of that.

    `otherwise` answers for all signatures. `made` is told how many seconds the function took to make.
    """

    def __init__(self, plan: Plan, steps: Sequence[Bound], otherwise: Function, made: Callable[[float], None]):
        self.plan, self.steps = plan, steps
        self.otherwise, self.made = otherwise, made
        self.runs = 0
        self.differed: list[None] = []  # one for each run in which a shape did: the function holds it, not this object
        self.before: Any = None  # the signature of the last run that was noted
        self.alike = frozenset(range(len(plan.inputs)))  # positions whose part of the signatures was the same
        self.shapes: dict[int, tuple[int, ...]] | None = None  # of the slots whose shape was the same
        self.noted = 0
        self.parts: tuple[Any, ...] = ()  # of the signatures that the function is for, at the positions `places`
        self.places: tuple[int, ...] = ()
        self.function: Function | None = None

    def __call__(self, key: Any, inputs: Sequence[Any], keep: Keep) -> tuple[Any, ...] | None:
        """A run of a signature without a function of its own; None where there is nothing for it, and nothing to learn.

        `keep` tells which of some values may be baked in.
        """
        function = self.function
        if function is not None:
            if len(self.differed) >= WRONG:
                self.function, self.runs = None, RUNS + TRIES
                return None
            alike = all(key[place] == part for place, part in zip(self.places, self.parts, strict=True))
            return function(*inputs) if alike else None
        self.runs += 1
        if self.runs <= RUNS or self.runs > RUNS + TRIES or key == self.before:
            return None
        return self._learn(key, inputs, keep)

    def _learn(self, key: Any, inputs: Sequence[Any], keep: Keep) -> tuple[Any, ...] | None:
        """A run step by step, in which shapes are noted; the third that agrees makes the function."""
        before, self.before = self.before, key
        alike = self.alike
        if before is not None:
            alike = frozenset(i for i in alike if key[i] == before[i])
        if not alike:
            self.runs = RUNS + TRIES
            return None
        self.alike = alike
        given = specialise.to_bake(self.plan, inputs)
        steady = self.shapes or {}
        known = {self.plan.inputs[i] for i in alike}
        static, shapes, guarded = specialise.steady_slots(self.plan, self.steps, given, known, steady)
        values: dict[int, Any] = {}
        kernels: dict[int, Inlined] = {}
        found: dict[int, tuple[int, ...]] = {}
        spent: list[float] = []
        ready = self.noted > 1
        record = specialise.recorder(
            static if ready else set(), values, kernels if ready else None, self.plan.constants.keys(), shapes, spent
        )

        def on_step(bound: Bound, slots: list[Any]) -> None:
            record(bound, slots)
            for slot in bound.outputs:
                if slot is not None and isinstance(shape := getattr(slots[slot], "shape", None), tuple):
                    found[slot] = tuple(shape)

        outputs = run.interpret(self.plan, self.steps, given, on_step)
        same = found if self.shapes is None else {s: shape for s, shape in self.shapes.items() if found.get(s) == shape}
        agrees = ready and all(found.get(slot) == shape for slot, shape in steady.items())
        self.shapes, self.noted = same, self.noted + 1
        if agrees and kernels:
            began = perf_counter()
            guards = Guards({slot: steady[slot] for slot in guarded}, _counted(self.otherwise, self.differed))
            baked = keep(values)
            self.places, self.parts = tuple(alike), tuple(key[i] for i in alike)
            self.function = specialise.generate(self.plan, self.steps, baked, kernels, guards=guards, regions=False)
            self.made(sum(spent) + perf_counter() - began)
        return outputs


def lengthens(plan: Plan) -> bool:
    """Whether a result is an input with more behind it, along an axis of any length: a cache that the next run gets."""
    out = set(plan.outputs)
    out |= {step.source for step in plan.steps if isinstance(step, Transfer) and step.target in out}
    types = dict(zip(plan.inputs, plan.input_types, strict=False))  # a subgraph's may be unknown
    for step in plan.steps:
        if isinstance(step, Call) and step.node.op_type == "Concat" and out.intersection(step.outputs):
            first = types.get(next(iter(step.reads()), -1))
            shape = (first.shape if isinstance(first, TensorType) else None) or ()
            axis = step.node.attributes.get("axis", 1)  # which had a default once
            if -len(shape) <= axis < len(shape) and not isinstance(shape[axis], int):
                return True
    return False


def _counted(fn: Function, calls: list[None]) -> Function:
    """The function, which counts its calls."""

    def call(*inputs: Any) -> tuple[Any, ...]:
        calls.append(None)
        return fn(*inputs)

    return call
