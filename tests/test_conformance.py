"""The conformance runner: failures are listed both ways."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

import conformance.__main__ as runner
from conformance import cases

PATTERN = "^test_abs$|^test_bernoulli_seed$"


@pytest.fixture
def expect(tmp_path, monkeypatch):
    def write(text):
        (tmp_path / "expected").mkdir(exist_ok=True)
        (tmp_path / "expected" / "CPUExecutionProvider.txt").write_text(text)
        monkeypatch.setattr(runner, "HERE", tmp_path)
        monkeypatch.setattr(sys, "argv", ["conformance", "-k", PATTERN, "--jobs", "1"])

    return write


@pytest.mark.parametrize(
    ("listed", "status", "said"),
    [
        ("test_bernoulli_seed  draws\n", 0, "1 passed, 1 failed (1 expected)"),
        ("", 1, "FAIL test_bernoulli_seed"),
        ("test_bernoulli_seed  draws\ntest_abs  draws: it may be lucky\n", 0, "1 passed, 1 failed (1 expected)"),
        (
            "# comment\ntest_bernoulli_seed  draws\ntest_abs  no reason\n",
            1,
            "PASS, though expected to fail: test_abs (no",
        ),
        ("test_bernoulli_seed  draws\ntest_gone  a case that this onnx does not have\n", 0, "1 passed"),
    ],
)
def test_expected_failures_are_checked_both_ways(expect, capsys, listed, status, said):
    expect(listed)
    assert runner.main() == status
    assert said in capsys.readouterr().err


def test_a_pattern_that_selects_nothing_is_an_error(expect, capsys, monkeypatch):
    expect("")
    monkeypatch.setattr(sys, "argv", ["conformance", "-k", "no_such_case", "--jobs", "1"])
    assert runner.main() == 1
    assert "no case matches -k 'no_such_case'" in capsys.readouterr().err


@pytest.mark.parametrize(("provider", "written"), [("CPUExecutionProvider", 1), ("TheirsExecutionProvider", 0)])
def test_only_our_own_providers_have_a_table_here(expect, monkeypatch, provider, written):
    expect("")
    tables = []
    monkeypatch.setattr(sys, "argv", ["conformance", "--provider", provider, "--jobs", "1"])
    monkeypatch.setattr(runner, "run_suite", lambda *args: [cases.Result("test_abs", "node")])
    monkeypatch.setattr(runner.report, "write_results", lambda *args: tables.append(args))
    assert runner.main() == 0
    assert len(tables) == written


def test_every_case_of_the_suite_is_there():
    assert len(cases.load_cases()) >= 2000


def test_a_wrong_answer_is_noticed(monkeypatch):
    kind, case = cases.load_cases()["test_abs"]
    wrong = [([inputs[0]], [outputs[0] + 1]) for inputs, outputs in case.data_sets]
    monkeypatch.setattr(cases, "load_cases", lambda: {"test_abs": (kind, replace(case, data_sets=wrong))})
    assert "Not equal" in cases.run_case("test_abs", "CPUExecutionProvider").error
