"""CUDA graphs, without a GPU: captures and replays are played by tests/sham_graphs.py, on the CPU's tensors."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ortlite
from benchmarks.gpu import line
from ortlite import provider as providers
from ortlite.errors import Fail
from ortlite.provider import create
from tests.test_properties import agree, alone, feeds, models

torch = pytest.importorskip("torch")
from ortlite_torch import TorchExecutionProvider, graphs  # noqa: E402
from ortlite_torch import cuda as borders  # noqa: E402
from tests.sham_graphs import Cuda, CUDAGraph  # noqa: E402

CPU = torch.device("cpu")
W = torch.arange(9.0).reshape(3, 3) / 8


@pytest.fixture
def cuda(monkeypatch):
    found = Cuda()
    monkeypatch.setattr(graphs, "cuda", found)
    monkeypatch.setattr(CUDAGraph, "made", [])
    return found


def layer(x, w):
    y = x @ w
    return torch.relu(y - 1), y.T


def captured(fn=layer, constants=None):
    return graphs.Graphs(CPU).frozen(fn, {1: W} if constants is None else constants)


def same(found, wanted):
    assert isinstance(found, tuple)
    for y, z in zip(found, wanted, strict=True):
        torch.testing.assert_close(y, z, rtol=0, atol=0)


def test_every_call_computes_on_its_own_inputs(cuda):
    fn, kept = captured(), []
    with torch.no_grad():
        for i in range(5):
            x = torch.full((2, 3), float(i))
            x[0] = i / 3
            kept.append((x, fn(x)))
        for x, found in kept:  # no later call has written to what an earlier one gave
            same(found, layer(x, W))
    (graph,) = CUDAGraph.made
    assert graph.replays == 5


@pytest.mark.parametrize("view", [lambda x: x.T, lambda x: x[:1].expand(3, 3), lambda x: x[:, ::2].repeat(1, 2)[:, :3]])
def test_inputs_may_lie_in_memory_in_any_way(cuda, view):
    fn = captured()
    with torch.no_grad():
        for i in range(3):
            for x in (view(torch.arange(9.0).reshape(3, 3) + i), torch.arange(9.0).reshape(3, 3) * i):
                same(fn(x), layer(x, W))
    assert len(CUDAGraph.made) == 1


def test_a_graph_has_a_workspace_of_its_own(cuda, monkeypatch):
    """Two that share one, replayed on two streams at once, would write over each other's products."""
    log = []
    capture = cuda.graph
    monkeypatch.setattr(graphs, "_drop_workspaces", lambda: log.append("dropped"))
    monkeypatch.setattr(cuda, "graph", lambda *given, **words: log.append("captured") or capture(*given, **words))
    fn = captured()
    with torch.no_grad():
        for _ in range(2):
            fn(torch.ones(2, 3))
    assert log == ["dropped", "captured", "dropped"]


def test_another_shape_or_dtype_runs_kernel_by_kernel(cuda):
    fn = captured(lambda x, w: (x * 2,))
    with torch.no_grad():
        for x in (torch.ones(2, 3), torch.ones(1, 3), torch.ones(()), torch.ones(2, 3, dtype=torch.int64)):
            same(fn(x), (x * 2,))
    assert [graph.replays for graph in CUDAGraph.made] == [1]


def test_who_takes_derivatives_gets_them(cuda):
    fn, x = captured(), torch.ones(2, 3, requires_grad=True)
    with torch.no_grad():
        same(fn(x), layer(x, W))
    fn(x)[1].sum().backward()
    torch.testing.assert_close(x.grad, W.sum(1).expand(2, 3))
    mapped = torch.func.vmap(lambda row: fn(row[None])[1])(torch.ones(4, 3))
    torch.testing.assert_close(mapped[:, :, 0], (torch.ones(4, 3) @ W))
    assert len(CUDAGraph.made) == 1


def test_within_the_callers_own_capture_nothing_is_captured(cuda):
    fn, x = captured(), torch.ones(2, 3)
    cuda.capturing = True
    with torch.no_grad():
        same(fn(x), layer(x, W))
    assert CUDAGraph.made == []


