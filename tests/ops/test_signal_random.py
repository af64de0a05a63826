"""Fourier transforms beside NumPy; random operators by their distributions and seeds."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from onnx import helper, parser
from opcheck import check, run_op
from scipy import stats

import ortlite
from ortlite import load, pipeline
from ortlite.provider import create

R = np.random.default_rng(0)


def pairs(z):
    return np.stack([z.real, z.imag], -1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("length", [None, 6, 16])
@pytest.mark.parametrize("axis", [1, -2])
def test_dft(dtype, length, axis):
    x = R.standard_normal((2, 10, 1)).astype(dtype)
    z = R.standard_normal((2, 10, 2)).astype(dtype)
    complex_z = z[..., 0] + 1j * z[..., 1]
    n = None if length is None else np.array(length)
    at = np.array(axis)
    near = {"opset": 20, "rtol": 1e-4, "atol": 1e-4}
    check("DFT", x, n, at, expected=pairs(np.fft.fft(x[..., 0], length)).astype(dtype), **near)
    check("DFT", x, n, at, onesided=1, expected=pairs(np.fft.rfft(x[..., 0], length)).astype(dtype), **near)
    check("DFT", z, n, at, inverse=1, expected=pairs(np.fft.ifft(complex_z, length)).astype(dtype), **near)
    real = np.fft.irfft(complex_z, length)[..., None].astype(dtype)
    check("DFT", z, n, at, inverse=1, onesided=1, expected=real, **near)
    check(
        "DFT", x, n, axis=1, opset=17, expected=pairs(np.fft.fft(x[..., 0], length)).astype(dtype), rtol=1e-4, atol=1e-4
    )


def test_stft():
    x, window = R.standard_normal((2, 64, 1)).astype(np.float32), np.hanning(16).astype(np.float32)
    frames = np.stack([x[:, i : i + 16, 0] * window for i in range(0, 49, 4)], 1)
    expected = pairs(np.fft.rfft(frames)).astype(np.float32)
    for signal in (x, x[..., 0]):
        check("STFT", signal, np.array(4), window, opset=17, expected=expected, rtol=1e-4, atol=1e-4)
    full = pairs(np.fft.fft(frames)).astype(np.float32)
    check("STFT", x, np.array(4), window, onesided=0, opset=17, expected=full, rtol=1e-4, atol=1e-4)
    with pytest.raises(Exception, match=r"the_node.*window of 16"):
        run_op("STFT", x, np.array(4), window, np.array(8), opset=17)


@pytest.mark.parametrize("op", ["HannWindow", "HammingWindow", "BlackmanWindow"])
@pytest.mark.parametrize("periodic", [0, 1])
def test_windows(op, periodic):
    check(op, np.array(10), periodic=periodic, opset=17, rtol=1e-4, atol=1e-6)


def test_mel_weights():
    given = [np.array(v) for v in (8, 64, 8000)]
    check("MelWeightMatrix", *given, np.float32(20), np.float32(4000), opset=17)


def draw(op, *inputs, **attributes):
    return run_op(op, *inputs, opset=22, **attributes)[0]


@pytest.mark.parametrize("like", [False, True])
@pytest.mark.parametrize("dtype", [1, 11, 10, 16])
def test_uniform_and_normal(like, dtype):
    shape = (200, 300)
    inputs = [np.zeros(shape, np.float32)] if like else []
    given = {"dtype": dtype} if like else {"dtype": dtype, "shape": shape}
    suffix = "Like" if like else ""
    u = draw(f"RandomUniform{suffix}", *inputs, low=-1.0, high=3.0, **given).astype(np.float64)
    assert u.shape == shape
    assert -1 <= u.min() < -0.98
    assert 2.98 < u.max() <= 3
    assert abs(u.mean() - 1) < 0.03
    assert abs(u.var() - 16 / 12) < 0.03
    z = draw(f"RandomNormal{suffix}", *inputs, mean=2.0, scale=3.0, **given).astype(np.float64)
    assert abs(z.mean() - 2) < 0.06
    assert abs(z.std() - 3) < 0.06
    assert abs((np.abs(z - 2) < 3).mean() - 0.6827) < 0.01


SIZE = 1 << 17


@pytest.mark.parametrize("seed", [0.0, 1.0, 77.0])
@pytest.mark.parametrize("dtype", [1, 11])
def test_draws_have_the_distribution_asked_for(seed, dtype):
    """Kolmogorov and Smirnov's test against the distributions, and no correlation with the draws 1, 2 and 7 before."""
    uniform = draw("RandomUniform", low=-2.0, high=5.0, shape=[SIZE], seed=seed, dtype=dtype)
    normal = draw("RandomNormal", mean=3.0, scale=0.5, shape=[SIZE], seed=seed, dtype=dtype)
    for x, law in ((uniform, stats.uniform(-2, 7)), (normal, stats.norm(3, 0.5))):
        assert stats.kstest(x, law.cdf).pvalue > 1e-3
        z = (x.astype(np.float64) - law.mean()) / law.std()
        for lag in (1, 2, 7):
            assert abs((z[lag:] * z[:-lag]).mean()) < 4 / SIZE**0.5


