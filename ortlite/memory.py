"""What memory a program takes at one signature: which tensors live when, the peak, and who holds it.

The steps are those of the program specialised to the signature. How long a tensor lives follows from them: up to the
last step that reads it, or a view of it. How large it is, and what a kernel takes besides while it runs, tells one run
step by step under tracemalloc, which sees all that NumPy allocates; of other libraries only the results are known.
"""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import numpy as np

from ortlite.plan import Plan
from ortlite.steps import Bound

if TYPE_CHECKING:
    from ortlite.compile import Program

__all__ = ["MemoryPlan", "MemoryStep", "Tensor", "arrange", "blocks", "of"]

Block = tuple[tuple[int, int], tuple[int, ...], str]  # where memory begins and ends; shape and dtype of what lies there

COLORS = {"result": "#4c78a8", "at the peak": "#e45756"}
NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # what names may have
WIDTH, HEIGHT, MARGIN = 960, 480, 48  # of a drawing


@dataclass(frozen=True, slots=True)
class Tensor:
    """A block of memory: the value that it was made for, and the steps from `first` to `last` that it is there for.

    `views` are other values that lie in it. `offset` is where it would lie in one arena for all (`arrange`).
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    first: int
    last: int
    views: tuple[str, ...] = ()
    offset: int = 0


@dataclass(frozen=True, slots=True)
class MemoryStep:
    """A step of the program: `live` is what is there before it, `nbytes` what is there at most while it runs."""

    name: str
    live: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The memory of one run: without the inputs, which are the caller's, and the constants, which stay.

    `signature` are the inputs that it holds for, `constants` the size of the model's constants. All sizes are in
    bytes.
    """

    name: str
    signature: tuple[str, ...]
    steps: tuple[MemoryStep, ...]
    tensors: tuple[Tensor, ...]
    constants: int

    @property
    def peak(self) -> int:
        """The most bytes that are there at once."""
        return max((step.nbytes for step in self.steps), default=0)

    @property
    def peak_step(self) -> int:
        """The step in which that is so, the first one."""
        return max(range(len(self.steps)), key=lambda i: self.steps[i].nbytes, default=0)

    @property
    def arena(self) -> int:
        """The bytes that one arena for all tensors would take, without what kernels take besides."""
        return max((tensor.offset + tensor.nbytes for tensor in self.tensors), default=0)

    def at_peak(self) -> tuple[Tensor, ...]:
        """The tensors that are there at the peak, the largest first."""
        held = (tensor for tensor in self.tensors if tensor.first <= self.peak_step <= tensor.last)
        return tuple(sorted(held, key=lambda tensor: -tensor.nbytes))

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return asdict(self) | {"peak": self.peak, "peak_step": self.peak_step, "arena": self.arena}

    def __str__(self) -> str:
        if not self.steps:
            return f"memory of {self.name} for {', '.join(self.signature) or 'no inputs'}: no steps"
        step = self.steps[self.peak_step]
        held = self.at_peak()
        besides = step.nbytes - sum(tensor.nbytes for tensor in held)
        lines = [
            f"memory of {self.name} for {', '.join(self.signature) or 'no inputs'}",
            f"peak {_size(self.peak)} in step {self.peak_step} of {len(self.steps)}, {step.name}",
            f"constants {_size(self.constants)}, one arena for all tensors {_size(self.arena)}",
            f"{'held at the peak':32} {'shape':>20} {'dtype':>9} {'size':>10}  steps",
        ]
        for tensor in held:
            shape = "×".join(map(str, tensor.shape)) or "scalar"
            span = f"{tensor.first}-{tensor.last}"
            lines.append(f"{tensor.name[:32]:32} {shape:>20} {tensor.dtype:>9} {_size(tensor.nbytes):>10}  {span}")
        lines.append(f"{'what the kernel takes besides':63} {_size(max(besides, 0)):>10}  {self.peak_step}")
        return "\n".join(lines)

    def svg(self) -> str:
        """A drawing: tensors over time, each as high as it is large, and the peak with those that hold it in red."""
        count, top = max(len(self.steps), 1), max(self.peak, self.arena, 1)
        across, up = (WIDTH - 2 * MARGIN) / count, (HEIGHT - 2 * MARGIN) / top
        peak = self.peak_step
        shapes = []
        for tensor in self.tensors:
            held = tensor.first <= peak <= tensor.last
            x, width = MARGIN + tensor.first * across, (tensor.last - tensor.first + 1) * across
            height = tensor.nbytes * up
            y = HEIGHT - MARGIN - tensor.offset * up - height
            color = COLORS["at the peak" if held else "result"]
            title = escape(f"{tensor.name}: {tensor.dtype}{list(tensor.shape)}, {_size(tensor.nbytes)}")
            box = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
            shapes.append(f'<rect {box} fill="{color}" stroke="white" stroke-width="0.5"><title>{title}</title></rect>')
            if held and height > 12 and width > 6 * len(tensor.name):
                label = f'x="{x + 3:.1f}" y="{y + height / 2 + 4:.1f}" font-size="10" fill="white"'
                shapes.append(f"<text {label}>{escape(tensor.name)}</text>")
        points = " ".join(
            f"{MARGIN + (i + end) * across:.1f},{HEIGHT - MARGIN - step.nbytes * up:.1f}"
            for i, step in enumerate(self.steps)
            for end in (0, 1)
        )
        line = HEIGHT - MARGIN - self.peak * up
        name = escape(self.name)
        where = escape(f"peak {_size(self.peak)}: {self.steps[peak].name}" if self.steps else "no steps")
        text = "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">',
                f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
                *shapes,
                f'<polyline points="{points}" fill="none" stroke="black"/>',
                f'<line x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{line:.1f}" y2="{line:.1f}" stroke="gray"/>',
                f'<text x="{MARGIN}" y="{max(line - 6, 14):.1f}" font-size="12">{where}</text>',
                f'<text x="{MARGIN}" y="{HEIGHT - 16}" font-size="12">{len(self.steps)} steps of {name}</text>',
                "</svg>",
            ]
        )
        return NO_XML.sub("\ufffd", text)


