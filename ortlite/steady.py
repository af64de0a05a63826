"""Code for runs of which only a part of the signature comes up again, as where a cache grows by a token a run.

Such signatures never repeat, so no function of their own repays. But most of a decoder works on one token in every run:
where some inputs are the same in three runs of other signatures, what follows from them is baked in, and kernels on
shapes that stayed the same are written out, as in a function of one signature. Shapes that merely happened to stay the
same are looked at in every run; where one differs, the code for all signatures answers instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ortlite import run, specialise
from ortlite.inline import Inlined
from ortlite.plan import Plan
from ortlite.specialise import KEY_ELEMENTS, Guards
from ortlite.steps import Bound

__all__ = ["Steady"]

Function = Callable[..., tuple[Any, ...]]

RUNS = 8  # of other signatures before anything is noted: a function takes as long as many
TRIES = 16  # runs in which shapes are noted
WRONG = 8  # runs in which a shape differed, after which the function is given up


class Steady:
    """What a program learns of the shapes of its runs, and the function made of that.

    `otherwise` answers for all signatures. `keeps` says which values may be baked in; it is told all that could be.
    """

    def __init__(self, plan: Plan, steps: Sequence[Bound], otherwise: Function, keeps: Callable[[dict[int, Any]], Any]):
        self.plan, self.steps = plan, steps
        self.otherwise = otherwise
        self.keeps = keeps
        self.runs = self.wrong = 0
        self.before: Any = None  # the signature of the last run that was noted
        self.alike: frozenset[int] = frozenset(
            range(len(plan.inputs))
        )  # positions whose part of signatures was the same
        self.shapes: dict[int, tuple[int, ...]] | None = None  # of the slots whose shape was the same
        self.noted = 0
        self.parts: tuple[Any, ...] = ()  # of the signatures that the function is for, at the positions `places`
        self.places: tuple[int, ...] = ()
        self.function: Function | None = None

    def __call__(self, key: Any, inputs: Sequence[Any]) -> tuple[Any, ...]:
        """A run of a signature without a function of its own."""
        function = self.function
        if function is not None:
            alike = all(key[place] == part for place, part in zip(self.places, self.parts, strict=True))
            return function(*inputs) if alike else self.otherwise(*inputs)
        self.runs += 1
        if self.runs <= RUNS or self.runs > RUNS + TRIES or key == self.before:
            return self.otherwise(*inputs)
        return self._learn(key, inputs)

    def _learn(self, key: Any, inputs: Sequence[Any]) -> tuple[Any, ...]:
        """A run step by step, in which shapes are noted; the third that agrees makes the function."""
        before, self.before = self.before, key
        alike = self.alike
        if before is not None:
            alike = frozenset(i for i in alike if key[i] == before[i])
        if not alike:
            self.runs = RUNS + TRIES
            return self.otherwise(*inputs)
        self.alike = alike
        given = list(inputs)
        for position in self.plan.shape_inputs:  # a baked value may be a view of one
            if isinstance(given[position], np.ndarray) and given[position].size <= KEY_ELEMENTS:
                given[position] = given[position].copy()
        steady = self.shapes or {}
        known = {self.plan.inputs[i] for i in alike}
        static, shapes, guarded = specialise.steady_slots(self.plan, self.steps, given, known, steady)
        values: dict[int, Any] = {}
        kernels: dict[int, Inlined] = {}
        found: dict[int, tuple[int, ...]] = {}
        ready = self.noted > 1
        record = specialise.recorder(
            static if ready else set(), values, kernels if ready else None, self.plan.constants.keys(), shapes
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
            guards = Guards({slot: steady[slot] for slot in guarded}, self._differs)
            baked = self.keeps(values)
            self.places, self.parts = tuple(alike), tuple(key[i] for i in alike)
            self.function = specialise.generate(self.plan, self.steps, baked, kernels, guards=guards)
        return outputs

    def _differs(self, *inputs: Any) -> tuple[Any, ...]:
        """A run in which a shape differed."""
        self.wrong += 1
        if self.wrong >= WRONG:
            self.function, self.runs = None, RUNS + TRIES
        return self.otherwise(*inputs)
