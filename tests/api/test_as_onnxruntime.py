"""`import onnxruntime` means ortlite."""

import pkgutil
import subprocess
import sys

import numpy as np
import pytest

from ortlite.datasets import get_example

SCRIPT = """
import importlib.metadata, importlib.util, pickle, subprocess, sys
import numpy as np
import onnxruntime
import onnxruntime as rt
from onnxruntime.capi import _pybind_state as C
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument
from onnxruntime.datasets import get_example
import onnxruntime.backend as backend
assert rt.InferenceSession.__module__ == "ortlite.api.session"
assert rt.__version__.split(".")[0] == "1"
assert importlib.util.find_spec("onnxruntime") is not None
assert importlib.metadata.version("onnxruntime").startswith("1.")
assert onnxruntime.capi.onnxruntime_pybind11_state.Fail is C.Fail
session = rt.InferenceSession(get_example("mul_1.onnx"))
try:
    session.run(None, {"X": np.ones((3, 2))})
except InvalidArgument as error:
    assert type(error).__module__ == "onnxruntime.capi.onnxruntime_pybind11_state"
    assert type(pickle.loads(pickle.dumps(error))) is InvalidArgument
assert backend.prepare(get_example("mul_1.onnx")).run(np.ones((3, 2), np.float32))[0][2, 1] == 6
if len(sys.argv) > 2:
    code = "import onnxruntime; print(onnxruntime.InferenceSession.__module__)"
    print(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip())
print(sys.argv[1:], __name__)
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(SCRIPT)
    return path


def python(*arguments, **options):
    found = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=300, **options
    )
    assert found.returncode == 0, found.stderr
    return found.stdout.split("\n")


def test_a_script(script):
    assert python("-m", "ortlite.as_onnxruntime", str(script), "a")[0] == "['a'] __main__"


def test_a_module(script):
    lines = python("-m", "ortlite.as_onnxruntime", "-m", "program", "a", cwd=script.parent)
    assert lines[0] == "['a'] __main__"


def test_child_processes(script):
    lines = python("-m", "ortlite.as_onnxruntime", "--children", str(script), "a", "b")
    assert lines[:2] == ["ortlite.api.session", "['a', 'b'] __main__"]


INSTALLED = """
import ortlite
ortlite.install_as_onnxruntime()
ortlite.install_as_onnxruntime()
import onnxruntime
assert onnxruntime.InferenceSession is ortlite.InferenceSession
"""


def test_a_program_installs_it_itself():
    python("-c", INSTALLED)


def test_it_comes_before_the_real_one():
    pytest.importorskip("onnxruntime")
    program = "import onnxruntime, ortlite\nortlite.install_as_onnxruntime()"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "RuntimeError: onnxruntime is imported already" in found.stderr


QUANTIZED = """
import sys
import numpy as np, onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
import onnxruntime
weights = numpy_helper.from_array(np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32), "W")
graph = helper.make_graph(
    [helper.make_node("MatMul", ["X", "W"], ["Y"])],
    "g",
    [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["n", 8])],
    [helper.make_tensor_value_info("Y", TensorProto.FLOAT, ["n", 4])],
    [weights],
)
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), sys.argv[1] + "/m.onnx")
quantize_dynamic(sys.argv[1] + "/m.onnx", sys.argv[1] + "/q.onnx", weight_type=QuantType.QUInt8)
x = np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32)
results = [onnxruntime.InferenceSession(f"{sys.argv[1]}/{name}.onnx").run(None, {"X": x})[0] for name in "mq"]
np.testing.assert_allclose(results[0], results[1], atol=0.2)
print(onnxruntime.InferenceSession.__module__)
"""


def test_the_tools_of_the_real_one_run_on_it(tmp_path):
    pytest.importorskip("onnxruntime")
    (tmp_path / "tool.py").write_text(QUANTIZED)
    lines = python("-W", "ignore", "-m", "ortlite.as_onnxruntime", str(tmp_path / "tool.py"), str(tmp_path))
    assert lines[-2] == "ortlite.api.session"


def test_examples(ort):
    names = {"mul_1.onnx": "X", "sigmoid.onnx": "x", "logreg_iris.onnx": "float_input"}
    examples = pytest.importorskip(f"{ort.__name__}.datasets")
    for name, first in names.items():
        session = ort.InferenceSession(examples.get_example(name), providers=["CPUExecutionProvider"])
        (given,) = session.get_inputs()
        assert given.name == first
        session.run(None, {first: np.ones(given.shape, np.float32)})
    with pytest.raises(FileNotFoundError):
        examples.get_example("no.onnx")


def test_the_irises():
    import ortlite

    session = ortlite.InferenceSession(get_example("logreg_iris.onnx"), providers=["CPUExecutionProvider"])
    petals = np.array([[1.4, 0.2], [4.3, 1.3], [5.5, 2.0]], np.float32)
    labels, scores = session.run(None, {"float_input": petals})
    assert labels.tolist() == [0, 1, 2]
    assert [max(row, key=row.get) for row in scores] == [0, 1, 2]


def test_every_module_of_the_real_one_is_there():
    """But for its tools, which are imported from it."""
    real = pytest.importorskip("onnxruntime")
    walked = pkgutil.walk_packages(real.__path__, "onnxruntime.", onerror=lambda _: None)
    tools = ("tools", "quantization", "transformers")
    names = [m.name for m in walked if m.name.split(".")[1] not in tools and "libonnxruntime" not in m.name]
    assert "onnxruntime.capi.onnxruntime_validation" in names
    tried = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"
    said = "from onnxruntime.capi.onnxruntime_validation import *; check_distro_info(); print(check_training_module())"
    code = f"import ortlite; ortlite.install_as_onnxruntime(); {tried}; {said}"
    from onnxruntime.capi import onnxruntime_validation

    assert python("-c", code, *names)[0] == str(onnxruntime_validation.check_training_module())
