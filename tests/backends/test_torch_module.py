"""ortlite_torch.Module: a model that PyTorch's own tools train, move, save and compile."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
from onnx import numpy_helper, parser

from ortlite.cli.digits import model_bytes, scans

torch = pytest.importorskip("torch")


def module():
    from ortlite_torch import Module

    return Module(model_bytes())


def batch():
    x, labels = scans()
    return torch.from_numpy(x.copy()), torch.from_numpy(labels.astype(np.int64))


def test_its_parameters_are_the_models():
    m = module()
    assert {name: tuple(p.shape) for name, p in m.named_parameters()}["w1"] == (16, 1, 3, 3)
    x, labels = batch()
    assert (m(x).argmax(1) == labels).float().mean() > 0.9


def test_names_with_dots_become_submodules_and_statistics_are_buffers():
    text = """<ir_version: 8, opset_import: ["": 18]> g (float[N, 2, 3] x) => (float[N, 2, 3] y)
        { y = BatchNormalization(x, weight, bias, running_mean, running_var) }"""
    proto = parser.parse_model(text)
    proto.graph.node[0].input[1:] = [f"bn.{name}" for name in proto.graph.node[0].input[1:]]
    proto.graph.initializer.extend(
        numpy_helper.from_array(np.array(v, np.float32), f"bn.{n}")
        for n, v in (("weight", [1, 2]), ("bias", [0, 1]), ("running_mean", [3, 4]), ("running_var", [1, 4]))
    )
    from ortlite_torch import Module

    m = Module(proto.SerializeToString())
    assert {name for name, _ in m.named_parameters()} == {"bn.weight", "bn.bias"}
    assert set(m.state_dict()) == {"bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"}
    peer = torch.nn.BatchNorm1d(2).eval()
    m.bn.load_state_dict(peer.state_dict(), strict=False)
    peer.load_state_dict(m.bn.state_dict(), strict=False)
    x = torch.randn(4, 2, 3)
    torch.testing.assert_close(m(x), peer(x))


def test_a_few_steps_lower_the_loss():
    m = module()
    x, labels = batch()
    with torch.no_grad():
        m.w4.mul_(0.1)
    optimiser = torch.optim.SGD(m.parameters(), lr=0.05)
    losses = []
    for _ in range(6):
        optimiser.zero_grad()
        loss = torch.nn.functional.nll_loss(torch.log(m(x)), labels)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(p.grad is not None for p in m.parameters())


def test_it_is_saved_copied_and_pickled():
    m, other = module(), module()
    with torch.no_grad():
        m.b4.add_(1)
    x, _ = batch()
    other.load_state_dict(m.state_dict())
    for again in (other, copy.deepcopy(m), pickle.loads(pickle.dumps(m))):
        torch.testing.assert_close(again(x), m(x))
    assert m.double().w1.dtype == torch.float64


@pytest.mark.filterwarnings("ignore")
def test_it_compiles_as_a_whole():
    m = module()
    x, _ = batch()
    compiled = torch.compile(m, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), m(x))
    compiled(x)[0, 0].backward()
    assert m.w1.grad.abs().sum() > 0


def test_the_provider_is_found_without_importing_torch():
    code = "import sys, ortlite, ortlite_torch; ortlite.get_available_providers(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
