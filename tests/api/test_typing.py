"""A program that uses the whole API runs, and type checkers find nothing in it: `py.typed` is enough for callers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CALLER = "tests/api/caller.py"


def quiet(*command):
    paths = os.pathsep.join([str(ROOT), str(ROOT / "backends"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, check=False, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_caller_runs():
    quiet(sys.executable, "-W", "error", CALLER)


def test_mypy_passes_a_caller():
    pytest.importorskip("mypy")
    quiet(sys.executable, "-m", "mypy", "--strict", CALLER)


def test_pyright_passes_a_caller():
    pyright = shutil.which("pyright")
    if pyright is None:
        pytest.skip("pyright is not installed")
    quiet(pyright, "--pythonpath", sys.executable, CALLER)
