"""The generated tables: results per provider, and which operators have which versions."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx

from conformance.cases import KINDS, Result
from ortlite.ops import registry

__all__ = ["operators_table", "unwritten", "write_operators", "write_results", "write_summary"]

HERE = Path(__file__).parent


def write_results(provider: str, results: Sequence[Result], expected: Mapping[str, str]) -> None:
    """Write conformance/results/<provider>.md."""
    lines = [
        f"# {provider} on the ONNX backend suite",
        "",
        f"Made by `python -m conformance --provider {provider}` with onnx {onnx.__version__}.",
        "",
        "| kind | cases | pass | fail |",
        "|---|---:|---:|---:|",
    ]
    for kind in (*KINDS, "all"):
        chosen = [r for r in results if kind in {r.kind, "all"}]
        bad = sum(bool(r.error) for r in chosen)
        lines.append(f"| {kind} | {len(chosen)} | {len(chosen) - bad} | {bad} |")
    failed = [r for r in results if r.error]
    if failed:
        lines += ["", "## Failures", "", "| case | why |", "|---|---|"]
        lines += [f"| {r.name} | {expected.get(r.name, 'unexpected')} |" for r in failed]
    numeric = [r for r in results if r.numeric]
    if numeric:
        pure = sum(not r.fallbacks for r in numeric)
        share = f"{pure} of {len(numeric)} numeric cases ({pure / len(numeric):.1%})"
        lines += ["", "## Falling back", "", f"{share} ran with no node on another provider.", ""]
        lines += ["| operator | reason | cases |", "|---|---|---:|"]
        counts: Counter[tuple[str, str]] = Counter(key for r in results for key in r.fallbacks)
        for (op_type, reason), count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            lines.append(f"| {op_type} | {reason.partition(': ')[2]} | {count} |")
    path = HERE / "results" / f"{provider}.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    write_summary()


def write_summary() -> None:
    """Write conformance/results/README.md from the providers' tables beside it."""
    lines = [
        "# The ONNX backend suite, provider by provider",
        "",
        "Made by `python -m conformance`, a row for each provider that was measured. NumPy stands last in every list.",
        "",
        "| provider | cases | pass | numeric cases | with no node on NumPy | |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for path in sorted((HERE / "results").glob("*Provider.md")):
        text = path.read_text()
        (cases, passed), *_ = re.findall(r"^\| all \| (\d+) \| (\d+) ", text, re.MULTILINE)
        pure = re.search(r"^(\d+) of (\d+) numeric cases \((.*)\)", text, re.MULTILINE)
        row = [f"[{path.stem}]({path.name})", cases, passed, *(pure.group(2, 1, 3) if pure else ("", "", ""))]
        lines.append(f"| {' | '.join(row)} |")
    (HERE / "results" / "README.md").write_text("\n".join(lines) + "\n")


def unwritten() -> dict[tuple[str, str], list[int]]:
    """(domain, operator) -> versions without a kernel, of everything onnx ever published."""
    missing: dict[tuple[str, str], list[int]] = defaultdict(list)
    for schema in onnx.defs.get_all_schemas_with_history():
        if registry.lookup(schema.domain, schema.name, schema.since_version) is None:
            missing[schema.domain, schema.name].append(schema.since_version)
    return {key: sorted(versions) for key, versions in sorted(missing.items())}


def operators_table() -> str:
    """The text of conformance/OPERATORS.md."""
    versions: dict[tuple[str, str], list[int]] = defaultdict(list)
    for schema in onnx.defs.get_all_schemas_with_history():
        versions[schema.domain, schema.name].append(schema.since_version)
    missing = unwritten()
    pairs = sum(map(len, versions.values()))
    absent = sum(map(len, missing.values()))
    lines = [
        "# Operators",
        "",
        f"Made by `python -m conformance --tables` with onnx {onnx.__version__}.",
        "",
        f"{len(versions)} operators, {pairs} (operator, version) pairs, {pairs - absent} with a kernel.",
        "",
        "## Unwritten",
        "",
    ]
    lines += [f"- {d or 'ai.onnx'}::{name}: {', '.join(map(str, v))}" for (d, name), v in missing.items()] or ["None."]
    lines += ["", "## Kernels", "", "| operator | versions of ONNX | kernels since | file |", "|---|---|---|---|"]
    for (domain, name), published in sorted(versions.items()):
        kernels = {k.since: k for v in published if (k := registry.lookup(domain, name, v))}
        files = {k.fn.__module__.removeprefix("ortlite.ops.") for k in kernels.values()}
        shown = ", ".join(map(str, sorted(published)))
        since = ", ".join(map(str, sorted(kernels)))
        lines.append(f"| {domain or 'ai.onnx'}::{name} | {shown} | {since} | {', '.join(sorted(files))} |")
    contrib = sorted(k.op_type for k in registry.kernels() if k.domain == "com.microsoft")
    lines += ["", "## com.microsoft", "", ", ".join(contrib) + "." if contrib else "None."]
    return "\n".join(lines) + "\n"


def write_operators() -> None:
    """Write conformance/OPERATORS.md."""
    (HERE / "OPERATORS.md").write_text(operators_table())
