"""The `ortlite` command: `demo`, run a model (`run`), `compare` libraries, `optimize` a file, compile ahead (`warm`).

And to see: `info`, `check`, `bench` and `profile`, whose Python twins are in `ortlite.tools`.

Exit status: 0 when all went well, 1 when a model or its input is at fault (one line on stderr says why) or when
`compare` finds a difference beyond tolerance, 2 for a command line that makes no sense.
"""

from __future__ import annotations

import io
import itertools
import math
import sys
import warnings
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from rich.console import Console

    from ortlite.tools.shown import Shown

import ortlite
from ortlite import atomic, progress
from ortlite.cli.bars import working
from ortlite.cli.options import pairs, sizes

__all__ = ["main"]


class _Failures(click.Group):
    """Errors of models and inputs as one line and exit status 1, warnings as one line each."""

    def invoke(self, ctx: click.Context) -> Any:
        from ortlite.errors import OrtError

        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
                stream.reconfigure(errors="backslashreplace")  # files need not be called in what it can write
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _warned
                return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort):  # they are RuntimeErrors, but not failures
            raise
        except BrokenPipeError:  # who reads has seen enough: click ends without a word
            raise
        except (OrtError, OSError, ValueError, RuntimeError, ImportError, MemoryError) as error:
            message = " ".join(str(error).split()) or type(error).__name__
            raise click.ClickException(message) from error


def _warned(message: Warning | str, *_: Any, **__: Any) -> None:
    """Print a warning without the line of Python that gave it."""
    click.echo(f"Warning: {' '.join(str(message).split())}", err=True)


