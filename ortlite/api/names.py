"""Names that users give: of values to look at or to feed, of nodes to place. What to say of those that nobody has."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from ortlite.errors import InvalidArgument
from ortlite.graph import Graph

__all__ = ["check_placement", "expect", "output_names_of", "tapped", "unknown"]


def expect(kind: type, **arguments: object) -> None:
    """Raise TypeError for an argument that is not of a kind."""
    for name, value in arguments.items():
        if not isinstance(value, kind):
            raise TypeError(f"{name} is of type {kind.__name__}, not {type(value).__name__}")


def output_names_of(graph: Graph, output_names: Any, feed: Any) -> tuple[str, ...]:
    """The names of the outputs that a run asks for; of all where it names none.

    Raises TypeError for what are no names, AttributeError for what are no feeds.
    """
    if output_names and (isinstance(output_names, str | Mapping) or not hasattr(output_names, "__len__")):
        raise TypeError(f"output_names is a sequence of names, not {output_names!r}")
    wanted = tuple(output_names or graph.outputs)
    if bytes in map(type, wanted):  # text, as in onnxruntime
        wanted = tuple(name.decode() if isinstance(name, bytes) else name for name in wanted)
    if not all(isinstance(name, str) for name in wanted):
        raise TypeError(f"output_names is a sequence of str, not {output_names!r}")
    if not isinstance(feed, Mapping):
        raise AttributeError(f"{type(feed).__name__!r} object has no attribute 'keys': input_feed is a dict from names")
    return wanted


def tapped(graph: Graph, taps: Sequence[str | re.Pattern[str]]) -> tuple[str, ...]:
    """The values that names and regular expressions mean: constants, then in the order of computation."""
    computed = [*graph.inputs, *(name for node in graph.nodes for name in node.outputs if name)]
    known = [*(name for name in graph.constants if name not in graph.overridable), *computed]
    found: set[str] = set()
    for tap in taps:
        if not isinstance(tap, str | re.Pattern):
            raise TypeError(f"taps are names and regular expressions, not {type(tap)}")
        try:  # weights are asked for by name: an expression for a layer's values does not mean them
            hits = [name for name in known if name == tap] or [n for n in computed if re.fullmatch(tap, n)]
        except re.error as error:
            raise InvalidArgument(f"taps: {unknown(graph, tap)} (as a regular expression: {error})") from None
        if not hits:
            pattern = tap.pattern if isinstance(tap, re.Pattern) else tap
            raise InvalidArgument(f"taps: {unknown(graph, pattern, 'is called or matches')}")
        found.update(hits)
    return tuple(name for name in known if name in found)


def unknown(graph: Graph, name: Any, how: str = "is called") -> str:
    """What to say of a name that no value of the main graph has: what is like it, or where else it is."""
    for node in graph.nodes:
        for attribute, body in node.subgraphs.items():
            if any(name in (*inner.outputs, *inner.inputs) for inner in body.walk()):
                owner = f"node {node.name!r}" if node.name else f"the node that computes {node.outputs[0]!r}"
                return (
                    f"{name!r} is a value inside the {attribute} of {owner} ({node.op_type}), which may run any number "
                    "of times: only values of the main graph can be asked for or fed"
                )
    known = dict.fromkeys([*graph.inputs, *graph.constants, *(o for node in graph.nodes for o in node.outputs if o)])
    return f"no value {how} {name!r}{_near(str(name), known)}"


def _near(name: str, known: Collection[str]) -> str:
    """Names that are like one that is unknown: what a function called so computes, else what is spelt almost so."""
    inside = [other for other in known if other.startswith(f"{name}/") or other.endswith(f"/{name}")]
    near = inside[:3] or get_close_matches(name, known, 3)
    return f"; near it: {', '.join(map(repr, near))}" if near else ""


def check_placement(placement: Mapping[str, str], graph: Graph, providers: Sequence[str]) -> None:
    """Raise ValueError for a name that no node has or computes, and for a provider that the session has not."""
    names = dict.fromkeys(n for node in graph.walk() for n in (node.name, *node.outputs) if n) if placement else {}
    for name, provider in placement.items():
        if name not in names:
            near = _near(name, names)
            raise ValueError(f"placement: no node is called {name!r} or computes a value of that name{near}")
        if provider not in providers:
            raise ValueError(f"placement: {name!r} is to run on {provider!r}, which is not among {list(providers)}")
