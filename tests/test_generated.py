"""Every generated table has the rows that registry, suite and overrides have today. Nothing is measured here."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks import operators, overheads, overrides, speed
from conformance import cases, compat, dtypes, gradients, judge, peer_bugs, report
from conformance.__main__ import expected_failures
from ortlite import dtypes as vocabulary
from ortlite import provider

ROOT = Path(__file__).parent.parent
RESULTS = sorted((ROOT / "conformance" / "results").glob("*Provider.md"))


def text(path):
    return (ROOT / path).read_text()


def table(markdown, first):
    """The rows of the table whose head begins with the cell `first`, as lists of cells."""
    found, inside = [], False
    for line in markdown.splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        inside = bool(cells) and (inside or cells[0] == first)
        if inside:
            found.append(cells)
    return [found[0], *(row for row in found[2:] if row[0] != first and not row[0].startswith("---"))]


def counted(pattern, markdown):
    """The whole numbers that the groups of a pattern find in a text."""
    return tuple(int(number.replace(",", "")) for number in re.search(pattern, markdown).groups())


# conformance/OPERATORS.md: tests/test_schemas.py compares the whole text


def test_dtypes():
    """A row for each operator, and an entry exactly where its schema allows the dtype."""
    markdown = text("conformance/DTYPES.md")
    head, *rows = table(markdown, "operator")
    wanted = {}
    for schema in onnx.defs.get_all_schemas():
        if schema.deprecated:
            schema = onnx.defs.get_schema(schema.name, schema.since_version - 1, schema.domain)
        allowed = {d.name for _, d in dtypes.pairs(schema) if (schema.name, d.name) not in dtypes.MEANINGLESS}
        wanted[f"{schema.domain or 'ai.onnx'}::{schema.name}"] = allowed
    found = {row[0]: {name for name, cell in zip(head[1:], row[1:], strict=True) if cell} for row in rows}
    assert found == wanted, "run `python -m conformance.dtypes`"
    assert [d.name for d in vocabulary.ALL if d.name in head] == head[1:]
    marks = Counter(cell for row in rows for cell in row[1:] if cell)
    assert counted(r"(\d+) of (\d+) \(operator", markdown) == (marks["y"], marks.total())


def test_gradients():
    """A row for each float input of the examples that tests/test_gradients.py draws from."""
    _, *rows = table(text("conformance/GRADIENTS.md"), "operator")
    found = [tuple(row[:2]) for row in rows]
    wanted = {}
    for (domain, name), listed in gradients.cases().items():
        for case in listed[: gradients.SHOWN]:
            for given in case.inputs:
                wanted[f"{domain or 'ai.onnx'}::{name}", case.label(given)] = None
    assert found == list(wanted), "run `python -m conformance.gradients --write`"


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_results(path):
    """The cases counted are the suite's, kind by kind; the failures are those that are expected."""
    markdown = path.read_text()
    assert f"with onnx {onnx.__version__}." in markdown, f"run `python -m conformance --provider {path.stem}`"
    kinds = Counter(kind for kind, _ in cases.load_cases().values())
    kinds["all"] = kinds.total()
    _, *rows = table(markdown, "kind")
    assert {row[0]: int(row[1]) for row in rows} == {kind: kinds[kind] for kind in (*cases.KINDS, "all")}
    assert all(int(row[1]) == int(row[2]) + int(row[3]) for row in rows)
    failed = {row[0]: row[1] for row in table(markdown, "case")[1:]} if "## Failures" in markdown else {}
    assert len(failed) == int(rows[-1][3])
    listed = expected_failures(path.stem)
    assert failed.items() <= listed.items()
    assert {name for name, why in listed.items() if name in cases.load_cases() and not why.startswith("draws")} <= {
        *failed
    }


def test_the_summary_of_results(tmp_path, monkeypatch):
    (tmp_path / "results").mkdir()
    for path in RESULTS:
        (tmp_path / "results" / path.name).write_text(path.read_text())
    monkeypatch.setattr(report, "HERE", tmp_path)
    report.write_summary()
    assert (tmp_path / "results" / "README.md").read_text() == text("conformance/results/README.md")


def test_answers_to_drawn_weights():
    left_out = {name for name, (_, case) in cases.load_cases().items() if judge.left_out(cases.case_model(case))}
    with np.load(judge.FILE) as answers:
        assert set(answers) == left_out, "run `python -m conformance.answers`"


