"""Stage 2: Graph -> Graph, one pass a file.

`PASSES` is the ordered list. A pass is a pure function of a graph; it handles subgraphs itself, through
`map_subgraphs`. Its level is the lowest GraphOptimizationLevel at which it runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from time import perf_counter
from typing import NamedTuple

from ortlite.graph import Graph
from ortlite.optimize.cast_like import make_casts
from ortlite.optimize.common import merge_common
from ortlite.optimize.dead_code import remove_dead_code
from ortlite.optimize.fold_constants import fold_constants
from ortlite.optimize.identity import remove_identities
from ortlite.optimize.inline_if import inline_constant_if
from ortlite.optimize.rule import Rule, rewrite
from ortlite.optimize.shapes import with_shapes_of_rows
from ortlite.optimize.table import ASKED, BEFORE_FOLDING, HERE, NEWER, PHASES
from ortlite.progress import each
from ortlite.stopping import current

__all__ = ["ALL", "BASIC", "DISABLED", "EXTENDED", "HERE", "LAYOUT", "NEWER", "PASSES", "Pass", "optimize", "suit"]

DISABLED, BASIC, EXTENDED, LAYOUT, ALL = 0, 1, 2, 3, 99
log = logging.getLogger("ortlite")


class Pass(NamedTuple):
    """A rewriting of graphs: its name as `disabled_optimizers` writes it, its level, and the function."""

    name: str
    level: int
    fn: Callable[[Graph], Graph]


# In order: passes over whole graphs, and the rewrites in their phases.
PASSES: tuple[Pass | tuple[tuple[Rule, ...], ...], ...] = (
    Pass("EliminateDeadCode", BASIC, remove_dead_code),  # nothing is folded that nobody reads
    Pass("CastLikeToCast", BASIC, make_casts),
    BEFORE_FOLDING,
    Pass("ConstantFolding", BASIC, fold_constants),
    Pass("InlineConstantIf", BASIC, inline_constant_if),
    Pass("EliminateIdentity", BASIC, remove_identities),
    Pass("CommonSubexpressionElimination", BASIC, merge_common),
    PHASES,
    Pass("EliminateDeadCode", BASIC, remove_dead_code),
)


def optimize(graph: Graph, level: int = ALL, disabled: Collection[str] = (), pinned: Collection[str] = ()) -> Graph:
    """Apply every pass and rewrite of `level` and below that is not `disabled`, in order.

    Rewrites leave the nodes alone that `pinned` names, or values of which it names.
    """
    stop = current()
    graph = with_shapes_of_rows(graph)
    for step in each("optimising", PASSES):
        if stop is not None:
            stop()
        start, before = perf_counter(), len(graph.nodes)
        if isinstance(step, Pass):
            name = step.name
            if step.level > level or name in disabled:
                continue
            graph = step.fn(graph)
        else:
            name = "rewrites"
            phases = [_allowed(rules, level, disabled) for rules in step]
            graph = rewrite(graph, phases, pinned)
        milliseconds = (perf_counter() - start) * 1e3
        log.debug("%s: %d -> %d nodes, %.1f ms", name, before, len(graph.nodes), milliseconds)
    return graph


def suit(
    graph: Graph, rewrites: Collection[str], level: int = ALL, disabled: Collection[str] = (),
    pinned: Collection[str] = (),
) -> Graph:  # fmt: skip
    """Apply those of `rewrites` to an optimised graph, as `optimize` does: a provider asks for them."""
    rules = [rule for rule in _allowed(ASKED, level, disabled) if rule.name in rewrites]
    return rewrite(graph, [rules], pinned) if rules else graph


def _allowed(rules: Sequence[Rule], level: int, disabled: Collection[str]) -> list[Rule]:
    return [rule for rule in rules if rule.level <= level and rule.name not in disabled]
