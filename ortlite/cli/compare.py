"""`ortlite compare`: where two libraries disagree on a model, who is wrong, and the smallest model that shows it."""

from __future__ import annotations

import shlex
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ortlite import atomic, dtypes, save
from ortlite.api.description import declared
from ortlite.cli.grid import show_table
from ortlite.cli.peer import OnnxruntimeSide
from ortlite.cli.report import describe
from ortlite.compare import Comparison, ProviderSide, Reduced, Side, compare, reduce
from ortlite.graph import Model
from ortlite.load import load
from ortlite.tools.inputs import gather, provider_and_options
from ortlite.tools.shown import Table

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Found", "compare_model", "reduce_model", "show", "write"]

MISSABLE = ("relative", "remark", "beyond", "ULP", "operator", "type")  # the first first


@dataclass(frozen=True)
class Found:
    """What one `ortlite compare` found out, and from what."""

    model: Model
    inputs: dict[str, Any]
    made_up: tuple[str, ...]
    sides: tuple[Side, Side]
    comparison: Comparison


def compare_model(
    path: Path,
    files: Mapping[str, str],
    shapes: Mapping[str, str],
    providers: Sequence[str],
    peer: bool,
    rtol: float | None,
    atol: float | None,
) -> Found:
    """Compare two providers, or one and onnxruntime (`peer`), on a model. Raises ValueError as `ortlite run` does."""
    sides = [_side(given) for given in providers]
    model = load(path)
    inputs = gather(*declared(model.graph), files, shapes)
    one, *rest = sides
    other: Side = OnnxruntimeSide(path, model) if peer else rest[0]
    made_up = tuple(name for name in inputs if name not in files)
    return Found(model, inputs, made_up, (one, other), compare(model, inputs, (one, other), rtol=rtol, atol=atol))


def _side(given: str) -> ProviderSide:
    """A provider, and behind a colon its options."""
    return ProviderSide(*provider_and_options(given))


def show(out: Console, found: Found, everything: bool) -> None:
    """Print a comparison: a table on a terminal, aligned plain text when piped; then the counts."""
    comparison = found.comparison
    rows = comparison.rows if everything else comparison.notable()
    if rows:
        title = "values" if everything else f"{len(rows)} of {len(comparison.rows)} values (--all shows all)"
        head, lines = comparison.table(rows)
        show_table(out, Table(title, head, lines, MISSABLE, name="value"))
    if found.made_up:
        kinds = [f"{name} {''.join(describe(found.inputs[name])[:2])}".strip() for name in found.made_up]
        line = f"made up, as no --input gives them: {', '.join(kinds)}"
        out.print(line, markup=False, highlight=False, soft_wrap=True)
    for line in comparison.summary():
        out.print(line, markup=False, highlight=False, soft_wrap=True)


def reduce_model(found: Found, rtol: float | None, atol: float | None) -> Reduced | None:
    """The smallest model that still shows the first difference, that of one node if one is at fault; else None."""
    name = found.comparison.suspect
    return None if name is None else reduce(found.model, found.inputs, found.sides, name, rtol=rtol, atol=atol)


def write(out: Console, folder: Path, reduced: Reduced, options: Sequence[str]) -> None:
    """Write the reduced model, its inputs and how to repeat it into `folder`, and print what is left."""
    folder.mkdir(parents=True, exist_ok=True)
    path, archive = folder / "model.onnx", folder / "inputs.npz"
    save.write(reduced.model, path)
    # np.savez knows some names as its parameters
    with atomic.written(archive) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as file:
        for name, array in reduced.inputs.items():
            with file.open(f"{name}.npy", "w") as entry:
                np.lib.format.write_array(entry, _storable(array), allow_pickle=False)
    given = [word for name in reduced.inputs for word in ("--input", f"{name}={archive}")]
    command = shlex.join(["ortlite", "compare", str(path), *options, *given])
    d = reduced.difference
    what = d.problem or f"largest difference {d.absolute:.3g} (relative {d.relative:.3g}, {d.ulps} ULP) at {d.worst}"
    name = reduced.model.graph.outputs[0]
    title = f"{reduced.size}; {name!r} differs: {what}. To repeat it:"
    readme = f"{title}\n\n    {command}\n"
    (folder / "README.md").write_text(readme)
    operators = ", ".join(dict.fromkeys(node.op_type for node in reduced.model.graph.nodes))
    for line in (f"reduced to {reduced.size} ({operators}) in {reduced.trials} trials: {folder}", command):
        out.print(line, markup=False, highlight=False, soft_wrap=True)


def _storable(array: np.ndarray) -> Any:
    """The array in a dtype that NumPy's file format knows and `--input` reads back."""
    dtype = dtypes.of_numpy(array.dtype)
    if dtype.kind == "S":
        return array.astype(str)
    if dtype.narrow:
        return array.astype(np.float32 if dtype.kind == "f" else np.int8 if dtype.kind == "i" else np.uint8)
    return array
