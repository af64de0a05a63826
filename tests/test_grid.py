"""Tables of the command line on terminals of several widths, and in a pipe."""

import io
import re

import onnx
import pytest
from onnx import parser
from rich.console import Console

import ortlite
from ortlite.cli import grid, report
from ortlite.cli.grid import fitted, show_table
from ortlite.tools.bench import Bench, Timing
from ortlite.tools.check import Check, Finding
from ortlite.tools.profile import NodeProfile, Profile
from ortlite.tools.shown import Table

LONG = "/model/encoder/layer.7/attention/self/query/MatMul"
NODES = tuple(
    NodeProfile(f"{LONG}_{i}", "FusedMatMul", "CPUExecutionProvider", "ortlite_numpy.compiled.products", 10, 1.25, 0.25,
                123_456_789, 987_654_321, 0.5, sources=("/home/u/transformers/modeling_bert.py:194: y = f(x)",))
    for i in range(4)
)  # fmt: skip
PROFILE = Profile("bert.onnx", 10, NODES, 5.0, 4.0, 12_345_678, ())
BENCH = Bench(
    "bert.onnx", "onnxruntime", 3, 3.0,
    tuple(Timing(engine, 8, 2, 380, 123.4, 45.6, 7.89, 8.9, 9.9, 10.9, 901.0, 1.234, 1.111, 1.357, 1e-6)
          for engine in ("CPU", "Torch", "onnxruntime")),
)  # fmt: skip
MODEL = f"""<ir_version: 8, opset_import: ["": 18]>
g (float[batch_size, 3] {"x" * 70}) => (float[?,?] y) {{ y = Relu({"x" * 70}) }}"""


WHY = "com.microsoft::Nowhere has no override there, and the default body reads values on the host; see explain()"
CHECK = Check(
    "bert.onnx", ("StrictExecutionProvider",), (Finding("fallback", "StrictExecutionProvider", LONG, "Nowhere", WHY),)
)


def shown(width, show):
    out = Console(force_terminal=True, width=width, color_system=None, file=io.StringIO())
    show(out)
    return out.file.getvalue().splitlines()


def rows(lines):
    """Cells of Rich's table, line by line, the head first."""
    return [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in lines if line[:1] in set("│┃")]


@pytest.mark.parametrize("width", [60, 80, 200])
@pytest.mark.parametrize("found", [PROFILE, BENCH], ids=["profile", "bench"])
def test_a_row_is_a_line_and_no_cell_is_broken(found, width):
    (table,) = found.tables()
    lines = shown(width, lambda out: show_table(out, table))
    assert max(map(len, lines)) <= width
    head, *body = rows(lines)
    assert len(body) == len(table.rows)
    for made, whole in zip(body, table.rows, strict=True):
        given = dict(zip(table.head, whole, strict=True))
        for title, cell in zip(head, made, strict=True):
            assert cell == given[title] or (title == table.name and cell[0] == "…" and given[title].endswith(cell[1:]))
    said = " ".join(line.strip() for line in lines if line[:1] not in set("│┃┏┡└"))
    filled = [title for title, *cells in zip(table.head, *table.rows, strict=True) if any(cells)]
    left_out = [title for title in filled if title not in head]
    assert all(title in said for title in left_out)
    assert set(left_out) <= set(table.missable)


def test_what_a_profile_is_read_for_stays():
    (table,) = PROFILE.tables()
    head, *_ = rows(shown(60, lambda out: show_table(out, table)))
    assert {"node", "operator", "ms", "share"} <= set(head)
    assert rows(shown(250, lambda out: show_table(out, table)))[0] == list(table.head)


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_sentences_are_wrapped_between_words_and_whole(width):
    (table,) = CHECK.tables()
    lines = shown(width, lambda out: show_table(out, table))
    assert max(map(len, lines)) <= width
    cells = rows(lines)
    assert bool(cells) == (width > 80)
    if cells:
        assert cells[0] == list(table.head)
        assert " ".join(row[-1] for row in cells[1:]).strip() == WHY
    else:
        assert WHY in " ".join(map(str.strip, lines))


@pytest.mark.parametrize("width", [60, 80, 200])
def test_run_and_info(tmp_path, width):
    onnx.save(parser.parse_model(MODEL), tmp_path / "m.onnx")
    result = report.run_model(tmp_path / "m.onnx", {}, {}, [], 1)
    lines = shown(width, lambda out: report.show(out, result))
    tables = [line for line in lines if line[:1] in set("│┃┏┡└")]
    assert max(map(len, tables)) <= width
    for table in ortlite.info(tmp_path / "m.onnx").tables():
        lines = shown(width, lambda out, table=table: show_table(out, table))
        assert max(map(len, lines)) <= width
        assert len(rows(lines)) == 1 + len(table.rows)


def test_columns_that_say_nothing_go_and_equal_heads_are_two_columns():
    found, left_out = fitted(Table("t", ("a", "b", "b"), [("1", "", "2"), ("3", "", "4")]), 40)
    assert (found.head, found.rows, left_out) == (("a", "b"), [("1", "2"), ("3", "4")], [])
    table = Table("t", ("a", "b", "b"), [("1", "22222", "3")])
    assert fitted(table, 20)[0].rows == [("1", "22222", "3")]
    assert fitted(table, 16)[0] is None


def test_where_nothing_can_be_left_out_a_row_is_a_few_lines():
    table = Table("values", ("name", "kind", "size"), [("n" * 10, "k" * 10, "s" * 10)], name="name")
    lines = ["values", f"  {'n' * 10}", f"    kind {'k' * 10}, size", f"    {'s' * 10}"]
    assert [line.rstrip() for line in shown(30, lambda out: show_table(out, table))] == lines


def test_a_pipe_gets_everything_on_one_line():
    (table,) = PROFILE.tables()
    out = Console(width=60, color_system=None, file=io.StringIO())
    show_table(out, table)
    title, head, *body = out.file.getvalue().splitlines()
    assert title == "nodes:"
    assert head.split("  ")[1] == "node"
    assert len(body) == len(NODES)
    for line in body:
        assert re.split("  +", line.strip()) == list(table.rows[body.index(line)])
    assert grid.FRAME == 3  # what Rich draws: two blanks and a line
