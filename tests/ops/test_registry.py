"""Kernels of third parties: registered in a script or by an installed package. The toy is the README's."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import ortlite
from ortlite.ops import annotations, registry

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "ortlite" / "ops" / "README.md").read_text()
BLOCKS = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", README, re.DOTALL))
TOY, TOY_TEST = BLOCKS["ortlite_toy.py"], BLOCKS["test_toy.py"]
SHOW = """
from ortlite.ops import registry
print([str(k) for k in registry.kernels() if k.domain == "com.toy"])
print(registry.lookup("", "Relu", 20).fn.__module__)
"""


@pytest.fixture
def install(tmp_path):
    """Leave a package in a folder as pip would: module text and entry points."""

    def install(name, module, *points):
        (tmp_path / f"{name}.py").write_text(module)
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[ortlite.operators]\n" + "\n".join(points) + "\n")

    return install


@pytest.fixture
def python(tmp_path):
    """Run code in a process that sees the packages in the folder; its exit status and what it printed."""

    def python(code):
        setup = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        command = [sys.executable, "-W", "always", "-c", setup + code]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        return done.returncode, done.stdout + done.stderr

    return python


def pytest_of(*arguments):
    return f"import pytest; sys.exit(pytest.main({[*arguments, '-p', 'no:cacheprovider']!r}))"


def test_the_readmes_toy_package_passes_the_readmes_test(install, python, tmp_path):
    (point,) = re.findall(r'"ortlite.operators"\]\n(.*?)\n```', README)
    install("ortlite_toy", TOY, point.replace('"', ""))
    (tmp_path / "test_toy.py").write_text(TOY_TEST)
    command = pytest_of(str(tmp_path / "test_toy.py"), "-k", "twice", "--rootdir", str(tmp_path))
    code, said = python(command)
    assert code == 0, said
    assert "2 passed" in said
    (tmp_path / "ortlite_toy.py").write_text(TOY.replace("2**times", "2*times"))
    code, said = python(command)
    assert code == 1, said
    assert "2 failed" in said


def test_the_readmes_first_command_finds_operators_with_and_without_schema(install, python):
    install("ortlite_toy", TOY, "toy = ortlite_toy")
    code, said = python(pytest_of("tests/test_schemas.py", "-v", "-k", "ThresholdedRelu or Twice"))
    assert code == 0, said
    for name in ("test_every_version_runs[ai.onnx-ThresholdedRelu-10]", "says_what_it_is[com.toy-Twice-1]"):
        assert f"{name} PASSED" in said


@pytest.mark.parametrize("text", [True, False])
def test_an_operator_registered_in_a_script(python, text):
    toy = TOY if text else TOY.replace("from __future__ import annotations", "")
    loaded = "" if text else 'registry.lookup("", "Relu", 20)'
    code, said = python(f"""
import numpy as np, onnx
from ortlite.ops import registry
{loaded}
exec({toy!r})
text = '<ir_version: 10, opset_import: ["": 21, "com.toy": 1]> g (float[N] x) => (y) {{ y = com.toy.Twice(x) }}'
session = ortlite.InferenceSession(onnx.parser.parse_model(text).SerializeToString())
print(session.run(None, {{"x": np.float32([3])}}), session.get_outputs()[0].type)
""")
    assert code == 0, said
    assert "[array([6.], dtype=float32)] tensor(float)" in said


@pytest.mark.parametrize("evaluated", [False, True])
def test_annotations_may_be_left_out_evaluated_or_pythons(evaluated):
    code = """
def kernel(xp, X, n: int | None = None, Y: Array | None = None, *rest, axes: tuple[int, ...] | None = (),
           mode: str = "", to: DType = None, body: Graph | None = None) -> tuple[Array, Array]:
    return X, X
"""
    names = vars(annotations).copy()
    exec(("" if evaluated else "from __future__ import annotations") + code, names)
    inputs, rest, attributes, _, result = registry.read(names["kernel"])
    assert [p.kind for p in inputs] == ["Array", "Int", "Array"]
    assert rest.kind == "Array"
    assert [p.kind for p in attributes.values()] == ["Ints", "Text", "DType", "Graph"]
    assert result.startswith("tuple[")


def _registers(*calls):
    lines = (f"ortlite.op({call})(kernel{i})" for i, call in enumerate(calls))
    return "\n".join(["import ortlite", *(f"def kernel{i}(xp, X): return X\n{line}" for i, line in enumerate(lines))])


FINE = {
    "a_function": "import ortlite\ndef register(): ortlite.op('A', domain='com.toy')(lambda xp, X: X)",
    "looks_up": "from ortlite.ops import registry\n"
    "registry.op('Relu', 1, 'com.toy')(lambda xp, X: registry.lookup('', 'Relu', 20).fn(xp, X))\n"
    "assert registry.lookup('', 'Relu', 20) is not None",
}
BROKEN = {  # name, of the module and the entry point -> module, why it is skipped
    "raises": ("raise ImportError('no libtoy')", "no libtoy"),
    "exits": ("raise SystemExit(3)", r"SystemExit\(3\)"),
    "neither": ("register = 3", "3 is neither a module nor callable"),
    "missing": ("", "no attribute 'register'"),
    "ours": (_registers("'Relu', 1"), "ai.onnx::Relu since 1 is registered twice"),
    "newer": (_registers("'Relu', 20"), "ai.onnx::Relu has a kernel in ortlite, whose place newer.kernel0 cannot take"),
    "twice": (_registers("'B', 1, 'com.toy'", "'B', 1, 'com.toy'"), "com.toy::B since 1 is registered twice"),
    "half": (_registers("'C', 1, 'com.toy'") + "\nraise ValueError('late')", "late"),
    "unreadable": (_registers("'D', 1, 'com.toy'").replace("X)", "X: 'Tensor')"), "unknown annotation 'Tensor'"),
}


def test_broken_packages_are_skipped_with_a_warning_that_names_each(install, python):
    for name, module in FINE.items():
        install(name, module, f"{name} = {name}" + ":register" * ("def register" in module))
    for name, (module, _) in BROKEN.items():
        install(name, module, f"{name} = {name}" + ":register" * (name in {"neither", "missing"}))
    code, said = python(SHOW)
    assert code == 0, said
    for name, (_, reason) in BROKEN.items():
        assert re.search(rf"RuntimeWarning: The operators of '{name}' \({name}.*\) are skipped: .*{reason}", said), said
    assert said.count("RuntimeWarning") == len(BROKEN)
    assert said.startswith("['com.toy::A-1', 'com.toy::Relu-1']\nortlite.ops.")


@pytest.mark.parametrize("since", [1, 20])
def test_an_operator_of_ours_cannot_be_registered_in_a_script(since):
    relu = registry.lookup("", "Relu", 20)
    with pytest.raises(ValueError, match=r"ai\.onnx::Relu .*(twice|cannot take)"):
        ortlite.op("Relu", since)(lambda xp, X: X)
    assert registry.lookup("", "Relu", 20) is relu


def test_what_hands_its_argument_on_is_known_by_its_annotations():
    handing = {f"{kernel.domain}::{kernel.op_type}" for kernel in registry.kernels() if kernel.hands_on}
    assert "::Identity" in handing
    assert handing.isdisjoint({"::Abs", "::Reshape", "::Flatten", "::Transpose", "::Cast", "::Neg"})
