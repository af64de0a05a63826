"""The `ortlite` command, in processes of its own where exit status and pipes count."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import parser

import ortlite
from ortlite.cli import main

MODEL = """<ir_version: 8, opset_import: ["": 18]>
g (float[N, 3] x, int64[2] shape) => (float[a, b] y, bool[N, 3] positive)
<float[1] zero = {0}> { y = Reshape(x, shape)  positive = Greater(x, zero) }"""


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(parser.parse_model(MODEL), path)
    return path


def ortlite_command(*args):
    return subprocess.run(
        [sys.executable, "-m", "ortlite", *map(str, args)], capture_output=True, text=True, check=False
    )


def invoke(*args):
    return CliRunner().invoke(main, [str(a) for a in args])


def test_demo():
    done = ortlite_command("demo")
    assert done.returncode == 0
    assert done.stderr == ""
    assert re.search(r"\d{2}\.\d% of 360 held-out scans right", done.stdout)
    assert "16 of 16 right" in done.stdout
    for provider in ortlite.get_available_providers():
        assert re.search(rf"{provider} +(\d+) of \1 +[\d.]+ ms", done.stdout)
    difference = re.search(r"largest difference between providers: (\S+)", done.stdout)
    assert float(difference[1]) < 1e-5
    assert "\x1b" not in done.stdout  # plain text when piped


def test_run_with_files_prints_what_went_in_and_out(model, tmp_path):
    np.save(tmp_path / "x.npy", np.array([[1, -2, 3], [4, 5, -6]], np.float32))
    np.savez(tmp_path / "shapes.npz", shape=np.array([3, 2]), other=np.array([1]))
    out = tmp_path / "out.npz"
    done = ortlite_command(
        "run", model, "--input", f"x={tmp_path / 'x.npy'}", "--input", f"shape={tmp_path / 'shapes.npz'}", "--save", out
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"x +float32 +\[2, 3\] +min -6, mean 0.8333, max 5 +\[N, 3\] +given", done.stdout)
    assert re.search(r"y +float32 +\[3, 2\]", done.stdout)
    assert re.search(r"positive +bool +\[2, 3\] +4 of 6 true", done.stdout)
    assert re.search(r"CPUExecutionProvider +2", done.stdout)
    assert re.search(r"time: session [\d.]+ ms, first run [\d.]+ ms, then [\d.]+ ms", done.stdout)
    with np.load(out) as saved:
        assert saved["y"].tolist() == [[1, -2], [3, 4], [5, -6]]
        assert saved["positive"].tolist() == [[True, False, True], [True, True, False]]


def test_inputs_are_made_up_of_the_shape_that_is_asked_for(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(
        parser.parse_model("""<ir_version: 8, opset_import: ["": 18]>
        g (float[N, 3] x, string[M] s, float16[N] h) => (float[a, b] y, string[M] t, float16[N] h2)
        { y = Neg(x)  t = Identity(s)  h2 = Abs(h) }"""),
        path,
    )
    done = invoke("run", path, "--shape", "x=4,3", "--shape", "N=4", "--shape", "M=2", "--save", tmp_path / "o.npz")
    assert done.exit_code == 0, done.output
    assert re.search(r"x +float32 +\[4, 3\] .* made up", done.output)
    assert re.search(r"s +string +\[2\] +'text', 'text'", done.output)
    with np.load(tmp_path / "o.npz") as saved:
        assert saved["y"].shape == (4, 3)
        assert saved["t"].tolist() == ["text", "text"]
        assert saved["h2"].dtype == np.float16


PAST = """<ir_version: 8, opset_import: ["": 18]>
g (float[B, S] ids, float[B, "P + S"] mask, float[B, P, 4] past, float[B, "2*S + 1"] twice,
   float[total_sequence_length] total, float[past_sequence_length] p, float[sequence_length] s,
   float["floor(S/2) + 1"] half)