@pytest.mark.parametrize(
    ("fn", "why"),
    [
        (lambda x, w: (x * float(x.sum()),), "operation not permitted when stream is capturing"),
        (lambda x, w: (x[x > 0],), "operation not permitted when stream is capturing"),
        (lambda x, w: ((x, x),), "a result is no tensor"),
    ],
)
def test_what_cannot_be_captured_is_said_once_and_runs(cuda, caplog, fn, why):
    made = captured(fn)
    before = cuda.now
    with torch.no_grad():
        for i in range(3):
            x = torch.ones(2, 3) + i
            torch.testing.assert_close(made(x), fn(x, W))
    assert CUDAGraph.made == [] or why.startswith("a result")
    (record,) = [r for r in caplog.records if "enable_cuda_graph" in r.getMessage()]
    assert why in record.getMessage()
    assert cuda.now is before
    assert cuda.now.waited  # for the stream of the capture


def test_an_error_of_the_region_is_the_callers(cuda):
    with torch.no_grad(), pytest.raises(ValueError, match="of its own"):
        captured(lambda x, w: (_ for _ in ()).throw(ValueError("of its own")))(torch.ones(2, 3))


def test_a_call_waits_for_the_one_before_on_whatever_stream(cuda):
    fn, first = captured(), cuda.now
    with torch.no_grad():
        fn(torch.ones(2, 3))
        second = cuda.Stream()
        with cuda.stream(second):
            same(fn(torch.ones(2, 3) * 2), layer(torch.ones(2, 3) * 2, W))
    assert second.waited == [first]
    assert len(first.waited) == 2  # for the stream of the capture, before the copies, and after it
    with torch.no_grad():
        fn(torch.ones(2, 3))
    assert first.waited[-1] is second


