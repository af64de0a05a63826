"""What fuzzing found, and was mended: each model that broke something once must not do so again."""

from __future__ import annotations

from pathlib import Path

import fuzz
import numpy as np
import onnx
import pytest

CASES = sorted(Path(__file__).with_name("fuzz_cases").glob("*.onnx"))


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
@pytest.mark.parametrize("compiled", ["0", "1"])
def test_what_was_found_is_mended(path, compiled):
    problem, found = fuzz.tried(path.read_bytes(), 0, compiled)
    assert problem is None
    if isinstance(found, tuple) and not fuzz.peculiar(path.read_bytes(), found[0]):
        pytest.importorskip("onnxruntime")
        assert fuzz.judged(found, fuzz.theirs(path.read_bytes(), found[0], found[1])) is None


def test_mutants_are_the_same_every_time():
    models = fuzz.few()
    assert [fuzz.mutant(seed, models) for seed in range(20)] == [fuzz.mutant(seed, models) for seed in range(20)]


SCAN = "g (float[2] s, float[3,2] x) => (y, z) {{ y, z = Scan <num_scan_inputs = 1, body = {}> (s, x) }}"
BODY = "b (float[2] s, float[2] r) => (float[2] t, float[2] {}) {{ t = Add(s, r) o = Identity(t) }}"
CALLS = [  # a text, what it is fed, what makes it peculiar instead
    ("g (x) => (y) <int64[2] n = {2, 3}> { y = Reshape(x, n) }", {},
     "g (x) => (y) <int64[2] n = {2, 3}, int64[2] n = {3, 2}> { y = Reshape(x, n) }"),
    (SCAN.format(BODY.format("o")), {}, SCAN.format(BODY.format("t"))),
    (SCAN.format(BODY.format("o")), {}, SCAN.format(BODY.format("r"))),
    ("g (t, s) => (y) { y = AffineGrid <align_corners = 1> (t, s) }", {"s": [1, 1, 2, 3]}, {"s": [1, 1, 2, 1]}),
    ("g (q, k, v, n) => (y) { y = Attention(q, k, v, , , , n) }", {"q": np.ones((1, 1, 2, 4)), "n": [2]},
     {"q": np.ones((1, 1, 2, 4)), "n": [1]}),
    ("g (q, k, v) => (y) { y = Attention <softcap = 1.0> (q, k, v) }", {},
     "g (q, k, v) => (y) { y = Attention <softcap = -1.0> (q, k, v) }"),
    ("g (x) => (y) { y = Celu <alpha = 1.0> (x) }", {}, "g (x) => (y) { y = Celu <alpha = 0.0> (x) }"),
    ('g (x, w) => (y) { y = ConvTranspose <auto_pad = "SAME_UPPER", strides = [2, 2]> (x, w) }',
     {"w": np.ones((1, 1, 2, 2))}, {"w": np.ones((1, 1, 1, 2))}),
    ("g (x) => (y) { y = Elu <alpha = 1.0> (x) }", {}, "g (x) => (y) { y = Elu <alpha = 1e38> (x) }"),
    ("g (x) => (y) { y = NonZero(x) }", {"x": [1]}, {"x": 1}),
    ("g (x, s) => (y) { y = QuantizeLinear(x, s) }", {"s": [1.0, 2.0]}, {"s": [1.0, 0.0]}),
    ("g (a, s, z, b, t, w, u, v) => (y) { y = QLinearMatMul(a, s, z, b, t, w, u, v) }", {"u": 1.0}, {"u": 0.0}),
    ("g (x, a) => (y) { y = ReduceMean(x, a) }", {"x": [[1.0]], "a": [0]}, {"x": [[]], "a": [0]}),
    ('g (x, r, s) => (y) { y = Resize <coordinate_transformation_mode = "asymmetric"> (x, r, , s) }', {},
     'g (x, r, s) => (y) { y = Resize <coordinate_transformation_mode = "tf_crop_and_resize"> (x, r, , s) }'),
    ('g (x, r, s) => (y) { y = Resize <axes = [1], keep_aspect_ratio_policy = "not_smaller"> (x, r, s) }', {},
     'g (x, r, s) => (y) { y = Resize <axes = [-1], keep_aspect_ratio_policy = "not_smaller"> (x, r, s) }'),
    ("g (x, n) => (y) { y = ReverseSequence <time_axis = 0> (x, n) }", {},
     "g (x, n) => (y) { y = ReverseSequence <time_axis = -2> (x, n) }"),
    ("g (x, a) => (y) { y = Squeeze(x, a) }", {"a": [0]}, {"a": []}),
    ("g (x) => (y) { a = Constant <value = int64[1] {0}> () y = Squeeze(x, a) }", {},
     "g (x) => (y) { a = Constant <value = int64[0] {}> () y = Squeeze(x, a) }"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "given", "other"), CALLS)
def test_what_is_peculiar(text, given, other):
    def peculiar(text, given):
        data = onnx.parser.parse_model(fuzz.BASE + text).SerializeToString()
        return fuzz.peculiar(data, {name: np.array(value) for name, value in given.items()})

    assert not peculiar(text, given)
    assert peculiar(other, given) if isinstance(other, str) else peculiar(text, other)


def test_what_is_no_difference():
    def same(operators, a, b):
        return fuzz.judged((None, ["y"], [np.array(a, "f")], operators), [np.array(b, "f")]) is None

    largest = np.finfo(np.float32).max
    assert same(["Clip"], [1, -np.inf, np.nan], [1, -largest, np.nan])
    assert not same(["Clip"], [1, -np.inf], [1, largest])
    assert same(["Clip"], 1, 1)  # no axes
    assert not same(["Mul"], [1, -np.inf], [1, -largest])
    assert same(["ReduceMean"], [1, np.nan], [1, 0])
    assert not same(["ReduceMean"], [1, 0], [1, np.nan])
    assert not same(["ReduceSum"], [1, np.nan], [1, 0])
    assert same(["DFT"], [1, 0], [1, 2e-5])
    assert not same(["DFT"], [1, 0], [1, 2e-3])
    assert not same(["Mul"], [1, 0], [1, 2e-5])
