"""The page's charts, by Bokeh: drawn by its JavaScript, from what `json_item` writes. Colours come from the page.

Names of models are what page.js finds them by: the source of a chart's marks has the chart's name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
from bokeh.embed import json_item
from bokeh.layouts import column
from bokeh.models import (
    ColumnDataSource,
    CustomJS,
    CustomJSHover,
    CustomJSTickFormatter,
    HoverTool,
    PanTool,
    Range1d,
    TapTool,
    WheelZoomTool,
)
from bokeh.plotting import figure
from bokeh.resources import Resources

from ortlite.tools.report.layout import flames, places
from ortlite.tools.shown import amount

if TYPE_CHECKING:
    from ortlite.compare import Comparison
    from ortlite.tools.profile import NodeProfile, Profile

__all__ = ["bokeh_js", "differences", "flame", "graph", "memory", "roofline"]

FEW = 1000  # nodes with round corners, which take long to draw
SHOWN_VALUES = 40  # of the values, the largest, that have a line below the memory timeline
NODE = [("", "@node{custom}")]  # page.js says what there is to say of a node


def bokeh_js() -> str:
    """Bokeh's JavaScript, without widgets."""
    return "\n".join(Resources(mode="inline", components=["bokeh"], minified=True).js_raw)


def _figure(name: str, height: int, tips: Any = NODE, pan: str = "both", **options: Any) -> Any:
    found = figure(
        name=f"{name}-figure", height=height, sizing_mode="stretch_width", toolbar_location=None, tools="", **options
    )
    found.add_tools(PanTool(dimensions=pan), WheelZoomTool(dimensions=pan, modifiers={"ctrl": True}), TapTool())
    # before page.js knows the colours; what was painted white once shines through at the edges later
    found.background_fill_color = found.border_fill_color = found.outline_line_color = None
    found.toolbar.active_drag = found.tools[0]
    found.toolbar.active_scroll = found.tools[1]
    if tips is not None:
        said = {"@node": CustomJSHover(code="return window.report.says(value)")}
        found.add_tools(HoverTool(tooltips=tips, formatters=said if tips is NODE else {}, renderers=[]))
    return found


