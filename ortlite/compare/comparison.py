"""Where two libraries disagree on a model: value by value, with a float64 judge."""

from __future__ import annotations

import os
from collections import ChainMap, Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan
from typing import Any

from ortlite.compare.alone import Alone, first_alone
from ortlite.compare.difference import Difference, Tolerance, difference
from ortlite.compare.judge import brief, errors_of, further_off, judge
from ortlite.compare.reference import SecondJudge, verdict
from ortlite.compare.sides import ProviderSide, Side, drawing, made, unfolded
from ortlite.errors import InvalidArgument, OrtError
from ortlite.graph import Model
from ortlite.load import load
from ortlite.progress import each, say

__all__ = ["HEAD", "Comparison", "Row", "compare", "model_of", "side_of"]

SHOWN, WORST = 10, 5  # rows beyond tolerance, and within it, that a report shows


@dataclass(frozen=True, slots=True)
class Row:
    """One value of the main graph. `errors` are its largest distances from the judge on the two sides.

    `further` names the side that is further off ("" where neither is, where the judges disagree, or where nobody can
    tell), `note` says why there is no difference, and `unjudged` why there are no errors. Beyond tolerance, `judges`
    says which judges agreed, or how they disagree.
    """

    name: str
    op_type: str
    node: str
    difference: Difference | None
    errors: tuple[float, float] | None = None
    further: str = ""
    note: str = ""
    unjudged: str = ""
    judges: str = ""
    disputed: bool = False

    @property
    def exceeds(self) -> bool:
        """Whether the two sides are further apart than the tolerance allows."""
        return self.difference is not None and self.difference.exceeds


