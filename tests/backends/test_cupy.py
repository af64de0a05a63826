"""CuPyExecutionProvider on a stand-in for CuPy (tests/backends/standin): NumPy under CuPy's names.

This proves the glue and not CuPy: that every call is one CuPy's signatures allow, that no array becomes a NumPy array
unasked, and that the primitives compute what their defaults do. What CuPy computes only a GPU can tell: see
`benchmarks/gpu.py`.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
STANDIN = Path(__file__).parent / "standin"

START = """
import shutil
import warnings
import numpy as np
import ortlite_cupy
ortlite_cupy.DEVICES = ("/",)  # as if there were a driver
import cupy
assert cupy.__version__.endswith("standin")
import ortlite
from onnx import TensorProto, helper, numpy_helper, parser
from ortlite.provider import CPU, create, owner
from ortlite.transfer import transfer
provider, numpy = create("CuPyExecutionProvider"), create(CPU)
"""


def run(code, start=START):
    """Run code in a process where the stand-in is what `import cupy` finds."""
    path = os.pathsep.join(map(str, (STANDIN, ROOT, ROOT / "backends", ROOT / "tests")))
    env = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"} | {"PYTHONPATH": path}
    script = start + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_model_runs_on_it_alone():
    run("""
        rng = np.random.default_rng(0)
        w = numpy_helper.from_array(rng.standard_normal((4, 2, 3, 3)).astype(np.float32), "w")
        d = numpy_helper.from_array(rng.standard_normal((36, 5)).astype(np.float32), "d")
        nodes = [
            helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("MaxPool", ["b"], ["c"], kernel_shape=[2, 2], strides=[2, 2]),
            helper.make_node("Flatten", ["c"], ["e"]),
            helper.make_node("Gemm", ["e", "d"], ["f"]),
            helper.make_node("Softmax", ["f"], ["y"]),
        ]
        info = helper.make_tensor_value_info
        graph = helper.make_graph(nodes, "g", [info("x", 1, ["N", 2, 6, 6])], [info("y", 1, ["N", 5])], [w, d])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()
        session = ortlite.InferenceSession(model, providers=["CuPyExecutionProvider"], fallback="error")
        assert {n.provider for n in session.explain().nodes} == {"CuPyExecutionProvider"}, str(session.explain())
        peer = ortlite.InferenceSession(model, providers=[CPU])
        for n in (1, 1, 3):
            x = rng.standard_normal((n, 2, 6, 6)).astype(np.float32)
            np.testing.assert_allclose(session.run(None, {"x": x})[0], peer.run(None, {"x": x})[0], 1e-5, 1e-9)

        fn = ortlite.function(model)
        y = fn(cupy.asarray(x))
        assert isinstance(y, cupy.ndarray)
        np.testing.assert_allclose(y.get(), peer.run(None, {"x": x})[0], rtol=1e-5, atol=1e-9)
    """)


@pytest.mark.once
def test_a_sample_of_the_suite():
    out = run("""
        from conformance.__main__ import expected_failures, run_suite
        from conformance.cases import load_cases

        chosen = sorted(load_cases())[::9]
        results = run_suite("CuPyExecutionProvider", "^(" + "|".join(chosen) + ")$", 2)
        expected = expected_failures("CuPyExecutionProvider")
        wrong = {r.name: r.error for r in results if bool(r.error) != (r.name in expected)}
        assert not wrong, wrong
        numeric = [r for r in results if r.numeric]
        print(len(results), sum(not r.fallbacks for r in numeric) / len(numeric))
    """)
    count, share = map(float, out.split())
    assert count > 200
    assert share > 0.95


def test_primitives_compute_what_their_defaults_do():
    run("""
        from itertools import product
        from functools import partial
        from ortlite.primitives import DEFAULTS
        from ortlite_cupy import primitives

        rng = np.random.default_rng(1)
        seen = set()

        def host(v):
            if isinstance(v, cupy.ndarray):
                return v.get()
            return type(v)(map(host, v)) if isinstance(v, tuple | list) else v

        def device(v):
            return cupy.asarray(v) if isinstance(v, np.ndarray) else v

        def check(name, *args, rtol=1e-5, **keywords):
            seen.add(name)
            before = [device(a) for a in args]
            mine = host(getattr(provider.xp, name)(*before, **keywords))
            wanted = DEFAULTS[name](numpy.xp, *args, **keywords)
            mine, wanted = (v if isinstance(v, tuple) else (v,) for v in (mine, wanted))
            for m, w in zip(mine, wanted, strict=True):
                if w is None:
                    assert m is None
                    continue
                assert m.dtype == w.dtype, (name, m.dtype, w.dtype)
                np.testing.assert_allclose(m, w, rtol=rtol, atol=1e-5, err_msg=name)
            for a, b in zip(args, before, strict=True):  # arguments are as they were
                if isinstance(a, np.ndarray):
                    np.testing.assert_array_equal(b.get(), a)

        def normal(*shape, dtype=np.float32):
            return rng.standard_normal(shape).astype(dtype)

        x = normal(3, 5) * 2
        for name in ("erf", "sigmoid"):
            check(name, x)
            check(name, x.astype(np.float64))
        check("root", np.abs(x))
        check("root", np.where(x > 0, x, np.float32(0)), 1 / 3)
        assert not provider.xp.readable(cupy.asarray(x))  # unlike the default: values are on the device
        seen.add("readable")
        check("fmod", x, np.abs(x[::-1]) + 0.5)
        check("fmod", np.array([-(2**62) - 1, 7, -7]), np.array([10, -3, 3]))
        assert provider.xp.bit_view(cupy.asarray(x), np.dtype(np.int32)).get().tolist() == x.view(np.int32).tolist()
        seen.add("bit_view")  # which has no default
        for power in (0.5, 0.25):
            check("root", np.maximum(x, 0), power)
        assert not provider.xp.readable(cupy.asarray(x))  # a look at values would wait for the device
        seen.add("readable")
        for widths, mode in product([((0, 1), (2, 0)), ((-1, 1), (0, -2)), ((-1, 0), (-1, -1)), ((0, 0), (0, 0))],
                                    ["constant", "edge", "wrap", "reflect"]):
            check("pad", x, widths, mode)
        check("pad", x, ((1, 1), (1, 1)), "constant", 3.5)

        for rank, groups, stride, dilation, size in product((1, 2, 3), (1, 2), (1, 2), (1, 2), (1, 3)):
            spatial = (9, 7, 8)[:rank]
            keywords = {"strides": (stride,) * rank, "dilations": (dilation,) * rank,
                        "pads": ((1, 0), (0, 2), (1, 1))[:rank]}
            image = normal(2, 4, *spatial)
            check("conv", image, normal(6, 4 // groups, *(size,) * rank), groups=groups, rtol=1e-4, **keywords)
            check("conv_transpose", image, normal(4, 3, *(size,) * rank), groups=groups, rtol=1e-4, **keywords)
            negative = {**keywords, "pads": ((0, -1), (-2, 0), (0, 0))[:rank]}
            check("conv_transpose", image, normal(4, 3, *(size,) * rank), groups=groups, rtol=1e-4, **negative)
            check("max_pool", image, (size,) * rank, **keywords)
            check("max_pool", image, (size,) * rank, indices=True, **keywords)
            check("max_pool", (image * 9).astype(np.int8), (size,) * rank, **keywords)
            check("sum_pool", image, (size,) * rank, **keywords)
        one = {"strides": (1, 1), "dilations": (1, 1), "pads": ((0, 0), (0, 0))}
        for shape in ((0, 2, 4, 4), (2, 2, 2, 4)):  # nothing to convolve, no room for a window
            check("conv", normal(*shape), normal(3, 2, 3, 3), **one)
            if shape[0]:
                check("max_pool", normal(*shape), (3, 3), **one)
            check("sum_pool", normal(*shape), (3, 3), **one)
        check("conv_transpose", normal(0, 2, 4, 4), normal(2, 3, 3, 3), **one)

        data = normal(4, 5, 6)
        check("gather_nd", data, np.array([[0, -1], [3, 2]]))
        check("gather_nd", data, np.zeros((2, 0), np.int64))
        check("gather_nd", data, np.array([[[1]], [[-4]]], np.int32))

        for reduction, dtype in product(
            ("none", "add", "mul", "max", "min"),
            "int8 uint8 int16 uint16 int32 uint32 int64 uint64 float32 float64 bool".split(),
        ):
            if dtype == "bool" and reduction != "none":
                continue
            table = (normal(6, 4) * 100).astype(dtype)
            places = np.array([5, 0, 2]) if reduction == "none" else np.array([5, 0, 5])
            news = (normal(3, 4) * 100).astype(dtype)
            check("scatter_flat", table[:, 0].copy(), places, news[:, 0].copy(), reduction)
            check("scatter_nd", table, places[:, None], news, reduction)
            check("scatter", table, np.broadcast_to(places[:, None], (3, 4)).copy(), news, 0, reduction)
            check("scatter", table, np.zeros((0, 4), np.int64), news[:0], 0, reduction)
        check("scatter_nd", data, np.zeros((1, 0), np.int64), data[None] * 2, "add")

        for a, b in (((-128, 127), (-128, 127)), ((0, 70000), (-70000, 70000)), ((-(2**40), 2**40), (0, 2**20))):
            left = rng.integers(*a, (2, 3, 9), endpoint=True)
            right = rng.integers(*b, (9, 4), endpoint=True)
            for dtype in (np.int32, np.int64):
                check("integer_matmul", left, right, np.dtype(dtype))
        check("integer_matmul", left[0, 0], right, np.dtype(np.int64))
        check("integer_matmul", left[:0], right, np.dtype(np.int64))
        assert seen >= set(primitives.PRIMITIVES), set(primitives.PRIMITIVES) - seen
    """)


def test_extrema_of_floats_are_exact_and_keep_nan():
    run("""
        xp = provider.xp
        data, news = np.array([0.0, 1.0, 2.0]), np.array([0.1, np.nan, 2.0 + 2**-40])
        for reduction in ("max", "min"):
            got = xp.scatter_flat(cupy.asarray(data), cupy.arange(3), cupy.asarray(news), reduction).get()
            np.testing.assert_array_equal(got, {"max": np.maximum, "min": np.minimum}[reduction](data, news))
    """)


def test_bounds_and_choices():
    run("""
        from ml_dtypes import bfloat16
        xp = provider.xp
        bytes_ = cupy.asarray(np.array([-5, 0, 100], np.int8))
        assert xp.clip(bytes_, -1, 7).get().tolist() == [-1, 0, 7]
        assert xp.clip(bytes_, -1000, 1000).get().tolist() == [-5, 0, 100]
        assert xp.clip(bytes_, None, cupy.asarray(np.int8(3))).get().tolist() == [-5, 0, 3]
        floats = cupy.asarray(np.array([-np.inf, np.nan, 0.5], np.float32))
        np.testing.assert_array_equal(xp.clip(floats, 0, None).get(), np.array([0, np.nan, 0.5], np.float32))
        assert xp.clip(floats, 0.0, 1.0).dtype == np.float32
        narrow = cupy.asarray(np.array([1, 2], bfloat16))
        picked = xp.where(cupy.asarray(np.array([True, False])), narrow, narrow + narrow)
        assert picked.dtype == bfloat16 and picked.get().tolist() == [1, 4]
        picked = xp.where(cupy.asarray(np.array([True, False])), narrow, 0.5)
        assert picked.dtype == bfloat16 and picked.get().tolist() == [1, 0.5]
        assert xp.where(cupy.asarray(np.array([True, False])), 1.5, 0.0).get().tolist() == [1.5, 0]
        single = xp.fft.fft(cupy.asarray(np.ones(4, np.complex64)))
        assert single.dtype == np.complex64 and single.get().tolist() == [4, 0, 0, 0]
        assert xp.fft.fft(cupy.asarray(np.ones(4, np.complex128))).dtype == np.complex128
    """)


def test_an_index_out_of_range_wraps_around():
    run("""
        text = '<ir_version: 8, opset_import: ["": 13]> g (float[3] x, int64[N] i) => (float[N] y) { y = Gather(x, i) }'
        model = parser.parse_model(text).SerializeToString()
        session = ortlite.InferenceSession(model, providers=["CuPyExecutionProvider"])
        feed = {"x": np.array([1, 2, 3], np.float32), "i": np.array([-1, 0, 4])}
        assert session.run(None, feed)[0].tolist() == [3, 1, 2]
    """)


def test_values_cross():
    run("""
        from ml_dtypes import bfloat16
        for dtype in (*"?bhilBHILefdFD", bfloat16):
            x = np.arange(6).reshape(2, 3)[:, ::-1].astype(dtype)
            there = transfer(x, numpy, provider)
            assert isinstance(there, cupy.ndarray) and there.dtype == x.dtype
            assert provider.pointer(there) == there.data.ptr
            np.testing.assert_array_equal(transfer(there, provider, numpy), x)
        assert provider.from_numpy(np.array([1], ">i4")).dtype == np.int32
        assert provider.from_numpy(np.zeros((0, 2), np.float32)).shape == (0, 2)
        again = provider.from_dlpack(there)
        assert again.data.ptr == there.data.ptr

        class OnTheHost:  # CuPy takes no array that lives there: it crosses through NumPy
            def __dlpack_device__(self):
                return (1, 0)

        class Host(type(numpy)):
            name = "Host"

            def to_numpy(self, array):
                return np.array([1.0])

        assert transfer(OnTheHost(), Host(), provider).get().tolist() == [1.0]
        from ortlite.transfer import TransferStats

        class Fixed(type(numpy)):
            name, immutable = "Fixed", True

        for _ in range(2):  # CuPy's arrays have no __array_interface__
            stats = TransferStats()
            moved = transfer(there, provider, Fixed(), stats)
            assert moved.dtype == there.dtype and stats.nbytes == there.nbytes and stats.shared is False

        try:
            np.asarray(there)
        except TypeError as error:
            assert "Implicit conversion" in str(error)
        else:
            raise AssertionError("the stand-in must be as particular as CuPy")
    """)


def test_its_arrays_have_an_owner_on_their_device():
    run("""
        assert owner(cupy.zeros(3)) is provider
        assert owner(np.zeros(3)) is numpy
        with cupy.cuda.Device(1):
            there = cupy.zeros(3)
        second = owner(there)
        assert second.options == {"device_id": "1"} and second is create("CuPyExecutionProvider", {"device_id": "1"})
        from cupy.cuda.device import current
        with second.context():
            with second.context():
                assert current() == 1
            assert current() == 1
        assert current() == 0
    """)


def test_a_second_device_does_all_by_itself():
    run("""
        text = '''<ir_version: 8, opset_import: ["": 18]>
            g (float[N, 3] x, bool[1] flag) => (float[N, 3] y, float[3, 3] z)
            <float[3, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}> {
                a = MatMul(x, w)  b = Softmax(a)
                c = If(flag) <then_branch = t () => (float[N, 3] u) { u = Relu(b) },
                              else_branch = e () => (float[N, 3] v) { v = Neg(b) }>
                y = Add(c, x)  z = Identity(w) }'''
        model = parser.parse_model(text).SerializeToString()
        x, flag = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([True])
        feed = {"x": x, "flag": flag}
        wanted = ortlite.InferenceSession(model, providers=[CPU]).run(None, feed)
        second = create("CuPyExecutionProvider", {"device_id": "1"})
        for options in ({}, {"compile": "1"}) if shutil.which("g++") else ({},):
            chosen = [("CuPyExecutionProvider", {"device_id": "1", **options})]
            session = ortlite.InferenceSession(model, providers=chosen, fallback="error")
            for _ in range(4):
                for a, b in zip(session.run(None, feed), wanted, strict=True):
                    np.testing.assert_allclose(a, b, rtol=1e-6)
        there = second.from_numpy(x)
        assert there.device.id == 1
        results = ortlite.function(model)(there, second.from_numpy(flag))
        assert [y.device.id for y in results] == [1, 1]
        np.testing.assert_allclose(results[0].get(), wanted[0], rtol=1e-6)
        bound = session.io_binding()  # outputs stay where they are computed
        bound.bind_cpu_input("x", x)
        bound.bind_cpu_input("flag", flag)
        for name in "yz":
            bound.bind_output(name, "cuda", 1)
        session.run_with_iobinding(bound)
        for value, b in zip(bound.get_outputs(), wanted, strict=True):
            assert value._data.device.id == 1, value
            np.testing.assert_allclose(value.numpy(), b, rtol=1e-6)
    """)


def test_what_it_cannot_do_is_said():
    run("""
        text = '''<ir_version: 8, opset_import: ["": 20]>
            g (float[3] x, string[1] s) => (float[3] y, string[1] t, float8e4m3fn[3] z)
            { y = Abs(x)  t = StringConcat(s, s)  z = Cast<to = 17>(x) }'''
        model = parser.parse_model(text).SerializeToString()
        session = ortlite.InferenceSession(model, providers=["CuPyExecutionProvider"])
        why = {n.op_type: (n.provider, n.reasons) for n in session.explain().nodes}
        assert why["Abs"] == ("CuPyExecutionProvider", ())
        assert why["StringConcat"][0] == CPU and "Python objects" in why["StringConcat"][1][0]
        assert why["Cast"][0] == CPU and "cupy has no float8_e4m3fn" in why["Cast"][1][0]
    """)


def test_half_precision_is_computed_in_float32():
    run("""
        text = '''<ir_version: 8, opset_import: ["": 18]>
            g (float16[M] x) => (float16[] y) { y = ReduceSum<keepdims = 0>(x) }'''
        model = parser.parse_model(text).SerializeToString()
        session = ortlite.InferenceSession(model, providers=["CuPyExecutionProvider"])
        x = np.full(4097, 1, np.float16)  # float16 would stop at 2048
        assert session.run(None, {"x": x})[0] == np.float16(4096)
        assert {n.provider for n in session.explain().nodes} == {"CuPyExecutionProvider"}
    """)


def test_the_script_for_gpus_knows_how_to_use_it():
    run("""
        from benchmarks import gpu, gpu_models

        known = {"cupy": provider}
        rows = {row.what: row for row in gpu.borders(known)}
        assert all(row.ok for row in rows.values()), rows
        assert "not held: float8_e4m3fn" in rows["numpy → cupy, contiguous"].found
        rows = gpu.binding(known, "cuda")
        assert len(rows) > 8 and all(row.ok for row in rows), rows
        rows = gpu.streams(known, rounds=3, size=8, heavy=16)
        assert [row.found for row in rows] == ["3 right"] * 2, rows
        few = gpu.samples(provider, small=True)
        gpu.samples = lambda *_: {name: few[name] for name in ("erf", "conv", "scatter_nd", "integer_matmul")}
        rows = gpu.gains(known, runs=1, small=True)
        assert len(rows) == 4 and all(row.ok for row in rows), rows
        rows = gpu.speed(known, runs=1, small=True)
        assert len(rows) == len(gpu_models.MODELS) and all(row.ok for row in rows), rows
    """)


def test_it_is_the_cuda_provider_by_option():
    run("""
        import ortlite_cuda
        text = '<ir_version: 8, opset_import: ["": 18]> g (float[3] x) => (float[3] y) { y = Abs(x) }'
        model = parser.parse_model(text).SerializeToString()
        session = ortlite.InferenceSession(model, providers=[("CUDAExecutionProvider", {"library": "cupy"})])
        assert session.run(None, {"x": np.array([-1, 0, 2], np.float32)})[0].tolist() == [1, 0, 2]
        assert session.get_providers() == ["CUDAExecutionProvider", CPU]
        assert {n.provider for n in session.explain().nodes} == {"CUDAExecutionProvider"}
        assert isinstance(create("CUDAExecutionProvider", {"library": "cupy"}), ortlite_cuda.CuPyOnCUDA)
        # and where torch has no CUDA; its arrays still belong to the provider that names the library
        ortlite_cuda._built_for_cuda = lambda: False
        assert isinstance(create("CUDAExecutionProvider"), ortlite_cuda.CuPyOnCUDA)
        assert owner(cupy.zeros(1)) is provider
    """)


def test_looking_for_it_does_not_import_it():
    code = """
        import sys
        import ortlite_cupy
        ortlite_cupy.DEVICES = ("/",)
        import ortlite
        assert "CuPyExecutionProvider" in ortlite.get_available_providers()
        assert not {"cupy", "torch", "jax"} & sys.modules.keys()
    """
    run(code, start="")


@pytest.mark.skipif(importlib.util.find_spec("cupy") is None, reason="CuPy is not installed")
def test_every_name_is_one_of_cupys():
    import cupy

    from ortlite_cupy import CuPyExecutionProvider, ops, primitives  # what these import at the top must be there

    assert CuPyExecutionProvider().xp.library == "array_api_compat.cupy"
    assert primitives.PRIMITIVES
    assert ops.OVERRIDES
    assert cupy.ndarray.__module__ == "cupy"


# functions of elements as one kernel

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ plays NVRTC")
BOTH = """
import random
import re
from cupy import ElementwiseKernel
from conformance.__main__ import expected_failures
from conformance.cases import load_cases, run_case
from ortlite.errors import OrtError
from ortlite_cupy.fused import OPERATORS, Elementwise

def parsed(body, inputs, outputs):
    text = f'<ir_version: 8, opset_import: ["": 18]> g ({inputs}) => ({outputs}) {body}'
    return parser.parse_model(text).SerializeToString()

def both(model, feeds, runs=4):
    # the results of the last of some runs, kernel by kernel and compiled, and how many kernels were compiled
    found, before = [], ElementwiseKernel.made
    for options in ({}, {"compile": "1"}):
        session = ortlite.InferenceSession(model, providers=[("CuPyExecutionProvider", options)], fallback="error")
        for given in feeds * runs:
            results = session.run(None, given)
        found.append(results)
    return *found, ElementwiseKernel.made - before
"""


def run_both(code):
    return run(textwrap.dedent(code), START + BOTH)


@needs_compiler
def test_neighbouring_functions_of_elements_are_one_kernel():
    run_both("""
        model = parsed(
            '<float half = {0.5}> { c = Add(x, b)  d = Mul(c, half)  e = Tanh(d)  z = Greater(e, half)  '
            'y = Where(z, e, x)  x2 = Identity(x) }',
            "float[N, 3] x, float[3] b", "float[N, 3] y, bool[N, 3] z, float[N, 3] x2",
        )
        rng = np.random.default_rng(0)
        for n in (4, 0, 1):
            x = np.float32(rng.standard_normal((n, 3)))
            x[:1, 1] = np.nan
            plain, made, kernels = both(model, [{"x": x, "b": np.float32([1, -2, 3])}])
            for a, b in zip(plain, made, strict=True):
                assert a.dtype == b.dtype
                np.testing.assert_allclose(a, b, rtol=1e-6)
            assert kernels == 1, kernels
        # what reads more than elements stands between two kernels, and what is one launch by itself stays so
        model = parsed(
            "{ a = Sigmoid(x)  b = Mul(a, x)  c = Softmax(b)  d = Abs(c)  y = Softmax(d) }",
            "float[N, 3] x", "float[N, 3] y",
        )
        plain, made, kernels = both(model, [{"x": x}])
        np.testing.assert_allclose(plain[0], made[0], rtol=1e-6)
        assert kernels == 1, kernels
    """)


@needs_compiler
def test_other_shapes_and_wrong_ones():
    run_both("""
        model = parsed(
            "{ c = Add(x, b)  y = Exp(c)  u = Neg(s)  t = Exp(u) }",
            "float[N] x, float[M] b, float[1] s", "float[K] y, float[1] t",
        )
        one = np.ones(1, np.float32)
        feeds = [{"x": np.ones(n, np.float32), "b": np.ones(m, np.float32), "s": one} for n, m in ((3, 3), (1, 4))]
        for given in feeds:
            plain, made, kernels = both(model, [given])
            for a, b in zip(plain, made, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-6)
            assert kernels == 2, kernels  # one of the results has a shape of its own
        session = ortlite.InferenceSession(model, providers=[("CuPyExecutionProvider", {"compile": "1"})])
        for _ in range(4):
            try:
                session.run(None, feeds[0] | {"b": np.ones(2, np.float32)})
            except OrtError as error:
                assert "Add" in str(error) and "[2]" in str(error), error
            else:
                raise AssertionError
    """)


@needs_compiler
def test_float16_between_two_functions():
    run_both("""
        model = parsed(
            "{ a = Exp(x)  b = Cast<to = 10>(a)  c = Cast<to = 1>(b)  y = Neg(c) }", "float[N] x", "float[N] y"
        )
        x = np.linspace(-1, 1, 9, dtype=np.float32)
        plain, made, kernels = both(model, [{"x": x}])
        np.testing.assert_array_equal(plain[0], made[0])
        assert kernels == 1, kernels
    """)


@needs_compiler
def test_no_product_goes_on_unrounded():
    run_both("""
        model = parsed("{ a = Mul(x, x)  b = Sub(a, s)  y = Sqrt(b) }", "float[N] x, float[N] s", "float[N] y")
        x = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
        plain, made, kernels = both(model, [{"x": x, "s": x * x}])  # rounding errors have no square roots
        assert not plain[0].any() and not made[0].any(), made[0]
        assert kernels == 1, kernels
    """)


@pytest.mark.long
@pytest.mark.once
@needs_compiler
def test_the_suites_functions_of_elements():
    out = run_both("""
        cls = type(provider)
        cls.compiler = property(lambda self, made=Elementwise(): made)
        names = "|".join(re.sub("(?<=[a-z])(?=[A-Z])", "_?", name).lower() for name in OPERATORS)
        chosen = [name for name in load_cases() if re.match(f"test_({names})(_|$)", name)]
        expected = expected_failures("CuPyExecutionProvider")
        for name in chosen:
            error = run_case(name, "CuPyExecutionProvider", steps=False, runs=4).error
            assert bool(error) == (name in expected), (name, error)
        print(len(chosen), ElementwiseKernel.made)
    """)
    cases, kernels = map(int, out.split())
    assert cases > 300
    assert kernels > 30


@pytest.mark.once
@needs_compiler
def test_random_graphs_of_functions_of_elements():
    run_both("""
        ONE = "Abs Ceil Exp Floor Neg Relu Sigmoid Sin Softplus Softsign Tanh Erf Cos Elu HardSwish".split()
        TWO = "Add Sub Mul Div Max Min PRelu Pow".split()
        info, total = helper.make_tensor_value_info, 0
        for seed in range(12):
            rng = random.Random(seed)
            shapes = {"x": (2, 3), "b": (3,), "s": (1, 1), "t": (2, 1)}
            known, nodes = list(shapes), []
            for i in range(12):
                made, (a, b, c) = f"v{i}", (rng.choice(known) for _ in range(3))
                kind = rng.random()
                if kind < 0.45:
                    nodes.append(helper.make_node(rng.choice(ONE), [a], [made]))
                elif kind < 0.8:
                    op = rng.choice(TWO)
                    a, b = ("x", rng.choice(["b", "s", "t"])) if op == "PRelu" else (a, b)
                    nodes.append(helper.make_node(op, [a, b], [made]))
                else:
                    op = rng.choice(["Less", "GreaterOrEqual", "Equal"])
                    nodes.append(helper.make_node(op, [a, b], [made + "c"]))
                    nodes.append(helper.make_node("Where", [made + "c", c, a], [made]))
                known.append(made)
            outputs = rng.sample(known[4:], 3)
            graph = helper.make_graph(
                nodes, "g", [info(n, 1, s) for n, s in shapes.items()], [info(n, 1, None) for n in outputs]
            )
            opsets = [helper.make_opsetid("", 18)]
            model = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
            draw = np.random.default_rng(seed)
            plain, found, kernels = both(model, [{n: np.float32(draw.standard_normal(s)) for n, s in shapes.items()}])
            total += kernels
            for a, b in zip(plain, found, strict=True):
                assert a.shape == b.shape and a.dtype == b.dtype, seed
                np.testing.assert_allclose(b, a, rtol=2e-5, atol=1e-6, err_msg=str(seed))
        assert total >= 12, total
    """)
