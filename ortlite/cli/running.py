"""The commands that run a model or make something of it: `demo`, `run`, `optimize`, `compare` and `warm`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ortlite.cli.bars import working
from ortlite.cli.options import given_inputs, limited, pairs
from ortlite.cli.output import check_folders, console

__all__ = ["compare_libraries", "demo", "optimize_file", "run", "warm"]


@click.command()
def demo() -> None:
    """Read handwritten digits with a small model.

    On every provider that is there, which are compared.
    """
    from ortlite.cli import digits

    out = console()
    digits.show_scans(out)
    out.print()
    digits.compare_providers(out)


@click.command(short_help="Run MODEL, on inputs given or made up.")
@click.argument("model", type=click.Path(path_type=Path))
@given_inputs
@click.option(
    "--provider",
    "providers",
    multiple=True,
    metavar="NAME",
    help="Execution provider, such as Torch or Torch:compile=1, in order; repeatable.",
)
@click.option("--runs", default=5, show_default=True, type=click.IntRange(1), help="Timed runs after the first.")
@click.option("--save", type=click.Path(path_type=Path, dir_okay=False), help="Write the outputs to this .npz file.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Run all rows of --input, and write a .npy, .zarr, .parquet or a folder of .npy files.",
)
@click.option("--workers", type=click.IntRange(1), help="With --output: processes that share the rows.  [default: 1]")
@click.option("--batch", type=click.IntRange(1), help="With --output: rows in one run.  [default: 64]")
@click.option("--take", multiple=True, metavar="NAME", help="With --output: an output, or another value; repeatable.")
@click.option("--columns", multiple=True, metavar="INPUT=A,B", help="With --output: columns that make an input.")
@click.option(
    "--constant", "constants", multiple=True, metavar="INPUT=0.5", help="With --output: has no rows; or .npy."
)
@click.option("--mean", default="", metavar="R,G,B", help="With --output: taken from images whose values are 0 to 1.")
@click.option("--std", default="", metavar="R,G,B", help="With --output: images are divided by it after that.")
@limited
@click.pass_context
def run(
    ctx: click.Context,
    /,
    model: Path,
    files: tuple[str, ...],
    shapes: tuple[str, ...],
    providers: tuple[str, ...],
    runs: int,
    save: Path | None,
    output: Path | None,
    **offline: Any,
) -> None:
    """Run MODEL on the given inputs; inputs that are not given are made up.

    With --output, run it on all rows of a file instead, in batches: --input is a .parquet, .zarr or .npy or a folder of
    images, or INPUT=FILE for each of several inputs. The output has its name only once it is complete. A .parquet that
    is written has the columns, too, that the model did not read.
    """
    from ortlite.cli import report

    out = console()
    given_with = {name for name in ctx.params if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    if output is not None:
        if wrong := given_with & {"runs", "save", "shapes"}:
            raise click.UsageError(
                f"--{', --'.join(sorted(wrong))}: not together with --output".replace("shapes", "shape")
            )
        if not files:
            raise click.UsageError("--output is for rows of a file: say which by --input")
        from ortlite.cli import offline as batches

        with working("running"):
            done = batches.run_rows(model, files, output, providers, **offline)
        batches.show(out, output, done)
        return
    if wrong := given_with & offline.keys():
        raise click.UsageError(
            f"--{', --'.join(sorted(wrong))}: only together with --output".replace("constants", "constant")
        )
    check_folders(save)
    with working("running"):
        result = report.run_model(model, pairs("--input", files), pairs("--shape", shapes), providers, runs)
    report.show(out, result)
    if save is not None:
        report.save(save, result.outputs)
        out.print(f"saved {save}", markup=False, highlight=False, soft_wrap=True)


@click.command("optimize")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The file to write."
)
@click.option(
    "--level", type=click.Choice(["basic", "extended", "all"]), default="all", show_default=True, help="How far to go."
)
@click.option("--disable", multiple=True, metavar="NAME", help="An optimiser to leave out; repeatable.")
@click.option("--verify", is_flag=True, help="Run both models and compare their outputs.")
@given_inputs
@limited
@click.pass_context
def optimize_file(
    ctx: click.Context,
    model: Path,
    output: Path,
    level: str,
    disable: tuple[str, ...],
    verify: bool,
    files: tuple[str, ...],
    shapes: tuple[str, ...],
) -> None:
    """Write MODEL as the optimiser leaves it.

    What is written is standard ONNX with operators of com.microsoft, which both ortlite and onnxruntime run. With
    --verify both models run, on the given inputs or made-up ones, in ortlite and, where it is installed, in
    onnxruntime. Exit status 1: an output is beyond the tolerance that `ortlite compare` has.
    """
    from ortlite.cli import optimize

    out = console()
    with working("optimising"):
        before, after = optimize.optimize_model(model, output, level, disable)
    optimize.show(out, before, after)
    out.print(f"saved {output}", markup=False, highlight=False, soft_wrap=True)
    if not verify:
        return
    with working("verifying"):
        found = optimize.verify(model, output, pairs("--input", files), pairs("--shape", shapes))
    optimize.show_verified(out, found)
    if any(v.fails for v in found):
        ctx.exit(1)


@click.command()
def warm() -> None:
    """Compile all kernels ahead.

    They are kept in the user's cache; without this, the first session that needs one compiles it. Kernels are compiled
    where numba is installed (`pip install 'ortlite[fast]'`). Those of other versions
    that nobody used for 30 days are removed.
    """
    from ortlite.cli import warming

    with working("compiling"):
        warming.warm(console())


class _Tolerance(click.FloatRange):
    """A number from 0 on, and no NaN, beyond which nothing would be."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Raise click.BadParameter for what is none."""
        found = super().convert(value, param, ctx)
        if math.isnan(found):
            self.fail(f"{value} is not a number.", param, ctx)
        return found


