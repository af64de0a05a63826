"""What torch does of a kernel, written into specialised programs: right for other values, layouts and derivatives."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import parser

import ortlite
from ortlite.provider import create

torch = pytest.importorskip("torch")
record = pytest.importorskip("ortlite_torch.record")
R = np.random.default_rng(0)
HEAD = '<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>\n'


def played(fn, *args, names=None, others=None):
    """The recording of `fn` of tensors, and what its lines give for `others`."""
    xp = create("TorchExecutionProvider").xp
    names = {i: f"q0_v{i}" for i, x in enumerate(args) if isinstance(x, torch.Tensor)} if names is None else names
    with torch.no_grad():
        found = record.recorded(fn, xp, args, {}, names, "q0_")
        if found is None or found.results is None:
            return found, None
        scope = dict(found.scope) | {name: (others or args)[i] for i, name in names.items()}
        text = [f"{target} = {line}" if target else line for target, line in found.lines]
        exec("\n".join([*text, f"result = ({', '.join(found.results)},)"]), scope)
    return found, scope["result"]


X, Y = torch.tensor([[1.0, -2, 3], [4, 5, -6]]), torch.tensor([[-1.0, 7, 0.5], [2, -3, 9]])
FLAG = torch.tensor([True, False])


def assembled(xp, x):
    y = x * 0
    y[0] = x[1]
    y.add_(x).mul_(2)
    y += x[:, :1]
    return y


FUNCTIONS = {
    "operators": lambda xp, x: (2 - x) / (x * x + 1.5) ** 2 + (-x).abs() - (x @ x.T)[:, :1],
    "slices": lambda xp, x: x[1:, 0:2] + x[:, 2:] + x[0, ..., :2] + x[None, :, ::2][0, :, :1] + x[..., -1:],
    "parts": lambda xp, x: torch.cat([*torch.unbind(x, 1), *x.split(1, 1)[0].reshape(2, 1).unbind(1)]),
    "places": lambda xp, x: x[:, torch.tensor([2, 0])] + torch.where(x > 0, x, 0.0)[:, 1:],
    "constants": lambda xp, x: x + torch.arange(3) * torch.ones(2, 1),
    "many constants": lambda xp, x: x + torch.zeros(300, 300)[:2, :3],
    "in place": assembled,
    "unused": lambda xp, x: torch.native_layer_norm(x, (3,), None, None, 1e-5)[0],
    "itself": lambda xp, x: (x, x.to(torch.float32), x.reshape(2, 3), None),
    "by name": lambda xp, x: torch.sum(input=x, dim=-1, keepdim=True),
    "not finite": lambda xp, x: torch.clamp(x, min=-float("inf"), max=float("nan")),
    "padded": lambda xp, x: torch.nn.functional.pad(x, [1, 0, 0, 2], value=-1.0),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_lines_give_what_the_function_gives_for_other_values(name):
    fn = FUNCTIONS[name]
    found, results = played(fn, X.clone(), others=[Y])
    wanted = fn(None, Y.clone())
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    assert found.results is not None
    for result, right in zip(results, wanted, strict=True):
        assert result is right is None or torch.equal(result.nan_to_num(99), right.nan_to_num(99))
    assert torch.equal(Y, torch.tensor([[-1.0, 7, 0.5], [2, -3, 9]]))


def test_what_is_not_used_is_left_out():
    found, _ = played(FUNCTIONS["unused"], X)
    assert len(found.lines) == 2  # the call, and the first of its results


def test_a_copy_stays_one():
    found, results = played(lambda xp, x: x.to(torch.float32, copy=True).add_(1), X.clone(), others=[Y.clone()])
    assert len(found.lines) == 2
    assert torch.equal(results[0], Y + 1)


@pytest.mark.parametrize(
    "fn",
    [
        lambda xp, x: x * 2 if x.sum() > 0 else x,
        lambda xp, x: x * float(x[0, 0]),
        lambda xp, x: x[x > 0],
        lambda xp, x: x[FLAG],
        lambda xp, x: x.nonzero(),
        lambda xp, x: torch.where(x > 0)[0],
        lambda xp, x: torch.from_numpy(np.asarray(x) + 1),
        lambda xp, x: torch.tensor(x.tolist()),
        lambda xp, x: x + torch.rand(3),
        lambda xp, x: x.add_(1),
        lambda xp, x: torch.zeros(3).add_(x[0]),
        lambda xp, x: torch.repeat_interleave(x, torch.tensor([1, 2]), 0),
        lambda xp, x: sum(x[0, i % 3] + i for i in range(record.LINES)),
    ],
)
def test_what_is_a_matter_of_values_is_not_recorded(fn):
    assert played(fn, X.clone())[0] is None


def test_a_decision_for_a_layout_is_noted():
    def fn(xp, x):
        return x.view(6) * 2 if x.is_contiguous() else x.T.reshape(6)

    assert played(fn, X)[0].layouts == ((0, (3, 1)),)
    assert played(lambda xp, x: x + 1, X)[0].layouts == ()


def test_another_kernel_is_asked_where_one_leaves_the_case():
    assert played(lambda xp, x: NotImplemented, X)[0].results is None


def session(text):
    return ortlite.InferenceSession(
        parser.parse_model(HEAD + text).SerializeToString(), providers=["TorchExecutionProvider"], fallback="error"
    )


def recorded_steps(found):
    return len(next(iter(found._whole.stages.program._signatures.entries.values())).kernels)


def test_a_session_goes_by_recordings_and_minds_layouts():
    ours = session(
        "g (float[2,3] x, int64[2] i) => (float[3,2] y, float[2,3] z) {"
        " t = Transpose(x) y = Softmax <axis = 0> (t) s = Sigmoid(x) z = Gather(s, i) }"
    )
    for _ in range(4):
        x, i = R.standard_normal((2, 3)).astype(np.float32), R.integers(-2, 2, 2)
        for given in (x, np.asfortranarray(x), np.repeat(x, 2, 1)[:, ::2]):
            y, z = ours.run(None, {"x": given, "i": i})
            np.testing.assert_allclose(y, np.exp(x.T) / np.exp(x.T).sum(0), rtol=1e-5)
            np.testing.assert_allclose(z, (1 / (1 + np.exp(-x)))[i], rtol=1e-5)
    assert recorded_steps(ours) == 4
    with pytest.raises(ortlite.capi.onnxruntime_pybind11_state.InvalidArgument, match=r"from -2 to 1"):
        ours.run(None, {"x": x, "i": np.array([0, 2])})


def test_a_result_that_nobody_reads_is_not_computed():
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>\n'
        "g (float[2,3] x, float[3] s) => (float[2,3] y) {"
        " y, m, i, t = com.microsoft.SkipSimplifiedLayerNormalization(x, x, s) }"
    )
    model.graph.node[0].output[1] = ""
    ours = ortlite.InferenceSession(model.SerializeToString(), providers=["TorchExecutionProvider"])
    feed = {"x": np.ones((2, 3), np.float32), "s": np.ones(3, np.float32)}
    for _ in range(3):
        np.testing.assert_allclose(ours.run(None, feed)[0], 1, rtol=1e-6)
    (entry,) = ours._whole.stages.program._signatures.entries.values()
    ((recording, _),) = entry.kernels.values()
    zeros = [name for name, value in recording.scope.items() if value is torch.zeros_like]
    assert zeros  # the kernel makes the mean, which nobody reads
    assert not set(zeros) & set(entry.function.source.__code__.co_names)


def test_a_view_of_a_constant_is_a_constant():
    w = torch.zeros(300, 300)
    found, _ = played(lambda xp, x: x + w.T[:2, :3], X)
    assert len(found.lines) == 1


@pytest.mark.parametrize("rows", [(np.nan, 0, 1), (np.inf, 1, 2), (0, 1, 2), (1e38, 1e38, 1)])
def test_attention_sees_values_that_torch_takes_for_masked(rows):
    text = (
        "g (float[1,1,2,3] q, float[1,1,2,3] k, float[1,1,2,3] v, float[2,2] m) => (float[1,1,2,3] y) {"
        " y = Attention(q, k, v, m) }"
    )
    model = parser.parse_model('<ir_version: 10, opset_import: ["": 23]>\n' + text).SerializeToString()
    names = ("TorchExecutionProvider", "CPUExecutionProvider")
    both = [ortlite.InferenceSession(model, providers=[name]) for name in names]
    for place in ("q", "k", "v"):
        for hidden in (0.0, -np.inf):
            feed = {name: np.ones((1, 1, 2, 3), np.float32) for name in "qkv"}
            feed["m"] = np.array([[0, 0], [hidden, hidden]], np.float32)
            plain = dict(feed)
            feed[place] = feed[place] * np.array(rows, np.float32)
            for given in (plain, feed, feed, feed):
                ours, theirs = (s.run(None, given)[0] for s in both)
                np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def causal_attention(queries, keys):
    """A session on torch of two heads of queries that share one of keys and values, and a feed."""
    text = (
        f"g (float[1,2,{queries},4] q, float[1,1,{keys},4] k, float[1,1,{keys},4] v) => (float[1,2,{queries},4] y) {{"
        " y = Attention <is_causal = 1> (q, k, v) }"
    )
    source = parser.parse_model('<ir_version: 10, opset_import: ["": 23]>\n' + text)
    ours = ortlite.InferenceSession(source.SerializeToString(), providers=["TorchExecutionProvider"])
    feed = {
        name: R.standard_normal((1, 1 + (name == "q"), n, 4)).astype(np.float32)
        for name, n in zip("qkv", (queries, keys, keys), strict=True)
    }
    return ours, feed


@pytest.mark.parametrize(("queries", "keys"), [(2, 3), (2, 700), (3, 3), (40, 700), (600, 700), (5, 2)])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_causality_hides_are_multiplied_by_0(queries, keys, bad):
    ours, feed = causal_attention(queries, keys)
    feed["v"][0, 0, keys // 2, 1] = feed["v"][0, 0, -1, 2] = bad
    scores = np.where(np.tri(queries, keys, dtype=bool), feed["q"] @ feed["k"].swapaxes(2, 3) / 2, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    with np.errstate(invalid="ignore"):
        wanted = weights / weights.sum(-1, keepdims=True) @ feed["v"]
    for _ in range(3):
        np.testing.assert_allclose(ours.run(None, feed)[0], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("queries", "keys"), [(2, 3), (3, 3), (40, 70), (5, 2)])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_keys_that_causality_hides_count_by_their_scores(queries, keys, bad):
    """As the standard has it: -inf is added to the scores, so that NaN and infinity of them become NaN."""
    ours, feed = causal_attention(queries, keys)
    feed["k"][0, 0, -1, 1] = bad
    with np.errstate(invalid="ignore"):
        scores = feed["q"] @ feed["k"].swapaxes(2, 3) * np.float32(0.5)
        scores += np.where(np.tri(queries, keys, dtype=bool), np.float32(0), -np.float32(np.inf))
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        wanted = weights / weights.sum(-1, keepdims=True) @ feed["v"]
    for _ in range(3):
        np.testing.assert_allclose(ours.run(None, feed)[0], wanted, rtol=1e-4, atol=1e-5)


def test_a_function_that_ran_without_derivatives_has_them():
    model = parser.parse_model(HEAD + "g (float[2,3] x) => (float[2,3] y) { t = Sigmoid(x) y = Mul(t, x) }")
    fn = ortlite.function(model.SerializeToString())
    with torch.no_grad():
        for _ in range(4):
            fn(X)
    x = X.clone().requires_grad_()
    fn(x).sum().backward()
    s = torch.sigmoid(X)
    torch.testing.assert_close(x.grad, s + X * s * (1 - s))


def test_one_tensor_in_two_places_may_be_two_another_time():
    found, values = played(lambda xp, x, y: x - 2 * y, X, X, others=(X, Y))
    assert found is not None
    assert torch.equal(values[0], X - 2 * Y)
    graph = HEAD + "g (float[2,3] a, float[2,3] b) => (float[2,3] y) { y = Sub(a, b) }"
    session = ortlite.InferenceSession(
        parser.parse_model(graph).SerializeToString(), providers=["TorchExecutionProvider"]
    )
    for _ in range(3):
        session.run(None, {"a": X, "b": X})
    np.testing.assert_array_equal(session.run(None, {"a": X.numpy(), "b": Y.numpy()})[0], (X - Y).numpy())
