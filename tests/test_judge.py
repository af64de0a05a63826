"""The judge of models without weights: right kernels pass in whatever order they add, wrong ones do not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from conformance import cases, judge
from ortlite import optimize, provider
from ortlite.ops import activation, conv, linalg, norm, pool, shape
from ortlite_numpy import CPUExecutionProvider

NAME = "PlantedExecutionProvider"


@pytest.fixture
def plant(monkeypatch):
    """A provider that is NumPy but for one operator: name -> the error of a case on it.

    Without rewrites, which would take the operator away.
    """
    monkeypatch.setattr(optimize, "PASSES", [step for step in optimize.PASSES if isinstance(step, optimize.Pass)])

    def planted(op, since, kernel):
        class Planted(CPUExecutionProvider):
            name = NAME
            overrides = {**CPUExecutionProvider().overrides, ("", op, since): kernel}  # noqa: RUF012

        known = provider._provider_class
        monkeypatch.setattr(provider, "_provider_class", lambda name: Planted if name == NAME else known(name))
        monkeypatch.setattr(provider, "usable", lambda: [NAME, CPUExecutionProvider.name])
        provider._shared.cache_clear()
        return lambda case: cases.run_case(case, NAME).error

    yield planted
    provider._shared.cache_clear()


def conv_(change):
    """Conv of changed X, W and B."""
    return lambda xp, X, W, B=None, **given: conv.conv(xp, *change(X, W, B), **given)


def gemm_(change):
    """Gemm of changed A, B and C, whose rows are added up."""

    def kernel(xp, A, B, C=None, *, transA=0, transB=0, **given):
        A, B = np.transpose(A) if transA else A, np.transpose(B) if transB else B
        A, B, C = change(A, B, C)
        return linalg.gemm(xp, A, B, C, **given)

    return kernel


def backwards(xp, X, W, B=None, *, group=1, **given):
    """Of every group the channels in reverse."""
    channels = np.arange(X.shape[1]).reshape(group, -1)[:, ::-1].reshape(-1)
    return conv.conv(xp, X[:, channels], W[:, ::-1], B, group=group, **given)


def in_float64(xp, X, W, B=None, **given):
    B = None if B is None else B.astype(np.float64)
    return conv.conv(xp, X.astype(np.float64), W.astype(np.float64), B, **given).astype(np.float32)


def in_two_blocks(xp, X, W, B=None, **given):
    """The terms of the even taps, then those of the odd ones."""
    even = np.arange(W[0].size).reshape(1, *W.shape[1:]) % 2 == 0
    zero = np.float32(0)
    return conv.conv(xp, X, np.where(even, W, zero), B, **given) + conv.conv(xp, X, np.where(even, zero, W), **given)


def in_two_orders(xp, X, W, B=None, **given):
    """The last channels differ by roundings, as where they are added up in another order: vector lanes end before.

    By eight: BLAS's own order makes one or two of either sign, which depends on the processor.
    """
    y = np.copy(conv.conv(xp, X, W, B, **given))
    y[:, -3:] *= np.float32(1 + 2.0**-20)
    return y


def one_by_one(xp, A, B, C=None, *, transA=0, transB=0, **given):
    """The worst order: a running sum in float32, whose error grows with every term; backwards for the last channels."""
    A, B = np.transpose(A) if transA else A, np.transpose(B) if transB else B
    total = np.zeros((A.shape[0], B.shape[1]), np.float32)
    for k in range(len(B)):
        total[:, :-3] += A[:, k, None] * B[k, :-3]
        total[:, -3:] += A[:, -1 - k, None] * B[-1 - k, -3:]
    return total if C is None else total + C


RIGHT = {
    "Conv: channels in reverse": ("Conv", 1, backwards),
    "Conv: in float64": ("Conv", 1, in_float64),
    "Conv: in two blocks": ("Conv", 1, in_two_blocks),
    "Conv: in two orders": ("Conv", 1, in_two_orders),
    "Gemm: rows in reverse": ("Gemm", 7, gemm_(lambda A, B, C: (A[:, ::-1], B[::-1], C))),
    "Gemm: one by one, in two orders": ("Gemm", 7, one_by_one),
}


def without_a_tap(X, W, B):
    W = np.copy(W)
    W[(slice(None), slice(None), *(-1 for _ in W.shape[2:]))] *= W[0, 0].size == 1
    return X, W, B


def one_less(X, W, B):
    """One channel of one tap."""
    W = np.copy(W)
    W[:, 1, 0, 0] = 0
    return X, W, B


def swapped(x, axis):
    order = np.arange(x.shape[axis])
    order[:2] = order[1::-1]
    return np.take(x, order, axis=axis)


def padded_late(xp, X, W, B=None, *, pads=(0, 0, 0, 0), **given):
    """One of the zeros before comes after."""
    top, left, bottom, right = pads
    moved = (max(top - 1, 0), left, bottom + (top > 0), right)
    return conv.conv(xp, X, W, B, pads=moved, **given)


def max_pool_early(xp, X, **given):
    """Every window a row too early."""
    return pool.max_pool(xp, np.roll(X, 1, axis=2), **given)


def average_pool(xp, X, *, n_outputs=1, storage_order=0, **given):
    return pool.average_pool(xp, X, **given), None


WRONG = {
    "Conv: a tap less": ("Conv", 1, conv_(without_a_tap)),
    "Conv: a channel of a tap less": ("Conv", 1, conv_(one_less)),
    "Conv: no bias": ("Conv", 1, conv_(lambda X, W, B: (X, W, None))),
    "Conv: swapped channels of X": ("Conv", 1, conv_(lambda X, W, B: (swapped(X, 1), W, B))),
    "Conv: swapped channels of the result": ("Conv", 1, lambda *args, **given: swapped(conv.conv(*args, **given), 1)),
    "Conv: pads at the wrong end": ("Conv", 1, padded_late),
    "Relu: none": ("Relu", 1, lambda xp, X: X),
    "Relu: of the magnitude": ("Relu", 1, lambda xp, X: np.abs(X)),
    "Relu: leaky": ("Relu", 1, activation.leaky_relu),
    "MaxPool: a row early": ("MaxPool", 1, max_pool_early),
    "MaxPool: of the average": ("MaxPool", 1, average_pool),
    "MaxPool: of the least": ("MaxPool", 1, lambda xp, X, **given: (-pool.max_pool(xp, -X, **given)[0], None)),
    "Concat: the other way round": ("Concat", 4, lambda xp, *inputs, axis: shape.concat(xp, *inputs[::-1], axis=axis)),
    "Gemm: no bias": ("Gemm", 7, gemm_(lambda A, B, C: (A, B, None))),
    "Gemm: a row less": ("Gemm", 7, gemm_(lambda A, B, C: (A[:, 1:], B[1:], C))),
    "Gemm: swapped rows": ("Gemm", 7, gemm_(lambda A, B, C: (swapped(A, 1), B, C))),
    "BatchNormalization: no mean": (
        "BatchNormalization",
        7,
        lambda xp, X, scale, B, mean, var, **given: norm.batch_normalization_7(xp, X, scale, B, 0 * mean, var, **given),
    ),
    "AveragePool: zeros count": (
        "AveragePool",
        1,
        lambda *args, **given: pool.average_pool(*args, **given | {"count_include_pad": 1}),
    ),
    "GlobalAveragePool: of the maximum": ("GlobalAveragePool", 1, lambda xp, X: np.max(X, axis=(2, 3), keepdims=True)),
    "Softmax: twice": ("Softmax", 1, lambda xp, x, **given: activation.softmax_1(xp, activation.softmax_1(xp, x))),
}


def model_for(op):
    """A quick model that has the operator."""
    without = {"Gemm", "BatchNormalization", "AveragePool"}  # test_squeezenet has none of them
    return "test_inception_v1" if op == "AveragePool" else "test_resnet50" if op in without else "test_squeezenet"


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_kernel_passes(plant, name):
    op, since, kernel = RIGHT[name]
    assert not plant(op, since, kernel)(model_for(op))


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_kernel_does_not(plant, name):
    op, since, kernel = WRONG[name]
    assert plant(op, since, kernel)(model_for(op)).startswith("AssertionError")


def test_the_first_rule_is_needed(plant, monkeypatch):
    """The suite's own values let a wrong kernel pass: this is why the model runs with drawn weights."""
    monkeypatch.setattr(judge, "assert_agrees", lambda *args: None)
    assert not plant(*WRONG["Conv: swapped channels of X"])("test_squeezenet")