def _size(nbytes: int) -> str:
    """Bytes as people read them."""
    size, unit = float(nbytes), "B"
    for larger in ("kB", "MB", "GB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.3g} {unit}"


def arrange(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The tensors with their places in one arena: the largest first, each in the smallest gap that is free for it."""
    placed: list[Tensor] = []
    for tensor in sorted(tensors, key=lambda tensor: (-tensor.nbytes, tensor.first)):
        others = sorted(
            (other.offset, other.offset + other.nbytes)
            for other in placed
            if other.first <= tensor.last and tensor.first <= other.last
        )
        end, gaps = 0, []
        for start, stop in others:
            if start - end >= tensor.nbytes:
                gaps.append((start - end, end))
            end = max(end, stop)
        placed.append(replace(tensor, offset=min(gaps)[1] if gaps else end))
    return tuple(sorted(placed, key=lambda tensor: (tensor.first, tensor.offset)))


def blocks(value: Any) -> Iterator[Block]:
    """Where an array lies, with its shape and dtype; an array of a sequence each for itself."""
    if isinstance(value, tuple):
        for item in value:
            yield from blocks(item)
    elif isinstance(value, np.ndarray):
        root = value
        while isinstance(root.base, np.ndarray):
            root = root.base
        start = root.__array_interface__["data"][0]
        yield (start, start + root.nbytes), value.shape, str(value.dtype)
    elif hasattr(value, "shape") and not isinstance(value, np.generic):
        shape = tuple(map(int, value.shape))
        yield (id(value), id(value) + int(getattr(value, "nbytes", 0))), shape, str(value.dtype)


def of(
    program: Program,
    inputs: Sequence[Any],
    names: Sequence[str],
    leave: Callable[[Sequence[Any]], object],
) -> MemoryPlan:
    """The plan for the signature of `inputs`, whose names are given. `leave` makes of results what the caller gets.

    Runs the model several times. Resets the peak that tracemalloc knows, where that is tracing. What threads of ours
    keep for the next run (scratch memory) counts the first time that one needs it.
    """
    program.specialise(inputs)
    plan, pieces = program.pieces(inputs)
    tracing = tracemalloc.is_tracing()
    if not tracing:
        tracemalloc.start()
    try:
        taken, made = _run(plan, pieces, inputs, leave)
    finally:
        if not tracing:
            tracemalloc.stop()
    held = [block for value in (*inputs, *plan.constants.values()) for block, *_ in blocks(value)]
    tensors = _tensors(plan, [bound for bound, _ in pieces], made, held)
    steps = []
    for index, nbytes in enumerate(taken):
        there = sum(tensor.nbytes for tensor in tensors if tensor.first < index <= tensor.last)
        new = sum(tensor.nbytes for tensor in tensors if tensor.first == index)
        name = _called(pieces[index][0]) if index < len(pieces) else "outputs"
        steps.append(MemoryStep(name, there, there + max(nbytes, new)))
    signature = tuple(f"{name} {_form(value)}" for name, value in zip(names, inputs, strict=False))
    constants = sum(stop - start for start, stop in {b for v in plan.constants.values() for b, *_ in blocks(v)})
    return MemoryPlan(plan.name, signature, tuple(steps), arrange(tensors), constants)


def _run(
    plan: Plan,
    pieces: Sequence[tuple[Bound, Callable[..., tuple[Any, ...]]]],
    inputs: Sequence[Any],
    leave: Callable[[Sequence[Any]], object],
) -> tuple[list[int], list[dict[int, list[Block]]]]:
    """The bytes that every step takes at most beyond what is there, leaving last; and where its results lie."""
    values = {**plan.constants, **dict(zip(plan.inputs, inputs, strict=True))}
    taken: list[int] = []
    made: list[dict[int, list[Block]]] = []
    for bound, call in pieces:
        given = [values[slot] for slot in dict.fromkeys(bound.step.reads()) if slot not in plan.constants]
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        results = call(*given)
        taken.append(tracemalloc.get_traced_memory()[1] - before)
        values |= zip((slot for slot in bound.outputs if slot is not None), results, strict=True)
        made.append({slot: list(blocks(values[slot])) for slot in bound.outputs if slot is not None})
        del given, results
        for slot in bound.free:
            values.pop(slot, None)
    results = tuple(values[slot] for slot in plan.outputs)
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    left = leave(results)
    taken.append(tracemalloc.get_traced_memory()[1] - before)
    del left
    return taken, made


def _called(bound: Bound) -> str:
    node = bound.node
    return str(bound.step) if node is None else f"{node.op_type} {node.name or next(filter(None, node.outputs), '')}"


def _form(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"{value.dtype}{list(shape)}"


def _tensors(
    plan: Plan,
    steps: Sequence[Bound],
    made: Sequence[Mapping[int, Sequence[Block]]],
    held: Sequence[tuple[int, int]],
) -> list[Tensor]:
    """The blocks that steps made, each from the step that made it to the last that reads what lies in it.

    Not those of inputs and constants (`held`).
    """
    last = {slot: index for index, bound in enumerate(steps) for slot in (*bound.step.reads(), *bound.outputs)}
    last |= dict.fromkeys(plan.outputs, len(steps))
    found: list[Tensor] = []
    live: dict[int, tuple[int, int]] = {}  # index of a tensor -> its block
    for index, results in enumerate(made):
        live = {i: block for i, block in live.items() if found[i].last >= index}
        for slot, ((start, stop), shape, dtype) in [(slot, b) for slot, blocks in results.items() for b in blocks]:
            end, name = last.get(slot, index), plan.names.get(slot, f"%{slot}")
            if any(a <= start < b for a, b in held) or start == stop:
                continue
            owner = next((i for i, (a, b) in live.items() if a <= start < b), None)
            if owner is None:
                live[len(found)] = start, stop
                found.append(Tensor(name, shape, dtype, stop - start, index, end))
            else:
                tensor = found[owner]
                found[owner] = replace(tensor, last=max(tensor.last, end), views=(*tensor.views, name))
    return found