TOLERANCE = _Tolerance(0)


class _Comparing(click.Command):
    """Takes `--providers A B` for `--providers A --providers B`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Write the option before its second value, too."""
        args = [part for a in args for part in (a.split("=", 1) if a.startswith("--providers=") else [a])]
        second = args.index("--providers") + 2 if args.count("--providers") == 1 else len(args)
        alone = any(word.partition("=")[0] == "--against" for word in args)
        if not alone and second < len(args) and not args[second].startswith("-"):
            args = [*args[:second], "--providers", *args[second:]]
        return super().parse_args(ctx, args)


@click.command("compare", cls=_Comparing, short_help="Say where two providers differ on MODEL.")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--providers",
    multiple=True,
    metavar="A B",
    help="The two execution providers, such as Torch JAX or CPU Torch:precision=bfloat16; with --against one will do.",
)
@click.option("--against", type=click.Choice(["onnxruntime"]), help="Compare with its CPU provider, optimisers off.")
@given_inputs
@click.option("--rtol", type=TOLERANCE, help="Relative tolerance; the default depends on the dtype.")
@click.option("--atol", type=TOLERANCE, help="Absolute tolerance; the default depends on the dtype.")
@click.option("--all", "everything", is_flag=True, help="Show every value, not only those that differ most.")
@click.option(
    "--reduce",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="OUT_DIR",
    help="Write the smallest model and inputs that show the difference (of a node by itself, if one does).",
)
@limited
@click.pass_context
def compare_libraries(
    ctx: click.Context,
    model: Path,
    providers: tuple[str, ...],
    against: str | None,
    files: tuple[str, ...],
    shapes: tuple[str, ...],
    rtol: float | None,
    atol: float | None,
    everything: bool,
    folder: Path | None,
) -> None:
    """Run MODEL on two providers and compare every value on the way.

    A run of the same kernels in float64 is the judge: "error" is how far each of the two is from that. Beyond
    tolerance onnx.reference is a second judge: where the two disagree, nobody is blamed and the kernel is suspect. An
    If is replaced by the branch it takes. Nodes that compute what is beyond tolerance run on the second provider once
    more, on what the first one gave them: the first that differs even so does not only pass on rounding.

    Two elements agree where |a - b| <= atol + rtol * max(|a|, |b|), by default 1e-5 and 1e-4 in float32, 1e-12 and
    1e-10 in float64, 1e-3 and 1e-2 in float16, 1e-2 and 8e-2 in bfloat16. Integers, booleans and strings must be equal;
    --atol allows integers to differ. Exit status 1: something is beyond tolerance.
    """
    if len(providers) != (1 if against else 2):
        wanted = "one provider beside --against" if against else "two providers"
        raise click.UsageError(f"--providers takes {wanted}, not {len(providers)}")
    from ortlite.cli import compare

    out = console()
    given, dimensions = pairs("--input", files), pairs("--shape", shapes)
    with working("comparing"):
        found = compare.compare_model(model, given, dimensions, providers, against is not None, rtol, atol)
    compare.show(out, found, everything)
    if folder is not None:
        with working("reducing"):
            reduced = compare.reduce_model(found, rtol, atol)
        options = ["--providers", *providers, *(["--against", against] if against else [])]
        options += [f"--{name}={value!r}" for name, value in (("rtol", rtol), ("atol", atol)) if value is not None]
        if reduced is None:
            out.print("nothing to reduce")
        else:
            compare.write(out, folder, reduced, options)
    if found.comparison.first is not None:
        ctx.exit(1)
