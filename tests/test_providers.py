"""The provider contract: plug-ins through entry points, broken ones, overrides, crossings, outputs on the device."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pytest
from onnx import parser

import ortlite
from ortlite import load, optimize, partition, plan
from ortlite.compile import compile_plan
from ortlite.errors import Fail
from ortlite.provider import create, transfer

TEXT = """<ir_version: 8, opset_import: ["": 20]> g (float[3] x, string[1] s) => (float[3] y, string[1] t)
{ a = Abs(x)  y = Sqrt(a)  t = StringConcat(s, s) }"""

PLUGIN = '''
from functools import cached_property
from ortlite.namespace import build
from ortlite.provider import ExecutionProvider

class ToyExecutionProvider(ExecutionProvider):
    """array-api-strict under another name, with one kernel and one primitive of its own."""

    name = "ToyExecutionProvider"
    library = "array_api_strict"
    storage = frozenset({"float32", "int64", "bool"})

    @cached_property
    def xp(self):
        import array_api_strict as library

        dtypes = {name: getattr(library, name) for name in self.storage}
        return build(library, dtypes, {"sigmoid": lambda xp, x: x * 0 + 7})

    @property
    def overrides(self):
        return {("", "Abs", 1): lambda xp, X: X * 0 + 4}

    def from_numpy(self, array):
        return self.xp.asarray(array)
'''


@pytest.fixture
def installed(tmp_path):
    """Packages as pip would leave them in a folder: module text and entry points; runs code that sees them."""

    def install(name, module, *points):
        (tmp_path / f"{name}.py").write_text(module)
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[ortlite.providers]\n" + "\n".join(points) + "\n")

    def run(code):
        setup = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        return subprocess.run(
            [sys.executable, "-c", setup + textwrap.dedent(code)], capture_output=True, text=True, check=False
        )

    return install, run


def test_a_third_partys_provider_is_found_and_used(installed):
    install, run = installed
    install("toy", PLUGIN, "ToyExecutionProvider = toy:ToyExecutionProvider")
    done = run("""
        import numpy as np, ortlite
        from onnx import parser
        assert "ToyExecutionProvider" in ortlite.get_available_providers()
        model = parser.parse_model('''<ir_version: 8, opset_import: ["": 18]> g (float[3] x) => (float[3] y, float[3] z)
            { a = Abs(x)  y = Sqrt(a)  z = Sigmoid(x) }''')
        s = ortlite.InferenceSession(model.SerializeToString(), providers=["ToyExecutionProvider"])
        for _ in range(3):
            y, z = s.run(None, {"x": np.array([-1, 2, 3], np.float32)})
            assert y.tolist() == [2, 2, 2] and z.tolist() == [7, 7, 7], (y, z)
        assert {n.provider for n in s.explain().nodes} == {"ToyExecutionProvider"}
    """)
    assert done.returncode == 0, done.stderr


RANKED = """
from ortlite_strict import StrictExecutionProvider

class {name}(StrictExecutionProvider):
    name = "{name}"
    rank = {rank}