def _numbers(columns: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Columns with numbers as float32, which take a third of the room that they take as text."""
    return {
        name: np.asarray(column, np.float32) if len(column) and not isinstance(column[0], str | bool) else column
        for name, column in columns.items()
    }


def _marks(name: str, columns: Mapping[str, Sequence[Any]]) -> ColumnDataSource:
    """A source with colours that page.js sets, which tells page.js what was clicked."""
    size = len(next(iter(columns.values())))
    paint = {"color": ["gray"] * size, "alpha": np.ones(size, np.float32)}
    source = ColumnDataSource(name=name, data={**_numbers(columns), **paint})
    source.selected.js_on_change("indices", CustomJS(code=f"window.report.clicked('{name}', cb_obj.indices)"))
    return source


def _finish(found: Any, marks: Any) -> Any:
    """Clicks and the pointer meet the marks only, and marks look the same whether or not one is selected."""
    marks.selection_glyph = marks.nonselection_glyph = None
    marks.visible, marks.name = False, "marks"  # until page.js has colours: to draw them twice takes twice as long
    for tool in found.tools:
        if isinstance(tool, HoverTool | TapTool):
            tool.renderers = [marks]
    return found


def graph(profile: Profile) -> Any:
    """All nodes in the order in which values flow, line by line as text is read."""
    nodes = profile.nodes
    where = places(edges(nodes))
    xs, ys = [place.x for place in where], [place.y for place in where]
    found = _figure("graph", 420, x_range=Range1d(min(xs, default=0) - 1, max(xs, default=0) + 1))
    found.y_range = Range1d(min(ys, default=0) - 1, max(ys, default=0) + 1)
    found.axis.visible = found.grid.visible = False
    xys: list[tuple[float, float]] = []
    for node, reads in enumerate(edges(nodes)):
        for other in reads:
            one, two = where[other], where[node]
            xys += _curves(one.x, one.y, two.x, two.y, one.line == two.line)
    lines = {"x": [x for x, _ in xys], "y": [y for _, y in xys]}  # one line with gaps is drawn a lot faster than many
    found.line(x="x", y="y", source=ColumnDataSource(_numbers(lines)), name="edges", line_width=1, line_alpha=0.8)
    source = _marks("graph", {"x": xs, "y": ys, "node": range(len(nodes))})
    shape = {"x": "x", "y": "y", "width": 0.72, "height": 0.42, "source": source}
    marks = found.rect(
        **shape, fill_color="color", fill_alpha="alpha", line_color=None, border_radius=3 * (len(nodes) < FEW)
    )
    picked = ColumnDataSource(name="picked", data={"x": [], "y": []})
    found.rect(x="x", y="y", width=0.86, height=0.62, source=picked, name="ring", fill_color=None, line_width=2.5)
    _labels(found, text_align="center", text_baseline="top", y_offset=3, text_font_size="10px")
    return json_item(_finish(found, marks))


def _labels(found: Any, **style: Any) -> None:
    """Text that page.js fills in where there is room: measuring text that nobody sees takes seconds."""
    source = ColumnDataSource(name=f"{found.name}-labels", data={"x": [], "y": [], "text": []})
    found.text(x="x", y="y", text="text", source=source, name="labels", **style)


def _around(values: Sequence[float]) -> Any:
    """The range of a logarithmic axis around values."""
    return Range1d(min(values, default=0.1) / 3, max(values, default=10.0) * 4)


def edges(nodes: Sequence[NodeProfile]) -> list[list[int]]:
    """What each node reads; the first nodes of a body hang on the node whose body it is."""
    found = []
    for node in nodes:
        inside = [other for other in node.reads if nodes[other].parent == node.parent]
        found.append(list(node.reads) if inside or node.parent is None else [*node.reads, node.parent])
    return found


def _curves(x0: float, y0: float, x1: float, y1: float, same_line: bool) -> list[tuple[float, float]]:
    """A line from node to node, bent around what is between, and a gap.

    Between lines of the drawing only how it leaves and arrives.
    """
    left, right, gap = x0 + 0.36, x1 - 0.36, (float("nan"), float("nan"))
    if not same_line or right < left:
        return [(left, y0), (left + 0.4, y0 - 0.2), gap, (right - 0.4, y1 + 0.2), (right, y1), gap]
    if x1 - x0 < 1.5 or abs(y1 - y0) >= 0.3:
        return [(left, y0), (right, y1), gap]
    height = min(0.66, 0.25 + (x1 - x0) / 24)
    bend = [(left + (right - left) * t / 8, (y0 + y1) / 2 + height * (1 - (t / 4 - 1) ** 2)) for t in range(9)]
    return [*bend, gap]


def flame(profile: Profile) -> Any:
    """Time by module and node; what a body takes lies on the node that it belongs to."""
    nodes = profile.nodes
    order = sorted(range(len(nodes)), key=lambda index: nodes[index].order)
    paths: dict[int, list[str]] = {}
    for index in order:  # a node comes after the one in whose body it stands
        node = nodes[index]
        scope = list(node.scope) or [node.op_type]
        above = [] if node.parent is None else [*paths[node.parent][:-1], f"in {nodes[node.parent].name}"]
        paths[index] = [*above, *scope, node.name or node.op_type]
    bars = flames([paths[index] for index in order], [nodes[index].ms for index in order])
    deepest = max((bar.depth for bar in bars), default=0)
    end = max((bar.right for bar in bars), default=1.0)
    found = _figure("flame", 60 + 22 * (deepest + 1), NODE, "width", x_range=Range1d(0, end, bounds=(0, end)))
    found.y_range = Range1d(deepest + 1, 0)
    found.yaxis.visible = found.grid.visible = False
    found.xaxis.axis_label = "ms of one run"
    columns: dict[str, Sequence[Any]] = {
        "left": [bar.left for bar in bars],
        "right": [bar.right for bar in bars],
        "top": [bar.depth + 0.03 for bar in bars],
        "bottom": [bar.depth + 0.95 for bar in bars],
        "name": ["" if bar.node is not None else bar.label for bar in bars],
        "node": [-1 if bar.node is None else order[bar.node] for bar in bars],
    }
    source = _marks("flame", columns)
    marks = found.quad(
        left="left", right="right", top="top", bottom="bottom", source=source, fill_color="color", fill_alpha="alpha",
        line_color=None,
    )  # fmt: skip
    _labels(found, x_offset=4, text_font_size="11px", text_baseline="middle")
    return json_item(_finish(found, marks))


def memory(profile: Profile) -> Any:
    """The bytes that computed values hold over the last run, and below when the largest of them are there."""
    ends = sorted((event for event in profile.events if event.begin >= profile.began), key=lambda event: event.end)
    times = [0.0, *((event.end - profile.began) / 1e6 for event in ends)]
    live = [0, *(event.live for event in ends)]
    above = _figure("memory-line", 170, None, "width", x_range=Range1d(0, max(times)))
    above.varea_step(x=times, y1=[0] * len(live), y2=live, step_mode="after", name="area", fill_alpha=0.35)
    above.step(x=times, y=live, mode="after", name="line", line_width=1.5)
    above.yaxis.formatter = CustomJSTickFormatter(code="return window.report.amount(tick, 'B')")
    above.xaxis.visible = False
    largest = sorted(profile.values, key=lambda value: -value.nbytes)[:SHOWN_VALUES]
    largest.sort(key=lambda value: (value.first, value.last))
    tips = [("", "@name"), ("type", "@type"), ("bytes", "@bytes"), ("there", "@left{0.000} to @right{0.000} ms")]
    below = _figure("memory", 56 + 5 * len(largest), tips, "width", x_range=above.x_range)
    below.y_range = Range1d(len(largest), -1)
    below.yaxis.visible = below.ygrid.visible = False
    below.xaxis.axis_label = "ms of the last run"
    shapes = ["" if value.shape is None else "×".join(map(str, value.shape)) for value in largest]
    columns: dict[str, Sequence[Any]] = {
        "y": list(range(len(largest))),
        "left": [value.first for value in largest],
        "right": [value.last for value in largest],
        "name": [value.name for value in largest],
        "type": [f"{value.dtype.rpartition('.')[2]} {shape}" for value, shape in zip(largest, shapes, strict=True)],
        "bytes": [amount(value.nbytes, "B") for value in largest],
        "node": [value.node for value in largest],
    }
    source = _marks("memory", columns)
    marks = below.hbar(
        y="y", left="left", right="right", height=0.7, source=source, fill_color="color", fill_alpha="alpha",
        line_color="color", line_alpha="alpha",
    )  # fmt: skip
    for each in (above, below):
        each.min_border_left = 70
    return json_item(column(above, _finish(below, marks), sizing_mode="stretch_width"))


def roofline(profile: Profile) -> Any:
    """Operations a second over operations a byte, below what the machine does at most."""
    chosen = [(i, n) for i, n in enumerate(profile.nodes) if n.flops and n.nbytes and n.gflops_per_s]
    found = _figure("roofline", 340, x_axis_type="log", y_axis_type="log")
    found.xaxis.axis_label, found.yaxis.axis_label = "FLOPs a byte", "GFLOP/s"
    intensity = [n.flops / n.nbytes for _, n in chosen if n.flops]
    speeds = [n.gflops_per_s for _, n in chosen if n.gflops_per_s]
    found.y_range = _around([*speeds, *(each.flops / 1e9 for each in profile.roofs.values())])
    least, most = min(intensity, default=0.1) / 8, max(intensity, default=100.0) * 2
    reach = max([most, *(2 * each.flops / each.memory for each in profile.roofs.values())])
    found.x_range = Range1d(least / 1.2, reach * 1.5)
    for index, each in enumerate(profile.roofs.values()):
        if not any(node.provider == each.provider for node in profile.nodes):
            continue
        short = each.provider.removesuffix("ExecutionProvider")
        over = {"name": "roof-label", "level": "overlay", "text_font_size": "11px", "background_fill_alpha": 0.75}
        for kind, speed, dash, offset in (("caches", each.cached, "solid", -6), ("memory", each.memory, "dashed", 16)):
            xs = [least, max(each.flops / speed, least), reach]
            ys = [min(each.flops, x * speed) / 1e9 for x in xs]
            found.line(xs, ys, name=f"roof-{index}", line_dash=dash, line_width=1.5)
            found.text(
                x=[xs[0]], y=[ys[0]], text=[f"{short}, {kind}: {speed / 1e9:.3g} GB/s"], x_offset=4, y_offset=offset,
                **over,
            )  # fmt: skip
        found.text(
            x=[reach], y=[each.flops / 1e9], text=[f"{short}: {each.flops / 1e9:.3g} GFLOP/s"],
            text_align="right", y_offset=-4, **over,
        )  # fmt: skip
    columns: dict[str, Sequence[Any]] = {
        "x": intensity,
        "y": speeds,
        "node": [index for index, _ in chosen],
    }
    source = _marks("roofline", columns)
    marks = found.scatter(
        x="x", y="y", source=source, size=9, fill_color="color", fill_alpha="alpha", line_color="gray", line_width=0.5
    )
    return json_item(_finish(found, marks))


def differences(profile: Profile, comparison: Comparison) -> Any:
    """The largest difference of each value, in the order in which they are computed."""
    makers = {name: index for index, node in enumerate(profile.nodes) for name in node.outputs}
    rows = [
        (place, row, row.difference.absolute)
        for place, row in enumerate(comparison.rows)
        if row.difference is not None and isfinite(row.difference.absolute) and row.difference.absolute > 0
    ]
    tips = [("", "@name"), ("operator", "@op"), ("difference", "@y{0.00e+0}"), ("", "@more")]
    found = _figure("differences", 260, tips, y_axis_type="log", y_range=_around([size for _, _, size in rows]))
    found.x_range = Range1d(-1, len(comparison.rows) + 1)
    found.xaxis.axis_label, found.yaxis.axis_label = "values, in the order of the file", "largest difference"
    columns: dict[str, Sequence[Any]] = {
        "x": [place for place, _, _ in rows],
        "y": [size for _, _, size in rows],
        "name": [row.name for _, row, _ in rows],
        "op": [row.op_type for _, row, _ in rows],
        "more": ["beyond tolerance" if row.exceeds else "within tolerance" for _, row, _ in rows],
        "node": [makers.get(row.name, -1) for _, row, _ in rows],
        "beyond": [row.exceeds for _, row, _ in rows],
    }
    source = _marks("differences", columns)
    marks = found.scatter(x="x", y="y", source=source, size=8, fill_color="color", fill_alpha="alpha", line_color=None)
    return json_item(_finish(found, marks))