@dataclass(frozen=True, slots=True)
class Comparison:
    """Every value that the nodes of a model compute, in topological order, on two `sides`.

    `elsewhere` counts, by side, the values that a provider leaves to the CPU provider. `alone` is the first value
    beyond tolerance that differs even where its node gets the same on both sides; `untried` says why nobody knows.
    """

    sides: tuple[str, str]
    rows: tuple[Row, ...]
    elsewhere: Mapping[str, int]
    alone: Alone | None = None
    untried: str = ""

    @property
    def first(self) -> Row | None:
        """The first value beyond tolerance."""
        return next((row for row in self.rows if row.exceeds), None)

    @property
    def suspect(self) -> str | None:
        """Where to look: the value of `alone`, else of `first`."""
        return self.alone.name if self.alone else self.first.name if self.first else None

    def notable(self) -> tuple[Row, ...]:
        """The first values beyond tolerance, those that could not be compared, and the worst within it."""
        beyond = [row for row in self.rows if row.exceeds][:SHOWN]
        notes = [row for row in self.rows if row.note][:WORST]
        within = [row for row in self.rows if row.difference and not row.exceeds and row.difference.unequal]
        worst = sorted(within, key=lambda row: -row.difference.excess if row.difference else 0.0)[:WORST]
        chosen = {row.name for row in (*beyond, *notes, *worst)} | {self.suspect}
        return tuple(row for row in self.rows if row.name in chosen)

    def table(self, rows: Sequence[Row]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Some rows as text, beneath a head; without columns that say nothing."""
        lines = [self.cells(row) for row in rows]
        kept = [index for index in range(len(self.head())) if any(line[index] for line in lines)]
        return tuple(self.head()[i] for i in kept), [tuple(line[i] for i in kept) for line in lines]

    def head(self) -> tuple[str, ...]:
        """What the cells of a line are."""
        a, b = self.sides
        return (*HEAD, f"{a} error", f"{b} error", "remark")

    def cells(self, row: Row) -> tuple[str, ...]:
        """A row as text."""
        mark = "FIRST" if row is self.first else "beyond" if row.exceeds else ""
        d = row.difference
        if d is None:
            return ("", row.name, row.op_type, "", "", "", "", "", "", "", row.note)
        if d.problem:
            return (mark, row.name, row.op_type, d.type, "", "", "", "", "", "", d.problem)
        errors = ("", "") if row.errors is None else tuple(map(_number, row.errors))
        remarks = [
            f"{row.further} is further off" if row.further else "the judges disagree" if row.disputed else "",
            f"{d.odd} NaN or infinite on one side" if d.odd else "",
            f"worst at {d.worst}" if d.exceeds and d.worst else "",
            f"not judged: {row.unjudged}" if row.unjudged and d.unequal else "",
        ]
        counts = f"{d.beyond} of {d.size}" if d.beyond else ""
        steps = "" if d.ulps is None else f"{d.ulps:,}" if d.ulps < 10**7 else f"{d.ulps:.1e}"
        figures = (_number(d.absolute), _number(d.relative), steps, counts)
        remark = ", ".join(filter(None, remarks))
        return (mark, row.name, row.op_type, d.type, *figures, *errors, remark)

    def summary(self) -> list[str]:
        """The counts, and where to look first."""
        kinds = Counter(row.note or ("beyond tolerance" if row.exceeds else "within tolerance") for row in self.rows)
        equal = sum(1 for row in self.rows if row.difference and not row.exceeds and not row.difference.unequal)
        order = sorted(kinds, key=lambda kind: (kind != "within tolerance", kind))
        counts = ", ".join(f"{kinds[kind]} {kind}" for kind in order) or "none"
        lines = [f"{' against '.join(self.sides)}, {len(self.rows)} values: {counts} ({equal} equal to the bit)"]
        lines += [f"{count} of them run on CPU in place of {name}" for name, count in self.elsewhere.items() if count]
        lost = Counter(row.unjudged for row in self.rows if row.unjudged and not row.unjudged.startswith("needs "))
        needing = sum(1 for row in self.rows if row.unjudged.startswith("needs "))
        if lost:
            reasons = "; ".join(f"{count}: {reason}" for reason, count in lost.most_common(3))
            tail = f"; {needing} need one of these" if needing else ""
            lines.append(f"not judged: {reasons}{tail}")
        if self.first is not None:
            who = _blame(self.first.further, self.first.judges, self.first.disputed)
            made_by = _made_by(self.first.name, self.first.op_type, self.first.node)
            lines += [f"first beyond tolerance: {made_by}{who}", self._cause()]
        return lines

    def _cause(self) -> str:
        """Whether one node is at fault."""
        given = f"on what {self.sides[0]} gave it"
        if self.untried:
            return f"whether a node differs {given} is not known: {self.untried}"
        if self.alone is None:
            return f"{given}, no node is off by more than rounding"
        a, d = self.alone, self.alone.difference
        same = self.first is not None and a.name == self.first.name
        what = "that node differs" if same else f"first that differs {given}: "
        what += f" {given}, too: " if same else f"{_made_by(a.name, a.node.op_type, a.node.name)}, "
        who = _blame(a.verdict.further, a.verdict.says, a.verdict.disputed)
        return f"{what}{d.problem or f'{d.absolute:.3g} apart'}{who}"

    def __str__(self) -> str:
        head, rows = self.table(self.notable())
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)]
        return "\n".join([*(lines if rows else ()), *self.summary()])


HEAD = ("", "value", "operator", "type", "absolute", "relative", "ULP", "beyond")


def _blame(further: str, says: str, disputed: bool) -> str:
    """Who is further off, and who says so."""
    if disputed:
        return f"; {says}"
    return f"; {further} is further off from float64 ({says})" if further else ""


def _made_by(name: str, op_type: str, node: str) -> str:
    return f"{name!r}, made by {op_type}" + (f" (node {node!r})" if node else "")


def _number(value: float) -> str:
    return "" if isnan(value) else f"{value:.3g}"


def compare(
    model: str | os.PathLike[str] | bytes | Model,
    inputs: Mapping[str, Any],
    providers: Sequence[str | tuple[str, Mapping[str, str]] | Side],
    *,
    rtol: float | None = None,
    atol: float | None = None,
) -> Comparison:
    """Run a model on two `providers` (names, (name, options), or sides of your own) and compare every value.

    Two elements agree where `|a - b| <= atol + rtol · max(|a|, |b|)`; the defaults depend on the dtype. What nodes that
    draw random numbers compute is not compared: the second side, and the judge, get what the first one drew. An If is
    replaced by the branch that it takes on the first side. Nodes that compute what is beyond tolerance then run on the
    second side once more, each on what the first side gave it. Raises ValueError for other than two providers,
    RuntimeError for one that is not here, and what a session does for wrong inputs (InvalidArgument) and failing nodes.

    Example:
        >>> from ortlite.cli.digits import model_bytes, scans
        >>> found = compare(model_bytes(), {"scan": scans()[0][:2]}, ["CPUExecutionProvider", "CPUExecutionProvider"])
        >>> len(found.rows), found.first, found.suspect
        (11, None, None)

    """
    if len(providers) != 2:
        raise ValueError(f"two providers are compared, not {len(providers)}")
    one, other = map(side_of, providers)
    model = model_of(model)
    known = {*model.graph.inputs, *model.graph.constants, *made(model.graph)}
    if unknown := inputs.keys() - known:
        raise InvalidArgument(f"Invalid input name: {min(unknown)}")
    model = unfolded(model, one, inputs)
    graph = model.graph
    names = [name for name in made(graph) if name not in inputs]
    tolerance = Tolerance(rtol, atol)

    left = _run(one, model, inputs, names)
    drawn = {name for node in drawing(graph) for name in node.outputs if name in left}
    shared = {**inputs, **{name: left[name] for name in names if name in drawn}}
    rest = [name for name in names if name not in drawn]
    right = _run(other, model, shared, rest)
    say("judging in float64")
    judged = judge(model, shared, rest)
    second, around = SecondJudge(), ChainMap(shared, dict(judged.values))

    producers = {name: node for node in graph.nodes for name in node.outputs if name}
    labels = (one.name, other.name) if one.name != other.name else (one.name, f"{other.name} again")
    rows = []
    for name in each("comparing", names):
        node, note = producers[name], ""
        if name in drawn:
            note = "random"
        elif name not in left or name not in right:
            note = f"not handed out by {labels[0] if name not in left else labels[1]}"
        if note:
            rows.append(Row(name, node.op_type, node.name, None, note=note))
            continue
        found = difference(left[name], right[name], tolerance)
        truth = judged.values.get(name)
        errors = None if name not in judged.values else errors_of(left[name], right[name], truth)
        further = further_off(errors, labels) if found.unequal or found.problem else ""
        unjudged = judged.reasons.get(name, "")
        row = Row(name, node.op_type, node.name, found, errors, further, "", unjudged)
        if row.exceeds:  # the second judge is slow
            said = second.value(model, node, name, around)
            final = verdict(left[name], right[name], (truth, unjudged), said, labels, node)
            unjudged = "" if final.errors else unjudged
            row = replace(
                row, errors=final.errors, further=final.further, unjudged=unjudged, judges=final.says,
                disputed=final.disputed,
            )  # fmt: skip
        rows.append(row)
    elsewhere = {s.name: len(s.elsewhere(model)) for s in (one, other) if isinstance(s, ProviderSide)}
    alone, untried = None, ""
    del right, judged  # large models
    if beyond := {row.name for row in rows if row.exceeds}:
        say("running nodes alone")
        try:
            alone = first_alone(model, other, {**left, **shared}, beyond, tolerance, labels, second)
        except Exception as error:  # noqa: BLE001  (whatever a library says of nodes alone; the report says it, too)
            untried = brief(error)
    return Comparison(labels, tuple(rows), elsewhere, alone, untried)


def _run(side: Side, model: Model, feed: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """What a side computes. Where one of its nodes fails, the error says whose it is."""
    say(f"running on {side.name}")
    try:
        return side.run(model, feed, names)
    except OrtError as error:
        if error.node is None:
            raise
        raise type(error)(f"{side.name}: {error.text}", error.node) from error


def model_of(model: str | os.PathLike[str] | bytes | Model) -> Model:
    """A model, read where it is a path or bytes."""
    return model if isinstance(model, Model) else load(model)


def side_of(given: str | tuple[str, Mapping[str, str]] | Side) -> Side:
    """A side from a provider's name, (name, options), or a side. Raises RuntimeError for an unknown provider."""
    if isinstance(given, str):
        return ProviderSide(given)
    return ProviderSide(*given) if isinstance(given, tuple) else given