def test_threads_get_answers_of_their_own(cuda):
    fn, wrong = captured(), []

    def work(start):
        with torch.no_grad():
            for i in range(50):
                x = torch.full((2, 3), float(start + i))
                if not torch.equal(fn(x)[0], layer(x, W)[0]):
                    wrong.append(start + i)

    threads = [threading.Thread(target=work, args=(i * 100,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(CUDAGraph.made) == 1


def test_a_region_may_be_compiled_first(cuda):
    seen = []

    class Inner(graphs.Compiler):
        freezes = True

        def frozen(self, fn, constants):
            seen.append(sorted(constants))
            return lambda x: fn(x, constants[1])

    fn = graphs.Graphs(CPU, Inner()).frozen(layer, {1: W})
    with torch.no_grad():
        same(fn(torch.ones(2, 3)), layer(torch.ones(2, 3), W))
    assert seen == [[1]]
    assert len(CUDAGraph.made) == 1


def test_drawn_models_replay_what_their_kernels_compute(cuda, monkeypatch):
    """On other inputs in every run; branches, loops and sequences among the nodes."""
    name = "TorchExecutionProvider"

    class OnGraphs(TorchExecutionProvider):
        compiler = graphs.Graphs(CPU)

    known = providers._provider_class
    monkeypatch.setattr(providers, "_provider_class", lambda asked: OnGraphs if asked == name else known(asked))
    providers._shared.cache_clear()

    @given(drawn=models(), seed=st.integers(0, 99))
    @settings(max_examples=40)
    def check(drawn, seed):
        model, _ = drawn
        judge, session = alone(model), ortlite.InferenceSession(model, providers=[name])
        for other in range(5):
            agree(session.run(None, feeds(seed + other)), judge.run(None, feeds(seed + other)))

    try:
        check()
    finally:
        providers._shared.cache_clear()
    assert sum(graph.replays > 2 for graph in CUDAGraph.made) > 20


# the options


@pytest.mark.parametrize("given", ["1", "True"])
def test_on_the_cpu_there_are_no_graphs(given):
    with pytest.raises(Fail, match="enable_cuda_graph of TorchExecutionProvider is for device='cuda'"):
        ortlite.InferenceSession(line(), providers=[("TorchExecutionProvider", {"enable_cuda_graph": given})])


@pytest.mark.parametrize("given", ["0", "False", "false"])
def test_onnxruntimes_ways_to_say_no(given):
    assert create("TorchExecutionProvider", {"enable_cuda_graph": given}).compiler is None


def test_a_device_has_them_for_who_asks():
    place = create("TorchExecutionProvider", {"device": "cuda:1", "enable_cuda_graph": "1"})
    assert isinstance(place.compiler, graphs.Graphs)
    assert place.compiler.device == torch.device("cuda:1")
    assert place.compiler.eager
    both = create("TorchExecutionProvider", {"device": "cuda:1", "enable_cuda_graph": "1", "compile": "1"})
    assert both.compiler.inner.freezes
    assert create("TorchExecutionProvider", {"device": "cuda:1"}).compiler is None


@pytest.mark.parametrize(("options", "short"), [({}, False), ({"use_tf32": "1"}, True)])
def test_a_run_sets_torch_up_and_leaves_it_as_it_was(monkeypatch, options, short):
    entered = []
    monkeypatch.setattr(torch.cuda, "device", lambda d: entered.append(d) or torch.no_grad())
    products, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.fp32_precision, cudnn.allow_tf32, cudnn.benchmark
    place = create("TorchExecutionProvider", {"device": "cuda:1", **options})
    with place.context():
        assert products.fp32_precision == ("tf32" if short else "ieee")
        assert cudnn.allow_tf32 is short
        assert cudnn.benchmark is before[2]
    assert (products.fp32_precision, cudnn.allow_tf32, cudnn.benchmark) == before
    assert entered == [torch.device("cuda:1")]
    for asked, tries in (("EXHAUSTIVE", True), ("HEURISTIC", False), ("DEFAULT", False)):
        with create("TorchExecutionProvider", {"device": "cuda:1", "cudnn_conv_algo_search": asked}).context():
            assert cudnn.benchmark is tries
    assert cudnn.benchmark is before[2]
    with pytest.raises(KeyError), place.context():
        raise KeyError
    assert products.fp32_precision == before[0]


@pytest.mark.parametrize("asked", ["fp32_precision", "cudnn.conv.fp32_precision", "cuda.matmul.fp32_precision"])
def test_what_a_user_asked_for_in_torchs_newer_way_is_no_error(asked):
    """Torch tells no setting of which it was told a part in the newer way; and in this process it could not go back."""
    code = f"""
import contextlib, torch
from ortlite.provider import create
torch.cuda.device = lambda device: contextlib.nullcontext()
torch.backends.{asked} = "ieee"
parts = torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn
before = [part.fp32_precision for part in parts]
for short, wanted in (("0", "ieee"), ("1", "tf32")):
    with create("TorchExecutionProvider", {{"device": "cuda:1", "use_tf32": short}}).context():
        assert [part.fp32_precision for part in parts] == [wanted] * 3
    assert [part.fp32_precision for part in parts] == before
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# copies


class Crossing:
    """A tensor that says how it was copied."""

    is_cuda = True

    def __init__(self, nbytes, log):
        self.nbytes, self.log, self.device = nbytes, log, "cuda:1"

    def copy_(self, other, non_blocking=False):
        self.log.append(("written", non_blocking))
        return self

    def to(self, device, non_blocking=False):
        self.log.append(("sent", str(device), non_blocking))
        return self

    def cpu(self):
        self.log.append("fetched")
        return self


def test_what_crosses_goes_through_pinned_memory(monkeypatch):
    log = []

    def empty_like(x, device=None, pin_memory=False):
        log.append(("taken", device, pin_memory))
        return Crossing(x.nbytes, log)

    class Stream:
        def synchronize(self):
            log.append("waited")

    monkeypatch.setattr(torch, "empty_like", empty_like)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: log.append(("stream of", device)) or Stream())
    there = torch.device("cuda:1")
    borders.sent(Crossing(100, log), there)
    assert log == [("taken", None, True), ("written", False), ("sent", "cuda:1", True)]
    log.clear()
    borders.fetched(Crossing(100, log))
    assert log == [("taken", "cpu", True), ("written", True), ("stream of", "cuda:1"), "waited"]
    log.clear()
    borders.sent(Crossing(borders.PINNED + 1, log), there)
    borders.fetched(Crossing(borders.PINNED + 1, log))
    assert log == [("sent", "cuda:1", False), "fetched"]
