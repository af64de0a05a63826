"""What XLA compiles is kept in the user's cache, unless somebody has said otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("jax")
disk = pytest.importorskip("ortlite_jax.disk")

SCRIPT = """
import sys
import jax, numpy as np
from onnx import parser
import ortlite
text = '<ir_version: 8, opset_import: ["": 17]> g (float[N, 4] X) => (float[N, 4] Y) {P = MatMul(X, X) Y = Softmax(P)}'
model = parser.parse_model(text).SerializeToString()
session = ortlite.InferenceSession(model, providers=[("JAXExecutionProvider", {"cache": sys.argv[1]})])
session.run(None, {"X": np.ones((4, 4), np.float32)})
print(jax.config.jax_compilation_cache_dir)
"""


def run(tmp_path, cache, **more):
    """The folder of JAX's after a run in a process whose user has an empty cache."""
    names = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE")
    env = {name: value for name, value in os.environ.items() if name not in names}
    env |= {"XDG_CACHE_HOME": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"} | more
    done = subprocess.run([sys.executable, "-c", SCRIPT, cache], env=env, capture_output=True, text=True, check=True)
    return done.stdout.strip().splitlines()[-1]


def files(where):
    return [path for path in where.rglob("*") if path.is_file()]


def test_by_default(tmp_path):
    where = run(tmp_path, "1")
    assert where == str(tmp_path / "ortlite" / "jax" / disk.processor())
    assert files(tmp_path)


def test_not_where_the_option_says_no(tmp_path):
    assert run(tmp_path, "0") == "None"
    assert not files(tmp_path)


def test_not_where_somebody_has_a_folder(tmp_path):
    own = tmp_path / "own"
    assert run(tmp_path, "1", JAX_COMPILATION_CACHE_DIR=str(own)) == str(own)
    assert not (tmp_path / "ortlite").exists()


def test_not_where_nothing_can_be_written(tmp_path):
    (tmp_path / "ortlite").write_text("a file")
    assert run(tmp_path, "1") == "None"


def test_the_oldest_files_go(tmp_path):
    for age in range(5):
        (tmp_path / str(age)).write_bytes(bytes(100))
        os.utime(tmp_path / str(age), (1000 - age, 1000 - age))
    disk.prune(tmp_path, most=500, left=300)
    assert len(files(tmp_path)) == 5
    disk.prune(tmp_path, most=400, left=300)
    assert sorted(path.name for path in files(tmp_path)) == ["0", "1", "2"]


def test_folders_of_others_stay(tmp_path):
    """XLA keeps what it has tuned for a GPU in a folder there."""
    (tmp_path / "tuned").mkdir()
    os.utime(tmp_path / "tuned", (1, 1))
    (tmp_path / "old").write_bytes(bytes(100))
    disk.prune(tmp_path, most=50, left=10)
    assert [path.name for path in tmp_path.iterdir()] == ["tuned"]
