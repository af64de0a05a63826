"""Run the ONNX backend suite on a provider and write its table.

    python -m conformance [--provider P] [-k PATTERN] [--jobs N] [--tables]

A case that is expected to fail stands in `conformance/expected/<provider>.txt` with its reason. The run
fails for a failure that is not listed and for a pass that is.
"""

from __future__ import annotations

import argparse
import re
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import track

from conformance import forked, report, run_main
from conformance.cases import Result, load_cases, run_case
from ortlite.provider import CPU

HERE = Path(__file__).parent
LUCK = "draws"  # prefix of reasons for random cases, which may pass by chance


def expected_failures(provider: str) -> dict[str, str]:
    """Case -> reason, from the provider's file: `name  reason` a line, # for comments."""
    path = HERE / "expected" / f"{provider}.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [line.split(maxsplit=1) for line in lines if line.strip() and not line.startswith("#")]
    return {row[0]: row[1] for row in rows}


def run_suite(provider: str, pattern: str = "", jobs: int = 2, console: Console | None = None) -> list[Result]:
    """Run the cases whose name `pattern` finds, in order of their names: in this process, or in `jobs` others.

    With others, this one must not have started the provider's library: CUDA and JAX do not survive a fork. Raises
    BrokenProcessPool when a case ends its process.
    """
    names = sorted(name for name in load_cases() if re.search(pattern, name))
    work = partial(run_case, provider=provider)
    shown = partial(track, description=provider, total=len(names), console=console)
    shown = partial(shown, disable=console is None or not console.is_terminal)
    if jobs == 1:
        return list(shown(map(work, names)))
    # fork: the cases take seconds to make, and are made once
    with forked(jobs) as pool:
        return list(shown(pool.map(work, names, chunksize=8)))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m conformance", description=__doc__.split("\n")[0])
    parser.add_argument("--provider", default=CPU, help="provider to run on, before the CPU provider")
    parser.add_argument("-k", dest="pattern", default="", help="regular expression: only cases whose name it finds")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--tables", action="store_true", help="only write the tables that need no run")
    args = parser.parse_args()
    console = Console(stderr=True, soft_wrap=True)
    if args.tables:
        report.write_operators()
        return 0
    if not any(re.search(args.pattern, name) for name in load_cases()):
        console.print(f"no case matches -k {args.pattern!r}", markup=False, highlight=False)
        return 1
    results = run_suite(args.provider, args.pattern, args.jobs, console)

    names = {r.name for r in results}
    expected = {n: why for n, why in expected_failures(args.provider).items() if n in names}
    failed = {r.name: r.error for r in results if r.error}
    surprises = {n: e for n, e in failed.items() if n not in expected}
    for name, error in sorted(surprises.items()):
        console.print(f"FAIL {name}: {error[:600]}", markup=False, highlight=False)
    passes = sorted(n for n, why in expected.items() if n not in failed and not why.startswith(LUCK))
    for name in passes:
        console.print(f"PASS, though expected to fail: {name} ({expected[name]})", markup=False, highlight=False)
    slowest = ", ".join(f"{r.name} {r.seconds:.2f} s" for r in sorted(results, key=lambda r: -r.seconds)[:3])
    total = f"{len(results) - len(failed)} passed, {len(failed)} failed ({len(failed) - len(surprises)} expected)"
    console.print(f"{args.provider}: {total}; slowest: {slowest}", highlight=False)
    if not args.pattern and (HERE / "expected" / f"{args.provider}.txt").exists():  # of others' the table is theirs
        report.write_results(args.provider, results, expected)
    return 1 if surprises or passes else 0


if __name__ == "__main__":
    run_main(main)