def test_the_second_rule_is_needed(plant, monkeypatch):
    """A right kernel misses the suite's own values, as long as roundings do not count."""
    monkeypatch.setattr(judge, "rounded", lambda model: model)
    assert "Not equal" in plant(*RIGHT["Conv: in two orders"])("test_squeezenet")


def test_an_answer_that_stays_is_wrong(plant, monkeypatch):
    """What misses the suite's own values and does not move with the last bits is no matter of rounding."""
    monkeypatch.setattr(judge, "assert_agrees", lambda *args: None)
    assert "Not equal" in plant("Softmax", 1, lambda xp, x, **given: x * 0)("test_squeezenet")


def test_other_models_have_all_their_weights():
    without = {name for name, (_, case) in cases.load_cases().items() if judge.left_out(cases.case_model(case))}
    assert without == judge.expected().keys()
    assert {cases.load_cases()[name][0] for name in without} == {"real"}


def test_only_weights_change():
    model = parser.parse_model("""<ir_version: 8, opset_import: ["": 9]> g (float[2, 3] x) => (float[2, 2] y)
    <int64[2] s = {3, 2}, int64[1] one = {1}>
    { w = ConstantOfShape<value = float[1] {0.5}>(s)
      b = ConstantOfShape<value = float[1] {0.25}>(one)
      z = MatMul(x, w)
      y = Add(z, b) }""")
    assert judge.left_out(model) == {"w": ([3, 2], 0.5)}
    for change, low, high in ((judge.drawn, 0.01, 1.6), (judge.rounded, 0, 2e-5)):
        changed = change(model)
        onnx.checker.check_model(changed)
        assert [n.op_type for n in changed.graph.node] == ["ConstantOfShape", "MatMul", "Add"]
        weights = numpy_helper.to_array(changed.graph.initializer[-1])
        assert weights.shape == (3, 2)
        assert weights.dtype == np.float32
        assert len(np.unique(weights)) > 3
        assert low < np.max(np.abs(weights - 0.5)) < high


def test_expected_answers_are_onnxruntimes(monkeypatch, tmp_path):
    answers = pytest.importorskip("conformance.answers", exc_type=ImportError)
    monkeypatch.setattr(answers, "FILE", tmp_path / "drawn_weights.npz")
    wanted = judge.expected()
    some = ("test_squeezenet", "test_shufflenet", "test_abs")
    chosen = {name: cases.load_cases()[name] for name in some}
    monkeypatch.setattr(answers, "load_cases", lambda: chosen)
    answers.main()
    with np.load(answers.FILE) as made:
        assert set(made) == set(some[:2])
        for name, answer in made.items():
            np.testing.assert_allclose(answer, wanted[name], 1e-4, 1e-5)
