"""`ortlite optimize`: write what the optimiser makes of a model, and check that it computes the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ortlite import save
from ortlite.api.options import GraphOptimizationLevel, SessionOptions
from ortlite.api.session import InferenceSession
from ortlite.api.source import write_optimized
from ortlite.cli.grid import show_table
from ortlite.cli.peer import visible
from ortlite.compare.difference import Difference, difference
from ortlite.compare.sides import drawing
from ortlite.errors import OrtError
from ortlite.graph import Graph, ancestors
from ortlite.load.peek import external_places
from ortlite.optimize import PASSES, Pass
from ortlite.tools.inputs import gather
from ortlite.tools.shown import Table

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["LEVELS", "Verified", "optimize_model", "show", "show_verified", "verify"]

CPU = ["CPUExecutionProvider"]
LEVELS = {
    "basic": GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": GraphOptimizationLevel.ORT_ENABLE_ALL,
}


@dataclass(frozen=True)
class Verified:
    """How far the outputs of the model and of what was written are apart in one library, and why some are left out."""

    library: str
    differences: dict[str, Difference]
    left_out: dict[str, str]

    @property
    def fails(self) -> bool:
        """Whether an output is beyond tolerance."""
        return any(d.exceeds for d in self.differences.values())


def optimize_model(path: Path, out: Path, level: str, disabled: Sequence[str]) -> tuple[Counter[str], Counter[str]]:
    """Write the optimised model, and count the operators of both.

    Raises ValueError where they are one file, and for the name of no optimiser.
    """
    known = {each.name for step in PASSES for each in ([step] if isinstance(step, Pass) else chain(*step))}
    if unknown := set(disabled) - known:
        raise ValueError(
            f"--disable: no optimiser is called {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}"
        )
    if out.exists() and out.samefile(path):
        raise ValueError(f"{out} is the model itself")
    beside = save.data_file(out)
    if beside.exists() and any(map(beside.samefile, filter(Path.exists, _weights(path)))):
        raise ValueError(f"{beside} has weights of {path}, and may be written anew: give -o another name")
    options = SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    # the model, and no more of the session, which has weights of its own
    model = InferenceSession(path, options, CPU, disabled_optimizers=list(disabled)).model
    options.optimized_model_filepath = str(out)
    write_optimized(options, model, disabled, ())
    return _operators(model.graph), _operators(InferenceSession(out, _as_it_is(), CPU).model.graph)


def _weights(path: Path) -> set[Path]:
    """The files beside a model that hold its weights."""
    try:
        return {path.parent / place for place, _, _ in external_places(path.read_bytes()).values()}
    except OrtError:  # a file in ORT format; of what is no model, the session says so
        return set()


def _operators(graph: Graph) -> Counter[str]:
    return Counter(f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in graph.walk())


def _as_it_is() -> SessionOptions:
    options = SessionOptions()
    options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def show(out: Console, before: Counter[str], after: Counter[str]) -> None:
    """Print how often each operator occurs, those that changed first."""
    names = sorted(before | after, key=lambda name: (before[name] == after[name], name))
    rows = [[name, str(before[name]), str(after[name])] for name in names]
    rows.append(["all", str(before.total()), str(after.total())])
    show_table(out, Table("operators", ["operator", "before", "after"], rows, name="operator"))


def verify(path: Path, written: Path, files: Mapping[str, str], shapes: Mapping[str, str]) -> list[Verified]:
    """Run both files on the same inputs, as they are, in ortlite and, where it is installed, in onnxruntime.

    Outputs that hang on random numbers are left out, and in onnxruntime those whose dtype NumPy does not have.
    """
    sessions = [InferenceSession(p, _as_it_is(), CPU) for p in (path, written)]
    feed = gather(sessions[0].get_inputs(), sessions[0].get_overridable_initializers(), files, shapes)
    graph = sessions[0].model.graph
    random = set(map(id, drawing(graph)))
    left_out = {
        name: "random" for name in graph.outputs if random.intersection(map(id, ancestors(graph.nodes, [name])[0]))
    }
    names = [name for name in dict.fromkeys(graph.outputs) if name not in left_out]
    made = [session.run(names, feed) if names else [] for session in sessions]
    found = [Verified("ortlite", _compared(names, *made), left_out)]
    if find_spec("onnxruntime") is not None:
        hidden = {name: "not handed out" for name in names if not visible(graph.types.get(name))}
        names = [name for name in names if name not in hidden]
        made = [_peer(p, names, feed) if names else [] for p in (path, written)]
        found.append(Verified("onnxruntime", _compared(names, *made), left_out | hidden))
    return found


def _compared(names: Sequence[str], before: Sequence[Any], after: Sequence[Any]) -> dict[str, Difference]:
    return {name: difference(a, b) for name, a, b in zip(names, before, after, strict=True)}


def _peer(path: Path, names: Sequence[str], feed: Mapping[str, Any]) -> Any:
    """What onnxruntime computes of a file with its own optimisers off. Raises ValueError with what it says."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(path, options, providers=CPU)
        return session.run(list(names), {name: value for name, value in feed.items() if value is not None})
    except Exception as error:  # its errors share no base class but Exception
        raise ValueError(f"onnxruntime, {path}: {error}") from error


def show_verified(out: Console, found: Sequence[Verified]) -> None:
    """Print how far the outputs are apart, a row an output and library."""
    rows = [
        [v.library, name, d.type, d.problem or f"{d.absolute:.3g}", "beyond" if d.exceeds else "within"]
        for v in found
        for name, d in v.differences.items()
    ]
    rows += [[v.library, name, "", why, "not compared"] for v in found for name, why in v.left_out.items()]
    head = ["library", "output", "type", "largest difference", "tolerance"]
    show_table(out, Table("before and after", head, rows, missable=["type"], name="output"))
