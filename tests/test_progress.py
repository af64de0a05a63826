"""What long work tells whoever listens, and the bars of the command line on a terminal."""

import os
import pty
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from onnx import parser

import ortlite
from ortlite import progress
from ortlite.compare import compare, reduce

TEXT = """<ir_version: 8, opset_import: ["": 18]> g (float[2] x) => (float[2] z) { y = Exp(x)  z = Neg(y) }"""


def model():
    return parser.parse_model(TEXT).SerializeToString()


def told(work):
    found = []
    with progress.listening(lambda *args: found.append(args)):
        work()
    return found


def test_nobody_is_told_outside_and_after_an_error():
    found = []

    def fails():
        with progress.listening(lambda *args: found.append(args)):
            for item in progress.each("counting", [1, 2]):
                raise ValueError("stop", item)

    with pytest.raises(ValueError, match="stop"):
        fails()
    progress.say("more")
    assert list(progress.each("counting", [1, 2])) == [1, 2]
    assert found == [("counting", 0, 2)]


def test_sessions_tell_of_loading_optimising_and_compiling():
    found = told(lambda: ortlite.InferenceSession(model(), providers=["CPUExecutionProvider"]))
    assert [*dict.fromkeys(what for what, _, _ in found)] == ["loading", "optimising", "placing", "compiling"]
    passes = [(done, total) for what, done, total in found if what == "optimising"]
    assert passes[-1][0] == passes[-1][1] == len(passes) - 1


def test_compare_and_reduce_tell_of_values_and_trials():
    feed, sides = {"x": np.ones(2, np.float32)}, ["CPUExecutionProvider", "StrictExecutionProvider"]
    found = told(lambda: compare(model(), feed, sides))
    assert [(done, total) for what, done, total in found if what == "comparing"] == [(0, 2), (1, 2), (2, 2)]
    assert {"running on CPU", "running on Strict", "judging in float64"} <= {what for what, _, _ in found}

    def reduced():
        with pytest.raises(ValueError, match="does not show"):
            reduce(model(), feed, sides, "z")

    assert "reducing" in {what for what, _, _ in told(reduced)}


def on_terminal(code, stop=False):
    """Exit status and what a process writes to a terminal; `stop`: Ctrl-C once it says "ready".

    As a terminal does, that interrupts the processes that it has started, too; none of them may be left.
    """
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", code]
    child = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    text = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        text += part
        if stop and b"ready" in text:
            os.killpg(child.pid, signal.SIGINT)
            stop = False
    os.close(ours)
    status = child.wait(60)
    for _ in range(600):  # a helper of multiprocessing ends a moment later
        try:
            os.killpg(child.pid, 0)
        except ProcessLookupError:
            return status, text.decode()
        time.sleep(0.1)
    pytest.fail("processes are left")


BARS = """
import time
from ortlite import progress
from ortlite.cli import bars
bars.SILENT = {silent}
with bars.working("counting"):
    for item in progress.each("counting sheep", range(3)):
        time.sleep(0.15)
print("end")
"""


def test_bars_are_shown_on_a_terminal_and_gone_at_the_end():
    status, text = on_terminal(BARS.format(silent=0))
    assert status == 0
    assert "counting sheep" in text
    assert text.rstrip().endswith("end")
    assert "\x1b[?25h" in text  # the cursor is back


def test_short_work_and_pipes_see_nothing():
    assert "counting" not in on_terminal(BARS.format(silent=60))[1]
    done = subprocess.run([sys.executable, "-c", BARS.format(silent=0)], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("end\n", "")


def test_without_rich_nothing_is_shown():
    code = "import sys, importlib.util as u; f = u.find_spec\n"
    code += "u.find_spec = lambda name, *a: None if name == 'rich' else f(name, *a)\n" + BARS.format(silent=0)
    status, text = on_terminal(code)
    assert (status, text.strip()) == (0, "end")


def test_ctrl_c_ends_a_command_in_one_line_and_leaves_the_terminal_and_no_file(tmp_path):
    (tmp_path / "model.onnx").write_bytes(model())
    code = f"""
import os, sys, tempfile, time
tempfile.tempdir = {str(tmp_path / "temporary")!r}
os.mkdir(tempfile.tempdir)
from ortlite.cli import bars, main
from ortlite.tools import bench
bars.SILENT = 0
known = bench._process
def process(task, result):
    print("ready", flush=True)
    for _ in range(600):  # a signal that comes just before a sleep begins does not shorten it
        time.sleep(0.1)
bench._process = process
sys.argv = ["ortlite", "bench", {str(tmp_path / "model.onnx")!r}, "--rounds", "1"]
main()
"""
    begin = time.monotonic()
    status, text = on_terminal(code, stop=True)
    assert status == 1
    assert "Aborted!" in text
    assert "Traceback" not in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") > 0
    assert list((tmp_path / "temporary").iterdir()) == []
    assert time.monotonic() - begin < 60


HALF = """
import sys, time, {module}
from pathlib import Path
from ortlite.cli import bars, main
bars.SILENT = 0
def half(*args, **keywords):
    paths = [a if isinstance(a, (str, Path)) else getattr(a, "name", None) for a in args]  # a file has a name
    path = next(filter(None, paths))
    assert Path(path).is_absolute()
    with open(path, "w") as file:
        file.write("half")
    print("ready", flush=True)
    while True:
        time.sleep(0.1)
{module}.{name} = half
sys.argv = ["ortlite", *{words!r}]
main()
"""


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("optimize MODEL --output FILE", "onnx.save"),
        ("run MODEL --runs 1 --save FILE", "numpy.savez"),
        ("profile MODEL --runs 1 --no-roofs --trace FILE", "pathlib.Path.write_text"),
    ],
)
def test_ctrl_c_leaves_no_half_of_a_file(tmp_path, words, name, old):
    out, path = tmp_path / "out", tmp_path / "model.onnx"
    path.write_bytes(model())
    if old:
        out.write_text("old")
    given = [{"MODEL": str(path), "FILE": str(out)}.get(word, word) for word in words.split()]
    module, _, what = name.partition(".")
    status, text = on_terminal(HALF.format(module=module, name=what, words=given), stop=True)
    assert status == 1, text
    assert "Aborted!" in text
    assert "Traceback" not in text
    assert set(tmp_path.iterdir()) == {path, *([out] if old else [])}
    assert not old or out.read_text() == "old"


SUITE = """
import time
from conformance import forked, run_main
def work(i):
    time.sleep(0.05)
    return i
def main():
    with forked(2) as pool:
        for _ in pool.map(work, range(100_000)):
            print("ready", flush=True)
run_main(main)
"""


def test_ctrl_c_ends_conformance_and_its_processes_without_a_word():
    status, text = on_terminal(SUITE, stop=True)
    assert (status, set(text.replace("^C", "").split())) == (130, {"ready"})