"""


def test_a_provider_says_its_rank(installed):
    install, run = installed
    ranks = {
        "zzz": 1,
        "bbb": 55,
        "aaa": 55,
        "silent": "StrictExecutionProvider.__base__.rank",
        "hidden": None,
        "odd": "2.5",
    }
    for name, rank in ranks.items():
        install(name, RANKED.format(name=name, rank=rank), f"{name} = {name}:{name}")
    done = run("""
        import warnings, ortlite
        from ortlite.errors import Fail
        from onnx import parser
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            listed = ortlite.get_available_providers()
        assert "its rank is an int or None, not 2.5" in str(caught[0].message), caught
        ours = ["CUDAExecutionProvider", "CuPyExecutionProvider", "TorchExecutionProvider", "JAXExecutionProvider"]
        assert [n for n in listed if n not in ours] == ["zzz", "aaa", "bbb", "silent", "CPUExecutionProvider"], listed
        assert "StrictExecutionProvider" not in listed
        every = ortlite.get_all_providers()
        assert len(every) == len(set(every)) and {*listed, "hidden", "odd", "StrictExecutionProvider"} <= {*every}
        assert every[-1] == "CPUExecutionProvider"

        warnings.simplefilter("error")  # what is named outright is used without a word
        text = '<ir_version: 8, opset_import: ["": 18]> g (float[3] x) => (float[3] y) { y = Sqrt(x) }'
        model = parser.parse_model(text).SerializeToString()
        s = ortlite.InferenceSession(model, providers=["hidden", "bbb"], fallback="error")
        assert s.get_providers() == ["hidden", "bbb", "CPUExecutionProvider"]
        assert [(p.provider, p.rank) for p in s.explain().providers][:2] == [("hidden", None), ("bbb", 55)]
        print(s.explain())
    """)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["hidden", "array_api_strict", "only", "named"] in rows
    assert ["bbb", "array_api_strict", "55"] in rows
    assert ["CPU", "numpy", "last"] in rows


def test_the_best_provider_is_listed_first(monkeypatch):
    """The documentation of onnxruntime begins with InferenceSession(path, providers=get_available_providers())."""
    order = "CUDA CuPy Torch JAX CPU".split()
    listed = [name.removesuffix("ExecutionProvider") for name in ortlite.get_available_providers()]
    assert [name for name in listed if name in order] == [name for name in order if name in listed]
    assert "Strict" not in listed
    data = parser.parse_model(TEXT).SerializeToString()
    session = ortlite.InferenceSession(data, providers=ortlite.get_available_providers())
    assert session.get_providers() == ortlite.get_available_providers()


def test_one_name_that_is_not_installed_leaves_the_others(monkeypatch):
    from ortlite import provider

    known = provider._provider_class
    monkeypatch.setattr(provider, "_provider_class", lambda name: None if name.startswith("JAX") else known(name))
    with pytest.warns(UserWarning, match="'JAXExecutionProvider' is not in available"):
        session = ortlite.InferenceSession(
            parser.parse_model(TEXT).SerializeToString(), providers=["JAXExecutionProvider", "StrictExecutionProvider"]
        )
    assert session.get_providers() == ["StrictExecutionProvider", "CPUExecutionProvider"]


def test_a_broken_plug_in_warns_and_leaves_the_others_alone(installed):
    install, run = installed
    install("broken", "import nothing_of_that_name", "BrokenExecutionProvider = broken:Provider")
    done = run("""
        import warnings, ortlite
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            names = ortlite.get_available_providers()
        assert "BrokenExecutionProvider" not in names and "CPUExecutionProvider" in names
        assert "BrokenExecutionProvider" in str(caught[0].message) and "nothing_of_that_name" in str(caught[0].message)
    """)
    assert done.returncode == 0, done.stderr


def test_two_plug_ins_of_one_name_warn(installed):
    install, run = installed
    install("one", PLUGIN, "ToyExecutionProvider = one:ToyExecutionProvider")
    install("two", PLUGIN, "ToyExecutionProvider = two:ToyExecutionProvider")
    done = run("""
        import warnings, ortlite
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ortlite.get_available_providers()
        assert "Two plug-ins" in str(caught[0].message)
    """)
    assert done.returncode == 0, done.stderr


def test_fallback_is_visible():
    session = ortlite.InferenceSession(
        parser.parse_model(TEXT).SerializeToString(), providers=["StrictExecutionProvider"]
    )
    rows = {n.op_type: n for n in session.explain().nodes}
    assert rows["Sqrt"].provider == "StrictExecutionProvider"
    assert rows["StringConcat"].provider == "CPUExecutionProvider"
    assert "Python objects" in rows["StringConcat"].reasons[0]
    assert "StringConcat" in str(session.explain())


def test_inputs_arrive_where_they_are_read_first():
    graph = load.load(parser.parse_model(TEXT).SerializeToString()).graph
    parts = partition.partition(graph, [create("StrictExecutionProvider"), create("CPUExecutionProvider")])
    assert parts.locations["x"] == 0
    assert parts.locations["s"] == 1


def test_outputs_may_stay_on_the_device():
    text = """<ir_version: 8, opset_import: ["": 18]> g (float[3] x) => (float[3] y) { a = Abs(x)  y = Sqrt(a) }"""
    graph = optimize.optimize(load.load(parser.parse_model(text).SerializeToString()).graph, 99, ())
    strict, cpu = create("StrictExecutionProvider"), create("CPUExecutionProvider")
    program = compile_plan(plan.plan(partition.partition(graph, [strict, cpu]), outputs_on_device=True))
    x = strict.from_numpy(np.array([-4, 9, 1], np.float32))
    for _ in range(3):
        (y,) = program([x])
        assert type(y) is type(x)
        assert strict.to_numpy(y).tolist() == [2, 3, 1]


def test_values_cross_element_by_element():
    strict, cpu = create("StrictExecutionProvider"), create("CPUExecutionProvider")
    x = np.arange(3, dtype=np.float32)
    there = transfer((x, (x, None)), cpu, strict)
    assert type(there[0]).__module__.startswith("array_api_strict")
    back = transfer(there, strict, cpu)
    np.testing.assert_array_equal(back[1][0], x)
    assert back[1][1] is None
    assert transfer({"a": 1}, strict, cpu) == {"a": 1}


CLASS = PLUGIN.replace("ToyExecutionProvider", "BadExecutionProvider")


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("raise SystemExit(3)", "SystemExit"),
        ("BadExecutionProvider = 3", "3 is no subclass"),
        ("class BadExecutionProvider:\n    def is_available(): return True", "is no subclass"),
        (CLASS + "\nBadExecutionProvider = BadExecutionProvider()", "is no subclass"),
        (CLASS.replace("    storage =", "    other ="), "it must set storage"),
        (CLASS.replace('    name = "BadExecutionProvider"', ""), "it must set name"),
        (CLASS.replace('name = "Bad', 'name = "Other'), "it calls itself 'OtherExecutionProvider'"),
        (CLASS + "\n    @classmethod\n    def is_available(cls): raise OSError('no driver')", "no driver"),
        (CLASS.replace('library = "array_api_strict"', 'library = "nothing.of_that_name"'), "ModuleNotFoundError"),
    ],
)
def test_what_is_no_provider_warns_and_is_skipped(installed, module, reason):
    install, run = installed
    install("bad", module, "BadExecutionProvider = bad:BadExecutionProvider")
    done = run("""
        import warnings, ortlite
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert ortlite.get_available_providers()[-1] == "CPUExecutionProvider"
            assert "BadExecutionProvider" not in ortlite.get_available_providers()
        print(*(w.message for w in caught))
    """)
    assert done.returncode == 0, done.stderr
    assert "Provider 'BadExecutionProvider' (bad:BadExecutionProvider) is skipped" in done.stdout
    assert reason in done.stdout


def test_nobody_takes_the_name_of_one_of_ours(installed):
    install, run = installed
    install("taker", CLASS.replace("Bad", "CPU"), "CPUExecutionProvider = taker:CPUExecutionProvider")
    done = run("""
        import warnings, ortlite
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            from ortlite.provider import create
            assert create("CPUExecutionProvider").library == "numpy"
        assert "ortlite_numpy:CPUExecutionProvider is used, not taker" in str(caught[0].message), caught
    """)
    assert done.returncode == 0, done.stderr


def same(xp, input):
    return input


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({("", "Exp", 13): same}, r"overrides \('', 'Exp', 13\); kernels .*: \('', 'Exp', 1\)"),
        ({("", "Expp", 1): same}, "'Expp', 1.*none of that name"),
        ({"Exp": same}, r"overrides 'Exp'; kernels .*: \('', 'Exp', 1\)"),
        ({("", "Exp", 1): lambda xp, x, y: x}, r"Exp-1 with \(xp, x, y\), not .*missing a required argument: 'y'"),
        ({("", "Softmax", 13): same}, "Softmax-13 with .*unexpected keyword argument 'axis'"),
    ],
)
def test_a_replacement_that_replaces_nothing_is_an_error(overrides, message):
    class Other(type(create("StrictExecutionProvider"))):
        name = "OtherExecutionProvider"
        overrides = property(lambda self: given)

    given = overrides
    graph = load.load(parser.parse_model(TEXT).SerializeToString()).graph
    parts = partition.partition(graph, [Other(), create("CPUExecutionProvider")])
    with pytest.raises(
        TypeError, match=f"OtherExecutionProvider {message}|OtherExecutionProvider overrides.*{message}"
    ):
        plan.plan(parts)


def test_an_input_that_cannot_go_to_its_provider_is_named(monkeypatch):
    def full(self, array):
        raise MemoryError

    session = ortlite.InferenceSession(
        parser.parse_model(TEXT).SerializeToString(), providers=["StrictExecutionProvider"]
    )
    monkeypatch.setattr(type(create("StrictExecutionProvider")), "from_numpy", full)
    with pytest.raises(Fail, match="input 'x' cannot go to StrictExecutionProvider: MemoryError"):
        session.run(None, {"x": np.ones(3, np.float32), "s": np.array(["a"])})
