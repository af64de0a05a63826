"""`ortlite run --output`: all rows of a file through a model, in worker processes."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from ortlite.batches import Job
from ortlite.cli import main
from ortlite.cli.digits import model_bytes, scans
from ortlite.tools import offline
from tests.test_batches import FIXED, TWO, WHOLE, built

SLASHED = """<ir_version: 10, opset_import: ["": 21]> g (float[n,2] x) => (float[n,2] "a/b", float[n,2] a_b)
{ "a/b" = Neg(x) a_b = Abs(x) }"""
PROBABILITIES = "probabilities"


@pytest.fixture
def digits(tmp_path):
    path = tmp_path / "digits.onnx"
    path.write_bytes(model_bytes())
    return path


def many(n):
    x, _ = scans()
    return np.resize(x, (n, *x.shape[1:]))


def expected(x):
    return Job.of(model_bytes()).run({"scan": x})[PROBABILITIES]


def invoke(*args):
    return CliRunner().invoke(main, ["run", *map(str, args)])


@pytest.mark.parametrize("workers", [1, 2])
def test_an_array(digits, tmp_path, workers):
    x = many(2500)
    np.save(tmp_path / "x.npy", x)
    done = invoke(digits, "--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy", "--workers", workers)
    assert done.exit_code == 0, done.output
    assert "probabilities float32[2500, 10]" in done.output
    assert f"{workers} worker" in done.output
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected(x), atol=1e-6)
    assert not list(tmp_path.glob(".*"))


def test_every_worker_gets_some_of_few_rows(digits, tmp_path):
    np.save(tmp_path / "x.npy", many(40))
    rows = ["--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy", "--batch", "16"]
    assert "2 workers" in invoke(digits, *rows, "--workers", 2).output
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected(many(40)), atol=1e-6)
    assert "3 workers" in invoke(digits, *rows, "--workers", 4).output  # of three batches


def test_several_inputs_and_outputs_into_a_folder(tmp_path):
    (tmp_path / "two.onnx").write_bytes(built(TWO))
    a, b = np.arange(30.0).reshape(10, 3), np.arange(10)
    np.save(tmp_path / "a.npy", a)
    np.save(tmp_path / "b.npy", b)
    given = ["--input", f"a={tmp_path / 'a.npy'}", "--input", f"b={tmp_path / 'b.npy'}", "--constant", "scale=3"]
    done = invoke(tmp_path / "two.onnx", *given, "--output", tmp_path / "out", "--batch", 4)
    assert done.exit_code == 0, done.output
    np.testing.assert_array_equal(np.load(tmp_path / "out/y.npy"), (3 * a + b[:, None]).astype(np.float32))
    np.testing.assert_array_equal(np.load(tmp_path / "out/twice.npy"), 2 * b)
    again = invoke(tmp_path / "two.onnx", *given, "--output", tmp_path / "out")
    assert again.exit_code == 1
    assert "is there already" in again.output
    one = invoke(tmp_path / "two.onnx", *given, "--output", tmp_path / "one.npy")
    assert "a .npy holds one of the outputs y, twice: --take one" in one.output
    assert invoke(tmp_path / "two.onnx", *given, "--output", tmp_path / "one.npy", "--take", "twice").exit_code == 0


def test_outputs_whose_files_would_have_one_name(tmp_path):
    (tmp_path / "m.onnx").write_bytes(built(SLASHED))
    np.save(tmp_path / "x.npy", np.ones((3, 2), np.float32))
    done = invoke(tmp_path / "m.onnx", "--input", tmp_path / "x.npy", "--output", tmp_path / "out")
    assert done.exit_code == 1
    assert "output 'a_b' and another would both be called a_b.npy: --take one of them" in done.output
    assert {p.name for p in tmp_path.iterdir()} == {"m.onnx", "x.npy"}


def test_a_full_disk(digits, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    np.save(tmp_path / "x.npy", many(3))
    monkeypatch.setattr(os, "posix_fallocate", full)
    done = invoke(digits, "--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy")
    assert done.exit_code == 1
    assert f"No space left on device: '{tmp_path / 'y.npy'}'" in done.output
    assert {p.name for p in tmp_path.iterdir()} == {"digits.onnx", "x.npy"}


@pytest.mark.parametrize("n", [0, 3])
def test_a_fixed_batch_and_no_rows(tmp_path, n):
    (tmp_path / "fixed.onnx").write_bytes(built(FIXED))
    x = np.ones((n, 3), np.float32)
    np.save(tmp_path / "x.npy", x)
    done = invoke(tmp_path / "fixed.onnx", "--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy")
    assert done.exit_code == 0, done.output
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), x.sum(1))


def test_a_folder_of_images(digits, tmp_path):
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "scans").mkdir()
    x, labels = scans()
    for index, scan in enumerate(x):
        image.fromarray((scan[0] * 15).astype(np.uint8)).save(tmp_path / f"scans/{index:02}.png")
    (tmp_path / "scans/notes.txt").write_text("no image")
    given = ["--input", tmp_path / "scans", "--std", str(15 / 255)]
    done = invoke(digits, *given, "--output", tmp_path / "y.npy")
    assert done.exit_code == 0, done.output
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected(x), atol=1e-5)
    assert (np.load(tmp_path / "y.npy").argmax(1) == labels).all()
    wrong = invoke(digits, "--input", tmp_path / "scans", "--mean", "1,2,3", "--output", tmp_path / "z.npy")
    assert "do not fit pictures [1, 8, 8]" in wrong.output


@pytest.mark.parametrize(
    ("args", "status", "problem"),
    [
        (["--input", "x.npy", "--output", "y.csv"], 1, "write a .npy, .zarr, .parquet, or a folder"),
        (["--input", "x.csv", "--output", "y.npy"], 1, "no such file"),
        (["--input", "x.npy", "--output", "gone/y.npy"], 1, "gone is no folder to write y.npy to"),
        (["--input", "wide.npy", "--output", "y.npy"], 1, "rows of shape [3] do not fit input 'scan'"),
        (["--input", "digits.onnx", "--output", "y.npy"], 1, "digits.onnx is no .npy, .zarr or .parquet"),
        (["--input", "x.npy", "--output", "y.npy", "--runs", "2"], 2, "--runs: not together with --output"),
        (["--input", "scan=x.npy", "--workers", "2"], 2, "--workers: only together with --output"),
        (["--output", "y.npy"], 2, "say which by --input"),
        (["--input", "x.npy", "--output", "y.npy", "--columns", "other=a"], 1, "has the inputs scan"),
        (
            ["--input", "x.npy", "--output", "y.npy", "--columns", "scan=a"],
            1,
            "x.npy is one array",
        ),
        (["--input", "pictures", "--output", "y.npy", "--columns", "scan=a"], 1, "--columns is for tables and groups"),
        (["--input", "x.npy", "--output", "y.npy", "--mean", "a"], 2, "no list of numbers"),
        (["--input", "x.npy", "--output", "y.npy", "--mean", "1"], 1, "for folders of images"),
    ],
)
def test_what_makes_no_sense(digits, tmp_path, monkeypatch, args, status, problem):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", many(3))
    np.save("wide.npy", np.ones((2, 3), np.float32))
    Path("pictures").mkdir()
    done = invoke("digits.onnx", *args)
    assert done.exit_code == status, done.output
    assert problem in done.output
    assert {p.name for p in tmp_path.iterdir()} == {"digits.onnx", "x.npy", "wide.npy", "pictures"}


def test_packages_that_are_missing_are_named(digits, tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", many(3))
    monkeypatch.setitem(sys.modules, "zarr", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for kind in ("zarr", "parquet"):
        done = invoke(digits, "--input", tmp_path / "x.npy", "--output", tmp_path / f"y.{kind}")
        assert done.exit_code == 1
        assert "pip install 'ortlite[files]'" in done.output


def test_an_error_half_way_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(offline, "RUNS", 1)
    (tmp_path / "whole.onnx").write_bytes(built(WHOLE))
    np.save(tmp_path / "x.npy", np.ones((5, 3), np.float32))
    (tmp_path / "y.npy").write_bytes(b"of before")
    given = ["--input", tmp_path / "x.npy", "--take", "total", "--batch", 3]  # three numbers look like rows, once
    done = invoke(tmp_path / "whole.onnx", *given, "--output", tmp_path / "y.npy")
    assert done.exit_code == 1
    assert "rows 3 to 4: output 'total'" in done.output
    assert "not one row for each" in done.output
    assert (tmp_path / "y.npy").read_bytes() == b"of before"
    assert {p.name for p in tmp_path.iterdir()} == {"whole.onnx", "x.npy", "y.npy"}


class Deadly:
    """Rows whose reading ends the first worker that reads them."""

    def __init__(self, folder, times):
        self.folder, self.times = folder, times
        self.count = 400

    def blocks(self, size):
        return ((start, min(start + size, self.count)) for start in range(0, self.count, size))

    def sent(self, block):
        return block

    def carried(self, block):
        return None

    def read(self, block):
        start, stop = block
        if start <= 200 < stop:
            for index in range(self.times):
                mark = Path(self.folder, str(index))
                with contextlib.suppress(FileExistsError):
                    mark.touch(exist_ok=False)
                    os.kill(os.getpid(), signal.SIGKILL)
        return {"scan": many(self.count)[start:stop]}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_worker_that_is_killed_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(offline, "opened", lambda *_: Deadly(tmp_path, 1))
    monkeypatch.setattr(offline, "RUNS", 1)
    done = offline.run_files(Job.of(model_bytes(), batch_size=16), ["x"], tmp_path / "y.npy", workers=2)
    assert (done.rows, done.workers, done.died) == (400, 2, 1)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected(many(400)), atol=1e-6)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_rows_that_kill_every_worker_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(offline, "opened", lambda *_: Deadly(tmp_path, 9))
    monkeypatch.setattr(offline, "RUNS", 1)
    with pytest.raises(RuntimeError, match="3 worker processes died over the same rows"):
        offline.run_files(Job.of(model_bytes(), batch_size=16), ["x"], tmp_path / "y.npy", workers=2)
    assert not list(tmp_path.glob("*y.npy*"))


def alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent")
@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupt_leaves_neither_file_nor_process(digits, tmp_path, workers):
    np.save(tmp_path / "x.npy", np.lib.stride_tricks.as_strided(many(1), (400_000, 1, 8, 8), (0, 256, 32, 4)))
    command = [sys.executable, "-m", "ortlite", "run", digits, "--input", tmp_path / "x.npy", "--batch", "1"]
    process = subprocess.Popen(
        [*map(str, command), "--output", tmp_path / "y.npy", "--workers", str(workers)],
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    partial = tmp_path / ".y.npy.partial"
    until = time.monotonic() + 120
    while not partial.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    assert partial.exists(), process.communicate()
    assert not (tmp_path / "y.npy").exists()
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Traceback" not in said
    assert {p.name for p in tmp_path.iterdir()} == {"digits.onnx", "x.npy"}
    while alive(process.pid) and time.monotonic() < until:  # multiprocessing's own helper ends a moment later
        time.sleep(0.05)
    assert not alive(process.pid)
