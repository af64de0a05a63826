"""What the benchmarks do around a measurement. Nothing is measured here."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

CODE = """
import benchmarks, os, subprocess, sys
benchmarks.compile_sources()
imports = "import ortlite.pipeline, ortlite_numpy"
command = [sys.executable, "-v", "-c", imports]
for line in subprocess.run(command, check=True, capture_output=True, text=True).stderr.splitlines():
    if line.startswith("# code object from") and "ortlite" in line and ".pyc" not in line:
        print(line)
"""


def test_processes_that_are_measured_find_bytecode(tmp_path):
    """Also where the shell has PYTHONDONTWRITEBYTECODE."""
    variables = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPYCACHEPREFIX": str(tmp_path)}
    paths = [str(ROOT), str(ROOT / "backends"), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables["PYTHONPATH"] = os.pathsep.join(paths)
    done = subprocess.run([sys.executable, "-c", CODE], env=variables, check=True, capture_output=True, text=True)
    assert done.stdout == ""
    source = importlib.util.find_spec("ortlite.pipeline").origin
    kept = tmp_path / Path(source).parent.relative_to("/")
    assert list(kept.glob("pipeline.*.pyc"))
