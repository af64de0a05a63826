"""The commands that say what a model is like: `info`, `check`, `bench` and `profile`, as `ortlite.tools` does."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import click

import ortlite
from ortlite import atomic, progress
from ortlite.cli.bars import working
from ortlite.cli.options import duration, given_inputs, limited, numbers, pairs, sizes
from ortlite.cli.output import check_folders, console, show

__all__ = ["bench_model", "check_model", "model_info", "profile_model"]


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


@click.command("info")
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


@click.command("check")
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


@click.command("bench", cls=_Listing)
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


@click.command("profile")
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
