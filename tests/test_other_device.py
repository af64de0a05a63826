"""TorchExecutionProvider where its tensors are not the CPU's: on a sham device (tests/sham.py), which needs no GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
registration = pytest.importorskip("torch.utils.backend_registration")
pytestmark = pytest.mark.skipif(
    not hasattr(registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch takes no device from Python",
)


def ran(*args):
    """A Python in a process of its own: its status and its last lines."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "backends"), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, *args],
        env={**os.environ, "PYTHONPATH": path},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, (done.stdout + done.stderr)[-3000:]


def suite(*args):
    return ran(str(ROOT / "tests" / "sham.py"), *args)


def test_memory_of_a_device_is_bound_and_written_in_place():
    status, said = ran("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "tests/sham_binding.py")
    assert status == 0, said


@pytest.mark.long
def test_no_dtype_needs_what_cuda_lacks():
    status, said = suite("--dtypes")
    assert status == 0, said
    assert int(said.split(" cases, 0 wrong")[0].split()[-1]) > 1000


def test_a_tensor_on_the_wrong_device_is_noticed():
    status, said = suite("^test_(max_unpool|one_hot|shrink|cumsum|scatter|reverse)", "--lacking", "arange")
    assert status == 1, said
    assert "are on the CPU, the others on the device" in said


@pytest.mark.long
def test_no_kernel_leaves_the_device_and_a_replayed_graph_gives_what_they_gave():
    status, said = suite("--graphs")
    assert status == 0, said
    assert int(said.split(" cases, 0 wrong")[0].split()[-1]) > 1500
    replayed, kept = (
        int(said.split(f" {what}")[0].split()[-1]) for what in ("graphs replayed", "regions not captured")
    )
    assert replayed > 1500
    assert kept < 15, said