@click.group(cls=_Failures, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(ortlite.__version__, prog_name="ortlite")
def main() -> None:
    """One ONNX runtime for every array library."""


def given_inputs(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what a model runs on, and a hint where it fails on what nobody gave."""

    @wraps(command)
    def hinting(*args: Any, model: Path, files: tuple[str, ...], shapes: tuple[str, ...], **keywords: Any) -> Any:
        from ortlite.errors import LimitExceeded, OrtError

        try:
            return command(*args, model=model, files=files, shapes=shapes, **keywords)
        except OrtError as error:
            if error.node is None or isinstance(error, LimitExceeded):
                raise
            names = _made_up(model, pairs("--input", files), pairs("--shape", shapes))
            if not names:
                raise
            hint = f"dimensions that nobody gave were made up as 1: --shape NAME=8 for one of {', '.join(names)}"
            raise ValueError(f"{error}; {hint}") from error

    shape = click.option(
        "--shape",
        "shapes",
        multiple=True,
        metavar="NAME=1,3,224,224",
        help="Shape of an input that is made up, or NAME=4 for an open dimension.",
    )
    file = click.option(
        "--input", "files", multiple=True, metavar="NAME=FILE", help="A .npy, .npz or .png file for an input."
    )
    return file(shape(hinting))


def _made_up(model: Path, files: Mapping[str, str], shapes: Mapping[str, str]) -> list[str]:
    """The open dimensions of a model's inputs that nobody gave."""
    from ortlite.api.description import declared
    from ortlite.load import load
    from ortlite.tools.inputs import made_up_dimensions

    args, _ = declared(load(model).graph)
    return made_up_dimensions(args, files, shapes)


def limited(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what a model may take, for a command that loads one."""

    @wraps(command)
    def within(*args: Any, limits: str, bounds: tuple[str, ...], **keywords: Any) -> Any:
        from ortlite.limits import applied, parse

        try:
            found = parse(limits, pairs("--limit", bounds))
        except ValueError as error:
            raise click.UsageError(str(error)) from error
        with applied(found):
            return command(*args, **keywords)

    base = click.option(
        "--limits",
        type=click.Choice(["", "untrusted"]),
        default="",
        metavar="untrusted",
        help="Keep to what a stranger's model may take: ortlite.Limits.untrusted().",
    )
    one = click.option(
        "--limit", "bounds", multiple=True, metavar="NAME=1e8", help="One bound of ortlite.Limits; NAME=none lifts it."
    )
    return base(one(within))


@main.command()
def demo() -> None:
    """Read handwritten digits with a small model.

    On every provider that is there, which are compared.
    """
    from ortlite.cli import digits

    out = console()
    digits.show_scans(out)
    out.print()
    digits.compare_providers(out)


@main.command(short_help="Run MODEL, on inputs given or made up.")
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


@main.command("optimize")
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


@main.command()
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


@main.command("compare", cls=_Comparing, short_help="Say where two providers differ on MODEL.")
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


class _Listing(click.Command):
    """Takes `--providers A B` for `--providers A --providers B`, and as many as there are; a path is none."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Write the option before each of its values."""
        args = [part for a in args for part in (a.split("=", 1) if a.startswith("--providers=") else [a])]
        written: list[str] = []
        listing = False
        for index, word in enumerate(args):
            if word.startswith("-"):
                listing = word == "--providers"
            elif listing and args[index - 1] != "--providers":
                listing = not set(word) & {".", "/", "\\"}
                written += ["--providers"] if listing else []
            written.append(word)
        return super().parse_args(ctx, written)


@main.command("info")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--dim", "dims", multiple=True, metavar="NAME=8", help="Size of an open dimension, else 1; repeatable.")
@click.option("--provider", "providers", multiple=True, metavar="NAME", help="Say what it would run; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@limited
def model_info(model: Path, dims: tuple[str, ...], providers: tuple[str, ...], as_json: bool) -> None:
    """Say what MODEL consists of and costs.

    Operators, opsets, dtypes, parameters, operations and bytes, and which provider would run what; nothing is run.
    """
    from ortlite.tools.info import info
    from ortlite.tools.inputs import provider_name

    with working("reading"):
        found = info(model, dims=sizes(dims), providers=[provider_name(name) for name in providers])
    show(found, as_json)


@main.command("check")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--provider", "providers", multiple=True, metavar="NAME", help="Where it should run; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@limited
@click.pass_context
def check_model(ctx: click.Context, model: Path, providers: tuple[str, ...], as_json: bool) -> None:
    """Say whether providers would run all of MODEL.

    If not, which nodes they would not, and why; nothing is run. Exit status 1: the model does not load, a node has no
    kernel, or the CPU provider would run it in the place of one that was asked for.
    """
    from ortlite.tools.check import check

    with working("checking"):
        found = check(model, providers or ("CPU",))
    show(found, as_json)
    if not found:
        ctx.exit(1)


@main.command("bench", cls=_Listing)
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--providers", multiple=True, metavar="A B", help="Execution providers, such as CPU Torch Torch:compile=1."
)
@click.option("--against", type=click.Choice(["onnxruntime"]), help="Time its CPU provider, too, and give ratios.")
@click.option("--batch", default="", metavar="1,8", help="Sizes for open first dimensions, each timed.")
@click.option("--threads", default="0", metavar="1,2", help="Numbers of threads, each timed; 0: the engine's own.")
@click.option("--duration", "seconds", default="3s", show_default=True, metavar="3s", help="Timed, in each process.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Processes of each engine.")
@given_inputs
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@limited
@click.pass_context
def bench_model(
    ctx: click.Context,
    model: Path,
    providers: tuple[str, ...],
    against: str | None,
    batch: str,
    threads: str,
    seconds: str,
    rounds: int,
    files: tuple[str, ...],
    shapes: tuple[str, ...],
    as_json: bool,
) -> None:
    """Time MODEL on several engines.

    Each runs in processes of its own, which take turns: load, first run, and the runs after a warm-up. A ratio
    divides medians, with the interval in which it lies with a confidence of 95 %; below 1 is faster. Exit status 1:
    an engine has no figures.
    """
    from ortlite.tools.bench import bench

    batches = numbers("--batch", batch) or [None]
    counts = numbers("--threads", threads)
    engines = len(set(providers or ("CPU",))) + bool(against)
    total, begun = len(batches) * len(counts) * engines * rounds, itertools.count()
    with working("measuring"):
        found = bench(
            model,
            providers or ("CPU",),
            against=against or "",
            batches=batches,
            threads=counts,
            seconds=duration(seconds),
            rounds=rounds,
            files=pairs("--input", files),
            shapes=pairs("--shape", shapes),
            on_start=lambda label: progress.say(label, next(begun), total),
        )
    show(found, as_json)
    if any(timing.problem for timing in found.timings):
        ctx.exit(1)


@main.command("profile")
@click.argument("model", type=click.Path(path_type=Path))
@given_inputs
@click.option(
    "--provider",
    "providers",
    multiple=True,
    metavar="NAME",
    help="Execution provider, such as Torch:compile=1; repeatable.",
)
@click.option("--runs", default=10, show_default=True, type=click.IntRange(1), help="Runs after the first two.")
@click.option("--trace", type=click.Path(path_type=Path, dir_okay=False), help="Write a trace for Chrome or Perfetto.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a page that needs no network.")
@click.option(
    "--model-explorer",
    "explorer",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Write node data for Model Explorer there.",
)
@click.option("--against", metavar="NAME", help="Show how values differ from those of onnxruntime or of a provider.")
@click.option("--top", default=20, show_default=True, type=click.IntRange(1), help="Nodes that the table shows.")
@click.option("--roofs/--no-roofs", default=True, help="Measure what the machine does at most, in about a second.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@limited
def profile_model(
    model: Path,
    files: tuple[str, ...],
    shapes: tuple[str, ...],
    providers: tuple[str, ...],
    runs: int,
    trace: Path | None,
    html: Path | None,
    explorer: Path | None,
    against: str | None,
    top: int,
    roofs: bool,
    as_json: bool,
) -> None:
    """Say where the time of MODEL goes.

    Node by node, on the given inputs or made-up ones. --html writes all of it as one page: the graph coloured by
    provider, time, memory or difference, a flame graph, memory over time, the roofline and a table (`pip install
    'ortlite[report]'`). --against compares every value with what onnxruntime or another provider computes.
    """
    import json

    from ortlite.tools.inputs import gather, provider_and_options
    from ortlite.tools.profile import profile

    check_folders(trace, html)
    if html is not None:
        from ortlite.tools import report

        report.needed()
    names = [provider_and_options(name) for name in providers]
    with working("loading"):
        session = ortlite.InferenceSession(model, providers=names or None)
        given, dimensions = pairs("--input", files), pairs("--shape", shapes)
        feed = gather(session.get_inputs(), session.get_overridable_initializers(), given, dimensions)
    done = itertools.count(1)
    with working("running"):
        told = lambda: progress.say("running", next(done), 2 * runs + 3)  # noqa: E731
        found = profile(session, feed, runs=runs, measure_roofs=roofs, on_run=told)
    compared = None
    if against is not None:
        from ortlite.cli import compare

        first = providers[0] if providers else session.get_providers()[0]
        peer = against == "onnxruntime"
        with working("comparing"):
            both = [first] if peer else [first, against]
            compared = compare.compare_model(model, given, dimensions, both, peer, None, None).comparison
    show(found if as_json else found.top(top), as_json)
    if compared is not None and not as_json:
        click.echo("\n".join(compared.summary()))
    written: dict[Path, Callable[[], str]] = {}
    if trace is not None:
        written[trace] = lambda: json.dumps(found.chrome_trace())
    if html is not None:
        written[html] = lambda: found.to_html(compared)
    if explorer is not None:
        explorer.mkdir(parents=True, exist_ok=True)
        for kind, data in found.model_explorer(compared).items():
            written[explorer / f"{kind.replace(' ', '-')}.json"] = lambda data=data: json.dumps(data)  # type: ignore[misc]
    for path, text in written.items():
        with atomic.written(path) as part:
            part.write_text(text(), encoding="utf-8")
        console(stderr=as_json).print(f"saved {path}", markup=False, highlight=False, soft_wrap=True)


def check_folders(*paths: Path | None) -> None:
    """Say before a model has run, not after, that there is no folder for a file. Raises FileNotFoundError."""
    for path in paths:
        if path is not None and not path.parent.is_dir():
            raise FileNotFoundError(f"{path.parent} is no folder to write {path.name} to")


def numbers(option: str, text: str) -> list[Any]:
    """The numbers in "1,8". Raises click.UsageError for what is none."""
    words = [word.strip() for word in text.split(",")] if text.strip() else []
    if not all(word.isdecimal() for word in words):
        raise click.UsageError(f"{option}: {text!r} is no list of numbers such as 1,8")
    return list(map(int, words))


def duration(text: str) -> float:
    """Seconds of "3s", "250ms", "2min" or "3". Raises click.UsageError for what is no duration."""
    for unit, factor in (("ms", 1e-3), ("min", 60.0), ("s", 1.0), ("", 1.0)):
        if text.endswith(unit):
            try:
                seconds = float(text.removesuffix(unit)) * factor
            except ValueError:
                break
            if 0 < seconds < math.inf:
                return seconds
    raise click.UsageError(f"--duration: {text!r} is no duration such as 3s or 250ms")


def show(found: Shown, as_json: bool) -> None:
    """Print what a tool found: tables on a terminal, aligned plain text when piped, or JSON."""
    import json

    from ortlite.cli.grid import show_table

    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=1, default=str))
        return
    out = console()
    out.print(found.heading(), markup=False, highlight=False, soft_wrap=True)
    for each in found.tables():
        show_table(out, each)
    for remark in found.remarks():
        out.print(remark, markup=False, highlight=False, soft_wrap=True)


def console(stderr: bool = False) -> Console:
    """Rich on a terminal; plain text, never wrapped, when piped."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr) if stream.isatty() else Console(stderr=stderr, width=10_000, color_system=None)
