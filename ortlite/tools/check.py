"""`ortlite.check`: would a model run on a provider, and if not, which nodes and why."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ortlite.api.explain import fallen_back
from ortlite.errors import OrtError
from ortlite.graph import Model, Node
from ortlite.ops import registry
from ortlite.provider import CPU
from ortlite.tools.info import Source, opened, placed
from ortlite.tools.shown import Shown, Table

__all__ = ["Check", "Finding", "check"]

KINDS = {
    "load": "does not load",
    "missing": "no kernel",
    "provider": "not available",
    "fallback": "runs on CPU",
    "fails": "fails",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """What stands in the way: of the model ("load"), of a provider ("provider"), or of a node on a provider.

    `kind` of a node is "fallback" (it runs on the CPU provider), "missing" (no provider has a kernel), or "fails".
    """

    kind: str
    provider: str
    node: str
    op_type: str
    reason: str


@dataclass(frozen=True)
class Check(Shown):
    """What `ortlite.check` found; true where the model runs on every provider with no node left to the CPU provider."""

    name: str
    providers: tuple[str, ...]
    findings: tuple[Finding, ...]

    def __bool__(self) -> bool:
        return not self.findings

    def heading(self) -> str:
        """The verdict in a line."""
        where = ", ".join(self.providers)
        if self:
            return f"{self.name} runs on {where}"
        count = len(self.findings)
        return f"{self.name}: {count} finding{'s' if count > 1 else ''} for {where}"

    def tables(self) -> list[Table]:
        """The findings, if there are any."""
        rows = [(KINDS[f.kind], f.provider, f.node, f.op_type, f.reason) for f in self.findings]
        head = ("finding", "provider", "node", "operator", "why")
        return [Table("findings", head, rows, name="node", prose="why")] if rows else []


def check(model: Source, providers: str | Sequence[str] = (CPU,)) -> Check:
    """Whether each of `providers` would run all of a model by itself; nothing is run.

    Nodes that the CPU provider would run in its place are findings, but shape arithmetic is not. What a model that does
    not load raises is a finding, too. A provider may be called without "ExecutionProvider" at its end.

    Example:
        >>> import ortlite
        >>> from ortlite.cli.digits import model_bytes
        >>> bool(ortlite.check(model_bytes(), "CPU"))
        True
        >>> print(ortlite.check(b"no model"))  # doctest: +ELLIPSIS
        model: 1 finding for CPUExecutionProvider
        findings:
          finding        provider  node  operator  why
          does not load                            ...

    """
    from ortlite.tools.inputs import provider_name

    asked = [providers] if isinstance(providers, str) else list(providers)
    findings: list[Finding] = []
    names = []
    for name in asked:
        try:
            names.append(provider_name(name))
        except ValueError as error:
            findings.append(Finding("provider", name, "", "", str(error)))
    called = "model" if isinstance(model, bytes) else ""
    if isinstance(model, str | os.PathLike):
        called = Path(os.fsdecode(model)).name
    try:
        loaded = opened(model)
    except (OrtError, OSError) as error:
        findings.append(Finding("load", "", *_named(error), " ".join(str(error).split())))
        return Check(called, tuple(names or asked), tuple(findings))
    missing = _missing(loaded)
    findings += missing
    for name in names:
        findings += [] if missing else _findings(loaded, name)
    unknown = [name for name in asked if name not in names and f"{name}ExecutionProvider" not in names]
    return Check(called or loaded.graph.name, (*names, *unknown), tuple(findings))


def _missing(model: Model) -> list[Finding]:
    """The nodes whose operator nobody has."""
    return [
        Finding("missing", "", node.name, node.op_type, f"no kernel for {_operator(node)} in opset {node.opset}")
        for node in model.graph.walk()
        if registry.lookup(node.domain, node.op_type, node.opset) is None
    ]


def _findings(model: Model, provider: str) -> list[Finding]:
    try:
        parts = placed(model, [provider])
    except (OrtError, ValueError, RuntimeError) as error:
        return [Finding("fails", provider, *_named(error), " ".join(str(error).split()))]
    if provider == CPU:
        return []
    return [
        Finding("fallback", provider, n.name, n.op_type, "; ".join(n.reasons).removeprefix(f"{provider}: "))
        for n in fallen_back(parts)
    ]


def _named(error: Exception) -> tuple[str, str]:
    """Name and operator of the node that an error is about, if it says so."""
    node = getattr(error, "node", None)
    return (node.name, node.op_type) if isinstance(node, Node) else ("", "")


def _operator(node: Node) -> str:
    return f"{node.domain}::{node.op_type}" if node.domain else node.op_type
