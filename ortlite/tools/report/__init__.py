"""A profile as one page of HTML that needs no network: `Profile.to_html`.

`layout` says where things are drawn, `charts` draws them with Bokeh, and page.html, page.css and page.js are what the
page has of its own. Tables are DataTables', from the wheel of itables; Bokeh's JavaScript lies in its own wheel.
"""

from __future__ import annotations

import json
from html import escape
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ortlite.tools.shown import amount

if TYPE_CHECKING:
    from ortlite.compare import Comparison
    from ortlite.tools.profile import Profile

__all__ = ["needed", "page"]

HERE = Path(__file__).parent


def needed() -> ModuleSpec:
    """Where itables lies. Raises ImportError without bokeh and itables."""
    tables = find_spec("itables")
    if tables is None or find_spec("bokeh") is None:
        raise ImportError("a report needs bokeh and itables: pip install 'ortlite[report]'")
    return tables


def page(profile: Profile, comparison: Comparison | None = None) -> str:
    """The page, with the differences of a comparison if there is one. Raises ImportError without bokeh and itables."""
    tables = needed()
    from ortlite.tools.report import charts

    folder = Path((tables.submodule_search_locations or [""])[0], "html")
    items = {
        "graph": charts.graph(profile),
        "flame": charts.flame(profile),
        "memory": charts.memory(profile),
        "roofline": charts.roofline(profile),
    }
    if comparison is not None:
        items["differences"] = charts.differences(profile, comparison)
    parts = {
        "TITLE": escape(f"Profile of {profile.name}"),
        "SUMMARY": _summary(profile),
        "COMPARISON": "" if comparison is None else "".join(f"<p>{escape(line)}</p>" for line in comparison.summary()),
        "SIDES": "" if comparison is None else escape(" against ".join(comparison.sides)),
        "CSS": (folder / "dt_bundle.css").read_text(encoding="utf-8") + (HERE / "page.css").read_text(encoding="utf-8"),
        "DATA": _json(_data(profile, comparison)),
        "ITEMS": _json(items),
        "BOKEH": _script(charts.bokeh_js()),
        "DATATABLES": _script((folder / "dt_bundle.js").read_text(encoding="utf-8")),
        "PAGE": _script((HERE / "page.js").read_text(encoding="utf-8")),
    }
    head, *rest = (HERE / "page.html").read_text(encoding="utf-8").split("<!--{")
    text = [head]
    for part in rest:
        name, _, after = part.partition("}-->")
        text += [parts[name], after]
    # names of files need not be UTF-8; in JSON, too, this says what they are
    return "".join(text).encode("utf-8", "backslashreplace").decode()


def _script(code: str) -> str:
    """JavaScript that may stand inside of a script element."""
    return code.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _summary(profile: Profile) -> str:
    """The figures at the top of the page."""
    providers = dict.fromkeys(node.provider.removesuffix("ExecutionProvider") for node in profile.nodes)
    flops = sum(node.flops or 0 for node in profile.nodes)
    facts = {
        "one run": f"{profile.run_ms:.3g} ms",
        "step by step": f"{profile.stepwise_ms:.3g} ms",
        "nodes": f"{len(profile.nodes):,}",
        "providers": ", ".join(providers),
        "computes": amount(flops, "FLOPs"),
        "values hold at most": amount(profile.peak_bytes, "B"),
    }
    return "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())


def _data(profile: Profile, comparison: Comparison | None) -> dict[str, Any]:
    """What page.js knows: columns of the nodes, lines of source once each, and the rows of the comparison."""
    nodes = profile.nodes
    lines: dict[str, int] = {}
    made = [0] * len(nodes)
    for value in profile.values:
        made[value.node] += value.nbytes
    found: dict[str, Any] = {
        "name": [node.name for node in nodes],
        "op": [node.op_type for node in nodes],
        "provider": [node.provider.removesuffix("ExecutionProvider") for node in nodes],
        "kernel": [node.kernel for node in nodes],
        "calls": [node.calls for node in nodes],
        "ms": [round(node.ms, 6) for node in nodes],
        "share": [round(node.share, 6) for node in nodes],
        "bytes": [node.nbytes for node in nodes],
        "flops": [node.flops for node in nodes],
        "gflops": [_rounded(node.gflops_per_s) for node in nodes],
        "gbytes": [_rounded(node.gbytes_per_s) for node in nodes],
        "roof": [_rounded(node.of_roof) for node in nodes],
        "memory": made,
        "order": [node.order for node in nodes],
        "reads": [node.reads for node in nodes],
        "parent": [node.parent for node in nodes],
        "scope": [".".join(node.scope) for node in nodes],
        "outputs": [node.outputs for node in nodes],
        "origin": [node.origin if len(node.origin) > 1 else () for node in nodes],
        "sources": [[lines.setdefault(line, len(lines)) for line in node.sources] for node in nodes],
    }
    found["lines"] = list(lines)
    if comparison is not None:
        sizes = {row.name: row.difference for row in comparison.rows}
        known = [[d for name in node.outputs if (d := sizes.get(name)) is not None] for node in nodes]
        found["error"] = [_rounded(max((d.absolute for d in each if not d.problem), default=None)) for each in known]
        found["exceeds"] = [any(d.exceeds for d in each) for each in known]
        found["differences"] = {
            "head": ["value", *comparison.head()[2:]],
            "rows": [list(comparison.cells(row)[1:]) for row in comparison.rows],
            "exceeds": [row.exceeds for row in comparison.rows],
        }
    return found


def _rounded(value: float | None) -> float | None:
    """Four digits; None for what is no number."""
    return float(f"{value:.4g}") if value is not None and isfinite(value) else None
