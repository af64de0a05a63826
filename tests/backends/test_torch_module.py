"""A model as a torch.nn.Module: names, training, moving, saving, copying, compiling."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
from onnx import helper, numpy_helper, parser

import ortlite
from ortlite.cli import digits
from ortlite.errors import InvalidArgument

torch = pytest.importorskip("torch")
Module = pytest.importorskip("ortlite_torch").Module

SCANS, LABELS = (torch.from_numpy(v) for v in digits.scans())


def cost(module):
    return torch.nn.functional.nll_loss(module(SCANS).clamp_min(1e-12).log(), LABELS.long())


def blurred():
    """The digits model with noise on its parameters, so that there is something to learn."""
    module = Module(digits.model_bytes())
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=noise))
    return module


class Net(torch.nn.Module):
    """What an exporter would have seen."""

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Conv1d(2, 3, 2), torch.nn.BatchNorm1d(3), torch.nn.Tanh())
        self.head = torch.nn.Linear(3, 2)

    def forward(self, x):
        return self.head(self.body(x).mean(-1))


def exported(net):
    """The model an exporter makes of a Net, its initializers under the names of the state dict."""
    state = {name: value.numpy() for name, value in net.state_dict().items() if "num_batches" not in name}
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "body.0.weight", "body.0.bias"], ["c"]),
        node("BatchNormalization", ["c", *(f"body.1.{n}" for n in ("weight", "bias", "running_mean", "running_var"))],
             ["n"]),
        node("Tanh", ["n"], ["t"]),
        node("ReduceMean", ["t", "axes"], ["m"], keepdims=0),
        node("Gemm", ["m", "head.weight", "head.bias"], ["y"], transB=1),
    ]  # fmt: skip
    weights = [numpy_helper.from_array(value, name) for name, value in state.items()]
    weights.append(numpy_helper.from_array(np.array([-1]), "axes"))
    x, y = (helper.make_tensor_value_info(name, 1, shape) for name, shape in (("x", ["N", 2, "L"]), ("y", ["N", 2])))
    graph = helper.make_graph(nodes, "net", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()


def test_parameters_have_their_onnx_names():
    module = Module(digits.model_bytes())
    assert {n: tuple(p.shape) for n, p in module.named_parameters()}["w2"] == (32, 16, 3, 3)
    assert sorted(dict(module.named_parameters())) == ["b1", "b2", "b3", "b4", "w1", "w2", "w3", "w4"]
    (expected,) = ortlite.InferenceSession(digits.model_bytes()).run(None, {"scan": SCANS.numpy()})
    torch.testing.assert_close(module(SCANS), torch.from_numpy(expected), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(module(scan=SCANS), module(SCANS))


def test_the_state_of_the_exported_model_loads():
    net, other = Net().eval(), Net().eval()
    other.body[1].running_mean.add_(0.3)
    module, x = Module(exported(net)), torch.randn(4, 2, 5)
    assert set(dict(module.named_buffers())) == {"body.1.running_mean", "body.1.running_var"}
    assert set(net.state_dict()) - set(module.state_dict()) == {"body.1.num_batches_tracked"}
    torch.testing.assert_close(module(x), net(x))
    module.load_state_dict(other.state_dict())
    torch.testing.assert_close(module(x), other(x))
    other.load_state_dict(module.state_dict(), strict=False)
    torch.testing.assert_close(module.body._modules["0"].weight, other.body[0].weight)


def test_names_that_torch_has_taken_get_an_underscore():
    text = """<ir_version: 8, opset_import: ["": 18]> g (float[2] x) => (float[2] y)
    <float[2] training = {1, 2}, float[2] z = {3, 4}> { s = Add(x, training)  y = Mul(s, z) }"""
    model = parser.parse_model(text)
    for old, new in (("training", "forward.type"), ("z", "forward..")):
        for node in model.graph.node:
            node.input[:] = [new if name == old else name for name in node.input]
        for initializer in model.graph.initializer:
            initializer.name = new if initializer.name == old else initializer.name
    module = Module(model.SerializeToString())
    assert sorted(module.state_dict()) == ["forward_._._", "forward_.type_"]
    assert module(torch.ones(2)).tolist() == [6, 12]


def test_training_lowers_the_loss_and_leaves_others_alone():
    module, untouched = blurred(), Module(digits.model_bytes())
    before, reference = cost(module).item(), cost(untouched).item()
    optimiser = torch.optim.SGD(module.parameters(), lr=0.05)
    for _ in range(10):
        optimiser.zero_grad()
        cost(module).backward()
        optimiser.step()
    assert cost(module).item() < before / 2
    assert cost(untouched).item() == cost(Module(digits.model_bytes())).item() == reference


def test_modes_and_functional_calls():
    module = Module(digits.model_bytes())
    expected = module(SCANS)
    assert module.eval().training is False
    assert module.train().training is True
    torch.testing.assert_close(module(SCANS), expected)
    zeros = {name: torch.zeros_like(value) for name, value in module.state_dict().items()}
    torch.testing.assert_close(torch.func.functional_call(module, zeros, (SCANS,)), torch.full((len(SCANS), 10), 0.1))


def test_parameters_may_be_narrower_than_the_model_computes_and_not_wider():
    module = Module(digits.model_bytes())
    expected = module(SCANS)
    for widen in (torch.nn.Module.double, lambda module: module.to(torch.float64)):
        with pytest.raises(InvalidArgument, match=r"computes '\w+' in torch.float32, and not in torch.float64"):
            widen(torch.nn.Sequential(module))
        assert {p.dtype for p in module.parameters()} == {torch.float32}
    with pytest.raises(InvalidArgument, match=r"is tensor\(float\), not tensor\(double\)"):
        module(SCANS.double())
    for narrow in (torch.nn.Module.half, torch.nn.Module.bfloat16):
        narrowed = narrow(Module(digits.model_bytes()))
        answer = narrowed(SCANS)
        assert answer.dtype == torch.float32
        torch.testing.assert_close(answer, narrowed.float()(SCANS))
        torch.testing.assert_close(answer, expected, atol=0.05, rtol=0.05)


def test_fake_tensors_have_no_memory_and_torch_does_not_warn_of_it():
    read = ortlite.function(digits.model_bytes())
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True) as mode, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(mode.from_tensor(SCANS)).shape == (len(SCANS), 10)


def test_saved_copied_and_pickled(tmp_path):
    module, fresh = blurred(), Module(digits.model_bytes())
    expected = module(SCANS)
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    fresh.load_state_dict(torch.load(io.BytesIO(file.getvalue())))
    (tmp_path / "digits.onnx").write_bytes(digits.model_bytes())
    from_path = Module(tmp_path / "digits.onnx")
    from_path.load_state_dict(module.state_dict())
    session = Module(ortlite.InferenceSession(digits.model_bytes()))
    session.load_state_dict(module.state_dict())
    for again in (fresh, from_path, session, copy.deepcopy(module), pickle.loads(pickle.dumps(from_path))):
        torch.testing.assert_close(again(SCANS), expected)
    twin = copy.deepcopy(module)
    with torch.no_grad():
        twin.b4.add_(1)
    torch.testing.assert_close(module(SCANS), expected)


@pytest.mark.filterwarnings("ignore")
def test_compiled():
    torch._dynamo.reset()
    module = blurred()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(SCANS), module(SCANS))
    cost(compiled).backward()
    grads = {name: p.grad.clone() for name, p in module.named_parameters()}
    module.zero_grad()
    cost(module).backward()
    for name, p in module.named_parameters():
        torch.testing.assert_close(p.grad, grads[name], rtol=1e-3, atol=1e-6)


def test_a_model_without_parameters():
    text = '<ir_version: 8, opset_import: ["": 18]> g (float[2] x) => (float[2] y) { y = Neg(x) }'
    module = Module(parser.parse_model(text).SerializeToString())
    assert not module.state_dict()
    assert module(torch.ones(2)).tolist() == [-1, -1]


def test_torch_comes_with_the_module_alone():
    code = "import sys, ortlite_torch, ortlite; ortlite.get_available_providers(); assert 'torch' not in sys.modules"
    code += "; from ortlite_torch import Module; assert 'torch' in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'Nope'"):
        sys.modules["ortlite_torch"].Nope  # noqa: B018