@pytest.mark.parametrize("seed", [0.0, 1.0])
def test_draws_of_classes_pass_a_chi_square_test(seed):
    logits = np.log(np.array([[0.05, 0.1, 0.25, 0.6], [0.4, 0.3, 0.2, 0.1]], np.float32)) + np.float32([[3], [-80]])
    for row, p in zip(
        draw("Multinomial", logits, sample_size=SIZE, seed=seed), np.exp(logits.astype(float)), strict=True
    ):
        assert stats.chisquare(np.bincount(row, minlength=4), p / p.sum() * SIZE).pvalue > 1e-3
    p = np.linspace(0, 1, 5, dtype=np.float32)
    hits = draw("Bernoulli", np.tile(p, (SIZE, 1)), seed=seed).sum(0)
    assert hits[0] == 0
    assert hits[-1] == SIZE
    for share, count in zip(p[1:-1], hits[1:-1], strict=True):
        assert stats.binomtest(int(count), SIZE, float(share)).pvalue > 1e-3


def test_a_uniform_float32_is_never_the_upper_end():
    """24 bits, cut: 2^24 draws come close, and rounding would have given 1 about every second time."""
    x = draw("RandomUniform", shape=[1 << 24], seed=5.0)
    assert x.max() < 1
    assert x.min() >= 0
    np.testing.assert_array_equal(x * 2**24, np.floor(x * 2**24))


def test_the_stream_is_frozen():
    """That of NumPy's RandomState, of which uniform float32 keep the highest 24 bits."""
    for xp in (create("CPUExecutionProvider").xp, create("StrictExecutionProvider").xp):
        for seed in (3, 2**40 + 3):
            words = [seed & 0xFFFFFFFF, seed >> 32]
            state = np.random.RandomState(words if words[1] else seed)
            exact = np.floor(state.random_sample(70_000) * 2**24) / 2**24
            np.testing.assert_array_equal(np.asarray(xp.random_uniform(seed, (70_000,), xp.float32)), exact)
            state = np.random.RandomState(words if words[1] else seed)
            np.testing.assert_array_equal(
                np.asarray(xp.random_normal(seed, (5,), xp.float64)), state.standard_normal(5)
            )


def test_bernoulli_and_multinomial():
    p = np.tile(np.array([0.0, 0.2, 0.7, 1.0], np.float32), (20000, 1))
    np.testing.assert_allclose(draw("Bernoulli", p).mean(0), p[0], atol=0.02)
    logits = np.log(np.array([[0.1, 0.2, 0.7], [0.5, 0.5, 1e-30]], np.float32))
    y = draw("Multinomial", logits, sample_size=20000)
    assert y.dtype == np.int32
    shares = [[(row == k).mean() for k in range(3)] for row in y]
    np.testing.assert_allclose(shares, [[0.1, 0.2, 0.7], [0.5, 0.5, 0]], atol=0.02)


def test_seed_attributes_repeat_the_draws():
    text = """<ir_version: 8, opset_import: ["": 22]> g () => (float[5] a, float[5] b, float[5] c)
    { a = RandomUniform <shape = [5], seed = 3.0> ()  b = RandomUniform <shape = [5], seed = 3.0> ()
      c = RandomUniform <shape = [5]> () }"""
    data = parser.parse_model(text).SerializeToString()
    sessions = [ortlite.InferenceSession(data) for _ in range(2)]
    first, second = (s.run(None, {}) for s in sessions)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[0], first[1])
    assert not np.array_equal(first[2], second[2])
    again = [s.run(None, {}) for s in sessions]
    assert not np.array_equal(again[0][0], first[0])  # a seed starts a stream; every run draws on
    np.testing.assert_array_equal(again[0][0], again[1][0])


def test_a_session_seed_repeats_everything_and_every_library_draws_the_same():
    text = """<ir_version: 8, opset_import: ["": 22]> g () => (float[9] a, double[9] b)
    { a = RandomNormal <shape = [9]> ()  b = RandomUniform <shape = [9], dtype = 11> () }"""
    model = load.load(parser.parse_model(text).SerializeToString())
    cpu, strict = create("CPUExecutionProvider"), create("StrictExecutionProvider")
    results = [pipeline.build(model, p, seed=5).program([]) for p in ([cpu], [cpu], [strict, cpu])]
    for other in results[1:]:
        for x, y in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(x, y)


def test_dropout():
    x = np.ones((100, 100), np.float32)
    y, mask = run_op("Dropout", x, np.float32(0.3), np.array(True), outputs=2, opset=22)
    assert abs(mask.mean() - 0.7) < 0.03
    np.testing.assert_allclose(y[mask], 1 / 0.7, rtol=1e-5)
    assert not y[~mask].any()
    check("Dropout", x, np.float32(0.3), outputs=2, expected=[x, np.ones(x.shape, bool)])


@pytest.mark.parametrize("like", [False, True])
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (1000.0, 1001.0), (0.1, 0.7), (-3.0, 5.0), (-3e38, 3e38)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_uniform_draws_stay_below_the_upper_end(dtype, low, high, like):
    """Also where they are rounded: near 1 float16 has one number in 2^-11. And none is infinite."""
    low, high = float(np.float32(low)), float(np.float32(high))
    if like:
        x = draw("RandomUniformLike", np.zeros((1000, 100), dtype), low=low, high=high, seed=5.0)
    else:
        code = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        x = draw("RandomUniform", shape=[1000, 100], dtype=code, low=low, high=high, seed=5.0)
    assert x.dtype == dtype
    x = x.astype(np.float64)
    assert x.min() >= low
    assert x.max() < high


def test_uniform_of_an_empty_range_is_its_end():
    assert set(draw("RandomUniform", shape=[100], low=2.0, high=2.0)) == {2.0}