=> (float[n, m] y) { y = Neg(ids) }"""


@pytest.mark.parametrize(
    ("given", "shapes"),
    [
        ([], {"ids": [1, 1], "mask": [1, 2], "past": [1, 1, 4], "twice": [1, 3], "total": [2], "half": [1]}),
        (["--shape", "S=5", "--shape", "P=3"], {"ids": [1, 5], "mask": [1, 8], "past": [1, 3, 4], "twice": [1, 11]}),
        (["--shape", "P + S=9"], {"ids": [1, 1], "mask": [1, 9]}),
        (["--shape", "ids=2,6"], {"ids": [2, 6], "mask": [2, 7], "past": [2, 1, 4], "twice": [2, 13]}),
        (["--shape", "past=1,7,4", "--shape", "B=1"], {"mask": [1, 8]}),
        (["--input", "ids={tmp}/ids.npy"], {"ids": [3, 4], "mask": [3, 5], "past": [3, 1, 4]}),
        (["--shape", "past_sequence_length=7"], {"total": [8], "p": [7], "s": [1]}),
    ],
)
def test_made_up_inputs_fit_one_another(tmp_path, given, shapes):
    onnx.save(parser.parse_model(PAST), tmp_path / "m.onnx")
    np.save(tmp_path / "ids.npy", np.ones((3, 4), np.float32))
    done = invoke("run", tmp_path / "m.onnx", *(a.format(tmp=tmp_path) for a in given))
    assert done.exit_code == 0, done.output
    for name, shape in shapes.items():
        assert re.search(rf"\n +{name} +float32 +{re.escape(str(shape))} ", done.output), (name, done.output)


def test_a_hint_at_the_dimensions_that_nobody_gave(tmp_path):
    text = """<ir_version: 8, opset_import: ["": 18]> g (float[a, b] x, float[b, c] y, float[d] z) => (float[e] t)
        { p = MatMul(x, y)  k = Shape(p)  q = Expand(z, k)  r = Squeeze(q)  t = Add(r, w) }"""
    made = parser.parse_model(text)
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(3, np.float32), "w"))
    onnx.save(made, tmp_path / "m.onnx")
    np.save(tmp_path / "y.npy", np.ones((2, 5), np.float32))
    for command in (["run"], ["compare", "--providers", "CPU", "CPU"], ["profile", "--no-roofs"]):
        done = invoke(*command, tmp_path / "m.onnx", "--input", f"y={tmp_path / 'y.npy'}")
        assert done.exit_code == 1
        assert done.output.strip().endswith("made up as 1: --shape NAME=8 for one of a, d"), done.output
        given = invoke(
            *command, tmp_path / "m.onnx", "--input", f"y={tmp_path / 'y.npy'}", "--shape", "a=1", "--shape", "d=1"
        )
        assert given.exit_code == 1
        assert "made up as 1" not in given.output


@pytest.mark.parametrize(
    ("shape", "mode", "first"),
    [("1, 1, 8, 8", "L", 1.0), ("1, 8, 8, 3", "RGB", 1.0), ("N, 3, h, w", "RGB", 1.0), ("8, 8", "L", 1.0)],
)
def test_pictures(tmp_path, shape, mode, first):
    image = pytest.importorskip("PIL.Image")
    image.new(mode, (8, 8), 255 if mode == "L" else (255, 0, 0)).save(tmp_path / "p.png")
    path = tmp_path / "m.onnx"
    text = f'<ir_version: 8, opset_import: ["": 18]> g (float[{shape}] x) => (float[{shape}] y) {{ y = Identity(x) }}'
    onnx.save(parser.parse_model(text), path)
    done = invoke("run", path, "--input", f"x={tmp_path / 'p.png'}", "--save", tmp_path / "o.npz")
    assert done.exit_code == 0, done.output
    with np.load(tmp_path / "o.npz") as saved:
        assert saved["y"].reshape(-1)[0] == first
        assert saved["y"].size == 64 * len(mode)


def test_placement_on_several_providers(tmp_path):
    path = tmp_path / "m.onnx"
    text = """<ir_version: 8, opset_import: ["": 20]> g (float[2] x, string[2] s) => (float[2] y, string[2] t)
        { y = Abs(x)  t = StringConcat(s, s) }"""
    onnx.save(parser.parse_model(text), path)
    done = invoke("run", path, "--provider", "StrictExecutionProvider", "--provider", "CPUExecutionProvider")
    assert done.exit_code == 0, done.output
    assert re.search(r"StrictExecutionProvider +1\n", done.output)
    assert re.search(r"CPUExecutionProvider +1\n", done.output)
    assert "'texttext'" in done.output


def test_a_failing_node_is_named(model):
    done = ortlite_command("run", model, "--shape", "N=2")  # 6 elements into the made-up shape [1, 1]
    assert done.returncode == 1
    assert "Reshape" in done.stderr
    assert "float32[2, 3]" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "problem"),
    [
        (["run", "nope.onnx"], 1, "nope.onnx"),
        (["run", "{tmp}"], 1, "failed"),
        (["run", "{tmp}/noise.onnx"], 1, "Protobuf parsing failed"),
        (["run", "{model}", "--input", "x=nope.npy"], 1, "nope.npy"),
        (["run", "{model}", "--input", "x={tmp}/noise.onnx"], 1, ".npy, .npz or .png"),
        (["run", "{model}", "--input", "x={tmp}/noise.npy"], 1, "cannot be read"),
        (["run", "{model}", "--input", "z={tmp}/x.npy"], 1, "the model has no input z; it has x, shape"),
        (["run", "{model}", "--input", "shape={tmp}/x.npy"], 1, "float32"),
        (["run", "{model}", "--input", "x={tmp}/wrong.npy"], 1, "Got: 2 Expected: 3"),
        (["run", "{model}", "--shape", "x=1,2"], 1, "--shape x: 1,2 given, the model wants"),
        (["run", "{model}", "--shape", "x=1"], 1, "--shape x: 1 given, the model wants"),
        (["run", "{model}", "--shape", "x=a"], 1, "not a list of numbers"),
        (["run", "{model}", "--shape", "q=1"], 1, "no input or open dimension"),
        (["run", "{model}", "--shape", "x"], 2, "NAME=VALUE"),
        (["run", "{model}", "--shape", "x=1", "--shape", "x=2"], 2, "given twice"),
        (["run", "{model}", "--provider", "NopeProvider"], 1, "NopeProvider"),
        (["run", "{model}", "--runs", "0"], 2, "--runs"),
        (["run", "{model}", "--shape", "x"], 2, "--shape: 'x' is not NAME=VALUE"),
        (["run", "{model}", "--input", "x={tmp}/text.npy"], 1, "text.npy holds <U1, input 'x' is tensor(float)"),
        (["run", "{model}", "--input", "x={tmp}/noise.npy"], 1, "noise.npy cannot be read: NumPy knows no"),
        (["run", "{model}", "--input", "x={tmp}/none.npz"], 1, "none.npz cannot be read: of its arrays (none)"),
        (["run", "{model}", "--shape", "N=100000000000000"], 1, "Unable to allocate"),
        (["run", "{model}", "--provider", "CPU:compiled"], 1, "options such as compile=1, not 'compiled'"),
        (["run", "{model}", "--output", "{tmp}/y", "--input", "z={tmp}/x.npy"], 1, "no input z; there are x, shape"),
        (
            ["run", "{model}", "--output", "{tmp}/y", "--input", "x={tmp}/noise.npy", "--constant", "shape=[1, 3]"],
            1,
            "knows no",
        ),
        (["run", "{tmp}"], 1, "it is a folder"),
        (["info", "{model}", "--provider", "CPU:compiled=0"], 1, "here its name is enough"),
        (["bench", "nope.onnx"], 1, "Load model nope.onnx failed. File doesn't exist"),
        (["bench", "{model}", "--input", "x=nope.npy"], 1, "No such file or directory: 'nope.npy'"),
        (["bench", "{model}", "--duration", "inf"], 2, "no duration"),
        (["bench", "{model}", "--batch", ","], 2, "no list of numbers"),
        (["compare", "{model}", "--providers", "CPU", "CPU", "--rtol", "nan"], 2, "nan is not a number"),
        (["optimize", "{model}", "-o", "{tmp}/o", "--disable", "Foo"], 1, "no optimiser is called Foo; there are"),
        (["run"], 2, "MODEL"),
        (["nope"], 2, "nope"),
    ],
)
def test_errors_are_one_line_and_an_exit_status(model, tmp_path, arguments, status, problem):
    (tmp_path / "noise.onnx").write_bytes(b"\x00\x01\x02 not a model")
    (tmp_path / "noise.npy").write_bytes(b"not an array")
    np.save(tmp_path / "x.npy", np.ones((1, 3), np.float32))
    np.save(tmp_path / "text.npy", np.array(["a"]))
    np.savez(tmp_path / "none.npz")
    np.save(tmp_path / "wrong.npy", np.ones((1, 2), np.float32))
    done = ortlite_command(*(a.format(tmp=tmp_path, model=model) for a in arguments))
    assert done.returncode == status
    assert problem in done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert lines[-1].startswith("Error: ")
    assert status == 2 or len(lines) == 1


def test_options_of_a_provider_and_a_warning_on_one_line(model):
    pytest.importorskip("torch")
    done = ortlite_command("run", model, "--provider", "Torch:nope=1", "--shape", "x=1,3")
    lines = [line for line in done.stderr.splitlines() if not line.startswith("Error: ")]
    assert len(lines) == 1
    assert lines[0].startswith("Warning: TorchExecutionProvider has no option nope")


@pytest.mark.parametrize("arguments", [["info"], ["info", "--json"]])
def test_who_reads_may_stop_reading(model, arguments):
    command = [sys.executable, "-m", "ortlite", *arguments, str(model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""


@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii:strict"])
def test_files_whose_names_cannot_be_written(model, tmp_path, monkeypatch, encoding):
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    name = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.onnx")
    Path(name).write_bytes(model.read_bytes())
    for command in ("info", "check"):
        done = ortlite_command(command, name)
        assert (done.returncode, done.stderr) == (0, "")
        assert "\\udcff.onnx" in done.stdout
    done = ortlite_command("run", name, "--shape", "N=0")
    assert "codec" not in done.stderr


def test_version_and_help():
    assert ortlite.__version__ in invoke("--version").output
    for words in (["--help"], ["run", "--help"], ["demo", "-h"]):
        assert invoke(*words).exit_code == 0
