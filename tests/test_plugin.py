"""A provider of a third party, from its own distribution: dask.array, which ortlite does not ship.

pip builds and installs it into a folder of its own, as it would beside ortlite; other processes find it there.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("dask", "hatchling")),
    reason="the plug-in binds dask.array and is built by hatchling: pip install dask[array] hatchling",
)

PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{package}"
version = "1.0"

[project.entry-points."ortlite.providers"]
{provider} = "{package}:{provider}"
"""

DASK = '''
"""dask.array as a provider: the whole of a third party's package."""

from functools import cached_property

import numpy as np

from ortlite.namespace import build
from ortlite.provider import ExecutionProvider

DTYPES = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float32 float64 complex64 complex128".split()


class DaskExecutionProvider(ExecutionProvider):
    name = "DaskExecutionProvider"
    library = "dask"
    storage = frozenset(DTYPES)

    @cached_property
    def xp(self):
        import array_api_compat.dask.array as library

        return build(library, {name: np.dtype(name) for name in DTYPES}, {})

    def from_numpy(self, array):
        import dask.array

        return dask.array.from_array(np.asarray(array), chunks=-1)

    def to_numpy(self, array):
        return np.asarray(array.compute())
'''


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Install a distribution of one module; run code in a process that sees what was installed."""
    site = tmp_path_factory.mktemp("site")

    def install(package, provider, module):
        source = tmp_path_factory.mktemp(package)
        (source / "pyproject.toml").write_text(PROJECT.format(package=package, provider=provider))
        (source / f"{package}.py").write_text(module)
        command = "-m pip install --quiet --no-deps --no-build-isolation --no-index --target".split()
        subprocess.run([sys.executable, *command, str(site), str(source)], check=True, capture_output=True)

    def run(code):
        environment = {**os.environ, "PYTHONPATH": str(site)}
        command = [sys.executable, "-W", "error::RuntimeWarning:ortlite", "-c", textwrap.dedent(code)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    install("ortlite_dask_example", "DaskExecutionProvider", DASK)
    return install, run


def test_it_is_found_and_runs_a_model(python):
    _, run = python
    run("""
        import sys, numpy as np, ortlite
        from ortlite.cli.digits import model_bytes, scans

        assert "DaskExecutionProvider" in ortlite.get_available_providers()
        assert "dask" not in sys.modules, "listing providers must not import their libraries"
        x, labels = scans()
        session = ortlite.InferenceSession(model_bytes(), providers=["DaskExecutionProvider"], fallback="error")
        (expected,) = ortlite.InferenceSession(model_bytes()).run(None, {"scan": x})
        for _ in range(3):
            np.testing.assert_allclose(session.run(None, {"scan": x})[0], expected, rtol=1e-4, atol=1e-6)
        assert {n.provider for n in session.explain().nodes} == {"DaskExecutionProvider"}
    """)


def test_its_arrays_go_through_a_function_as_they_are(python):
    _, run = python
    run("""
        import dask.array, numpy as np, ortlite
        from ortlite.cli.digits import model_bytes, scans

        x, labels = scans()
        y = ortlite.function(model_bytes())(dask.array.from_array(x, chunks=(4, 1, 8, 8)))
        assert isinstance(y, dask.array.Array)  # nothing is computed yet
        assert (np.asarray(y).argmax(1) == labels).mean() > 0.9
    """)


def test_nodes_it_cannot_run_go_to_numpy_and_say_why(python):
    _, run = python
    shown = run("""
        import numpy as np, ortlite
        from onnx import parser

        text = '<ir_version: 8, opset_import: ["": 20]> g (string[N] s, float16[N] h) => (string[N] t, float16[N] y)'
        model = parser.parse_model(text + ' { t = StringConcat(s, s)  y = Abs(h) }')
        session = ortlite.InferenceSession(model.SerializeToString(), providers=["DaskExecutionProvider"])
        print(session.run(None, {"s": np.array(["a"]), "h": np.ones(1, np.float16)}))
        print(session.explain())
    """)
    assert "dask has no float16" in shown
    assert "works on Python objects" in shown


def test_broken_it_warns_and_the_others_stay(python):
    install, run = python
    install("ortlite_broken_example", "BrokenExecutionProvider", "import a_library_that_is_not_there")
    shown = run("""
        import warnings, ortlite
        from ortlite.cli.digits import model_bytes

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            print(ortlite.get_available_providers())
        print(*[str(w.message) for w in caught if "Broken" in str(w.message)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            session = ortlite.InferenceSession(model_bytes(), providers=["BrokenExecutionProvider"])
        print(session.get_providers())
    """)
    listed, warned, fallen_back = shown.splitlines()
    assert "DaskExecutionProvider" in listed
    assert "BrokenExecutionProvider" not in listed
    assert "a_library_that_is_not_there" in warned
    assert fallen_back == "['CPUExecutionProvider']"
