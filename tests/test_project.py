"""Promises the project makes about itself."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import ortlite
from ortlite.ops import registry

ROOT = Path(__file__).parent.parent


def test_ci_runs_the_readmes_test_command():
    readme, ci = (ROOT / "README.md").read_text(), (ROOT / ".ci" / "run").read_text()
    command = "pip install nox uv && nox"
    assert command in readme
    assert f"\n{command}\n" in ci


def test_the_readmes_first_example_prints_what_it_says():
    readme = (ROOT / "README.md").read_text()
    code, output = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", readme, re.DOTALL).groups()
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout == output


@pytest.mark.parametrize("module", ["onnx", "torch", "jax", "rich", "click", "ml_dtypes", "array_api_compat"])
def test_importing_ortlite_is_light(module):
    code = f"import sys, ortlite; ortlite.InferenceSession; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


FIRST = """
import sys
import ortlite
from ortlite.cli.digits import model_bytes, scans
session = ortlite.InferenceSession(model_bytes(), providers=[("CPUExecutionProvider", {"compiled": "0"})])
session.run(None, {"scan": scans()[0][:1]})
print(*sorted({"asyncio", "numpy.random", "concurrent.futures", "numba", "array_api_compat", "torch"} & {*sys.modules}))
"""


def test_the_first_answer_waits_for_no_import_that_it_can_do_without():
    result = subprocess.run([sys.executable, "-c", FIRST], check=True, capture_output=True, text=True)
    assert result.stdout.split() == []


def test_the_promised_versions_are_the_tested_ones():
    """The Pythons of nox are those of the classifiers; every library of the base and of `all` has a floor to test."""
    noxfile = (ROOT / "noxfile.py").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pythons = re.findall(r'"(3\.\d+)"', re.search(r"^PYTHONS = \[(.*?)\]", noxfile, re.MULTILINE)[1])
    promised = [c.rpartition(" ")[2] for c in project["classifiers"] if re.search(r"Python :: 3\.\d+$", c)]
    assert pythons == promised
    assert project["requires-python"] == f">={pythons[0]}"
    extras = project["optional-dependencies"]
    asked = project["dependencies"] + [entry for name in ("strict", "text", "image", "ort") for entry in extras[name]]
    assert all(re.fullmatch(r"[\w-]+>=[\d.]+", entry) for entry in asked), asked
    assert extras["all"] == ["ortlite[strict,text,image,ort]"]


def test_public_names():
    for name in ortlite.__all__:
        assert getattr(ortlite, name) is not None
    assert set(ortlite.__all__) <= set(dir(ortlite))
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        ortlite.nope  # noqa: B018


# What no array library but NumPy holds; every kernel in them says so.
HOST_ONLY = {"text", "image"}


def test_backends_import_only_public_modules():
    for path in (ROOT / "backends").rglob("*.py"):
        imports = re.findall(r"^ *(?:from|import) +(ortlite[. ].*)$", path.read_text(), re.MULTILINE)
        assert not [line for line in imports if re.search(r"[. ]_(?!_)", line)], path


def test_no_operator_names_a_library():
    for path in (ROOT / "ortlite" / "ops").rglob("*.py"):
        words = [line.split()[:2] for line in path.read_text().splitlines()]
        libraries = ("torch", "jax", "cupy") if path.stem in HOST_ONLY else ("numpy", "torch", "jax", "cupy")
        imported = {w[1].partition(".")[0] for w in words if len(w) == 2 and w[0] in {"import", "from"}}
        assert imported.isdisjoint(libraries), path


def test_kernels_in_host_only_files_say_so():
    named = [k for k in registry.kernels() if k.fn.__module__.rpartition(".")[2] in HOST_ONLY]
    assert named
    assert all(k.python_objects for k in named)
