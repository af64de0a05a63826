"""What onnxruntime calls profiling: a JSON file that says when each node ran, and on what.

`given` and `kind_of` are what `ortlite.tools.profile` stands on, too.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from ortlite import dtypes, run
from ortlite.api import logs
from ortlite.derived import nbytes
from ortlite.forks import renewed_after_fork
from ortlite.plan import Call, Transfer
from ortlite.provider import CPU
from ortlite.steps import Bound, OnStep, ReadConst, ReadHost, ReadSlot

__all__ = ["Profiler", "given", "kind_of"]

Json = dict[str, Any]


class Profiler:
    """The events of a session: `step` is the `on_step` hook that adds one for each node."""

    lock: threading.Lock

    def __init__(self, prefix: str, began: int):
        now = datetime.now().astimezone()
        self.path = Path(f"{prefix}_{now:%Y-%m-%d_%H-%M-%S}_{now.microsecond // 1000:03}.json")
        self.began = began
        self.start_ns = time.time_ns() - 1000 * (logs.now() - began)
        self.events: list[Json] = []
        self.indices: dict[int, int] = {}
        self.weights: set[int] = set()  # ids of the model's constants
        renewed_after_fork(self, "lock", threading.Lock)
        self.written = False

    def now(self) -> int:
        """Microseconds of the clock of `began`."""
        return logs.now()

    def add(self, category: str, name: str, since: int, args: Json | None = None) -> None:
        """Note what went on from `since` until now."""
        event = {"cat": category, "pid": os.getpid(), "tid": threading.get_native_id(), "dur": self.now() - since}
        self.events.append(event | {"ts": since - self.began, "ph": "X", "name": name, "args": args or {}})

    def hook(self, inner: OnStep = run.step) -> OnStep:
        """An `on_step` that runs steps by `inner`, and those of subgraphs by itself."""

        def on_step(bound: Bound, values: list[Any]) -> None:
            read = [given(reader, values) for reader in bound.arguments]
            since = self.now()
            if inner is run.step:
                run.step(bound, values, on_step)
            else:
                inner(bound, values)
            self._step(bound, values, since, read)

        return on_step

    def _step(self, bound: Bound, values: list[Any], since: int, read: Sequence[Any]) -> None:
        node = bound.node
        weights = sum(nbytes(value) for value in read if id(value) in self.weights)
        kind, provider = kind_of(bound)
        with self.lock:
            index = self.indices.setdefault(id(bound), len(self.indices))
        made = [values[slot] for slot in bound.outputs if slot is not None]
        args = {
            "op_name": kind,
            "provider": provider,
            "node_index": str(index),
            "input_type_shape": _types(read),
            "output_type_shape": _types(made),
            "activation_size": str(sum(map(nbytes, read)) - weights),
            "parameter_size": str(weights),
            "output_size": str(sum(map(nbytes, made))),
            "thread_scheduling_stats": {},
        }
        name = node.name if node is not None and node.name else f"{kind}_{index}"
        self.add("Node", f"{name}_kernel_time", since, args)

    def write(self) -> str:
        """Write the file, the first time; its path, "" afterwards. Where it cannot be written a warning is logged."""
        with self.lock:
            if self.written:
                return ""
            self.written = True
        lines = ",\n".join(json.dumps(event) for event in self.events)
        try:
            self.path.write_text(f"[\n{lines}\n]\n")
        except OSError as error:
            logs.emit(logs.WARNING, f"The profile {self.path} cannot be written: {error.strerror}.")
        return str(self.path)


def kind_of(bound: Bound) -> tuple[str, str]:
    """What a step does, an operator or what onnxruntime calls a copy or a cast, and the provider that does it."""
    step = bound.step
    if isinstance(step, Call):
        return step.node.op_type, step.provider.name
    if isinstance(step, Transfer):
        kind = "MemcpyFromHost" if step.origin.name == CPU else "MemcpyToHost"
        return kind, (step.destination if step.origin.name == CPU else step.origin).name
    return "Cast", step.provider.name


def given(reader: Any, values: Sequence[Any]) -> Any:
    """What a step reads there, None for a subgraph or a seed."""
    if isinstance(reader, ReadConst):
        return reader.value
    return values[reader.index] if isinstance(reader, ReadSlot | ReadHost) else None


def _types(values: Sequence[Any]) -> list[Json]:
    return [{_type(v): [int(d) for d in v.shape]} for v in values if hasattr(v, "shape") and hasattr(v, "dtype")]


def _type(array: Any) -> str:
    name = array.dtype.name if isinstance(array, np.ndarray | np.generic) else str(array.dtype).rpartition(".")[2]
    if name in {"object", "str"}:
        return "string"
    return dtypes.by_name(name).ort if name in dtypes.NAMES else name