def test_the_names_of_onnxruntime():
    """Of another onnxruntime than the one that the page was made with, the names are others."""
    onnxruntime = pytest.importorskip("onnxruntime")
    committed = compat.PAGE.read_text()
    assert "| missing |" not in committed
    if f"onnxruntime\n{onnxruntime.__version__} " in committed:
        assert committed == compat.page(), "run `python -m conformance.compat --write`"


def test_peer_bugs():
    _, *rows = table(text("conformance/PEER_BUGS.md"), "peer")
    wanted = [(b.peer, f"{b.domain or 'ai.onnx'}::{b.op_type}-{b.opset}", b.why) for b in peer_bugs.BUGS]
    assert [(row[0], row[1], row[-1]) for row in rows] == wanted, "run `python -m conformance.peer_bugs --write`"


def test_benchmarks_of_operators():
    markdown = text("benchmarks/OPERATORS.md")
    _, *rows = table(markdown, "operator")
    assert sorted(row[0] for row in rows) == sorted(operators.cases()), "run `python -m benchmarks.operators --write`"
    for column, peer in ((3, "onnx.reference"), (5, "onnxruntime")):
        ratios = [float(row[column]) for row in rows if row[column] != "-"]
        assert counted(rf"(\d+) operators beside {peer}:", markdown) == (len(ratios),)


@pytest.mark.parametrize("name", provider.usable())
def test_benchmarks_of_overrides(name):
    """A row for each case of each thing that a provider replaces, and none of what it no longer does."""
    wanted = set()
    for key in (key for group in overrides.replaced(provider.create(name)) for key in group):
        shown = key if isinstance(key, str) else f"{key[1]}-{key[2]}"
        wanted |= {(shown, case) for case in overrides.cases_of(key) or [""]}
    ahead = overrides.compiled(provider.create(name))
    wanted |= {(f"{key[1]}-{key[2]}, compiled", case) for key in ahead for case in overrides.cases_of(key)}
    _, here, after = text("benchmarks/OVERRIDES.md").partition(f"## {name}\n")
    found = {tuple(row[:2]) for row in table(after.partition("\n## ")[0], "replaced")[1:]} if here else set()
    if not ahead:  # numba is not here
        found = {row for row in found if not row[0].endswith(", compiled")}
    assert found == wanted, "run `python -m benchmarks.overrides --write`"


def test_the_readme_says_what_the_tables_say():
    readme = text("README.md")
    assert counted(r"All (\d+) operators in all (\d+) \(", readme) == counted(
        r"(\d+) operators, (\d+) \(operator, version\) pairs", report.operators_table()
    )
    assert counted(r"opset 1 to (\d+)", readme) == (onnx.defs.onnx_opset_version(),)
    total, version, passed = re.search(
        r"backend suite \(([\d,]+) cases of onnx ([\d.]+)\): ([\d,]+) pass", readme
    ).groups()
    assert int(total.replace(",", "")) == len(cases.load_cases())
    assert version == onnx.__version__
    least = [counted(r"\| all \| \d+ \| (\d+) ", path.read_text()) for path in RESULTS]
    assert {(int(passed.replace(",", "")),)} == set(least)


def test_the_readmes_numbers_have_the_rows_that_are_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(overheads, "build", lambda name, folder, **options: folder / f"{name}{len(options)}.onnx")
    monkeypatch.setattr(overheads, "measure", lambda *args: {"ms": 1.0, "mb": 1.0})
    monkeypatch.setattr(overheads, "import_ms", lambda module: 1.0)
    size = counted(r"loading (\d+) MB of external", text("README.md"))[0] * 2**20
    (tmp_path / "heavy1.data").touch()
    os.truncate(tmp_path / "heavy1.data", size)  # takes no room on the disk
    _, here, after = text("README.md").partition(overheads.MARKS[0])
    assert here
    wanted = [row[0] for row in overheads.rows(tmp_path, 1)]
    _, *rows = table(after.partition(overheads.MARKS[1])[0], "what")
    assert [row[0] for row in rows] == wanted, "run `python -m benchmarks.overheads --write`"


def test_the_readmes_means_are_those_of_the_models_that_were_measured():
    entries = json.loads(text("benchmarks/speed.json"))
    engines = list(dict.fromkeys(engine for entry in entries for engine in entry["figures"]))
    here = text("README.md").partition(speed.MARKS[0])[2].partition(speed.MARKS[1])[0]
    assert here.strip() == speed.means(entries, engines), "run `python -m benchmarks --write`"
