"""Memory that torch frees stays in the process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

pytest.importorskip("torch")
CODE = """
import resource, sys
import numpy as np
import ortlite
from onnx import parser
source = parser.parse_model(
    '<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) {'
    " a = Sigmoid(x) b = Add(a, x) y = Mul(b, a) }"
).SerializeToString()
session = ortlite.InferenceSession(source, providers=["TorchExecutionProvider"])
x = np.ones(1 << 21, np.float32)
for _ in range(6):
    session.run(None, {"x": x})
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    session.run(None, {"x": x})
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**variables):
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run([sys.executable, "-c", CODE], env=env | variables, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives the heap back at once")
def test_a_run_takes_the_pages_of_the_run_before():
    pages = (1 << 23) // 4096  # of one of the arrays
    found = faults()
    assert found < pages  # in ten runs
    assert faults(MALLOC_TRIM_THRESHOLD_="131072") > found  # the user's own choice stays
