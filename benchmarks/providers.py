"""In which order should the libraries of the CPU stand? Times of a few models on each, and what a first answer takes.

    python -m benchmarks.providers [--processes N] [--write]

Every figure is the best of a few processes of its own; a library's import counts to its first answer. What it
finds is behind `rank` in backends/: `ortlite.get_available_providers()` lists the best first. `--write` puts the table
into benchmarks/PROVIDERS.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from statistics import geometric_mean

import numpy as np
from onnx import TensorProto, helper

from benchmarks import ROOT, compile_sources
from benchmarks.models import _Net
from conformance import run_main

PAGE = ROOT / "benchmarks" / "PROVIDERS.md"
QUIET = 1.0  # a load above this, and the figures are called preliminary
ALL = {
    "TorchExecutionProvider": "torch", "JAXExecutionProvider": "jax", "MLXExecutionProvider": "mlx",
    "CPUExecutionProvider": "numpy",
}  # fmt: skip
LIBRARIES = {provider: library for provider, library in ALL.items() if find_spec(library)}


def mlp(net):
    """Three dense layers of 512."""
    x = "x"
    for _ in range(3):
        x = net.op("Gemm", x, net.weight(512, 512, scale=0.05), net.weight(512))
        x = net.op("Relu", x)
    return x, ["n", 512], (32, 512)


def convolutions(net):
    """Six 3×3 convolutions, two of stride 2, and a mean."""
    x, channels = "x", 3
    for wide, stride in ((32, 1), (32, 1), (64, 2), (64, 1), (128, 2), (128, 1)):
        x, channels = net.conv(x, channels, wide, 3, stride), wide
    return net.op("GlobalAveragePool", x), ["n", 3, "h", "w"], (1, 3, 64, 64)


def transformer(net):
    """A block of 256 wide attention over one head, and its two dense layers."""
    x, d = "x", 256
    q, k, v = (net.op("MatMul", x, net.weight(d, d, scale=0.05)) for _ in range(3))
    scores = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1])), axis=-1)
    x = net.op("Add", x, net.op("MatMul", scores, v))
    x = net.op("LayerNormalization", x, net.weight(d), net.weight(d))
    hidden = net.op("Tanh", net.op("MatMul", x, net.weight(d, 4 * d, scale=0.05)))
    return net.op("Add", x, net.op("MatMul", hidden, net.weight(4 * d, d, scale=0.05))), ["n", "t", d], (1, 64, d)


def small(net):
    """Two hundred operators on eight numbers."""
    x = "x"
    for _ in range(100):
        x = net.op("Tanh", net.op("Add", x, net.weight(8)))
    return x, ["n", 8], (1, 8)


MODELS = {fn.__name__: fn for fn in (mlp, convolutions, transformer, small)}


def measure(provider: str, name: str, runs: int = 30) -> dict[str, float]:
    """Milliseconds of the first answer, of a later one, and of one to an input of a shape not seen before."""
    net = _Net()
    result, shape, given = MODELS[name](net)
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", shape), (result, None)))
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(helper.make_graph(net.nodes, name, [x], [y], net.weights), opset_imports=opsets)
    data, rng = model.SerializeToString(), np.random.default_rng(0)

    def once(*dims: int) -> float:
        feed = {"x": rng.standard_normal(dims).astype(np.float32)}
        start = time.perf_counter()
        session.run(None, feed)
        return (time.perf_counter() - start) * 1e3

    start = time.perf_counter()
    import ortlite

    session = ortlite.InferenceSession(data, providers=[provider])
    once(*given)
    first = (time.perf_counter() - start) * 1e3
    later = min(once(*given) for _ in range(runs))
    return {"first": first, "later": later, "new shape": min(once(n, *given[1:]) for n in range(2, 6))}


def page(processes: int) -> str:
    """The table as Markdown, with date, machine and versions."""
    from ortlite.cli.bars import working  # not where one model is measured
    from ortlite.progress import each

    load, found = os.getloadavg()[0], {}
    pairs = [(name, provider) for name in MODELS for provider in LIBRARIES]
    with working("processes"):
        for name, provider in each("processes", pairs):
            command = [sys.executable, "-m", "benchmarks.providers", "--measure", provider, name]
            rows = [json.loads(subprocess.check_output(command, cwd=ROOT, text=True)) for _ in range(processes)]
            found[name, provider] = {key: min(row[key] for row in rows) for key in rows[0]}
    load = max(load, os.getloadavg()[0] - 2)  # what is measured is load, too
    kinds = list(next(iter(found.values())))
    lines = ["# The order of the libraries on a CPU", "", *__doc__.split("\n\n")[2].splitlines(), ""]
    lines += [f"| model | provider | {' | '.join(f'{kind}, ms' for kind in kinds)} |", "|---|---|---:|---:|---:|"]
    for (name, provider), row in found.items():
        lines.append(f"| {name} | {provider} | {' | '.join(f'{row[kind]:.3g}' for kind in kinds)} |")
    for provider in LIBRARIES:
        means = (
            geometric_mean(found[n, provider][kind] / found[n, "CPUExecutionProvider"][kind] for n in MODELS)
            for kind in kinds
        )
        lines.append(f"| as many times NumPy's | {provider} | {' | '.join(f'{mean:.2f}' for mean in means)} |")
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES.values())
    where = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}"
    lines += ["", f"Best of {processes} processes, {datetime.now(UTC):%Y-%m-%d}, {where}, load {load:.1f}."]
    if load > QUIET:
        lines += [
            "**Preliminary**: other work ran on the machine at the same time (torch's waiting threads suffer most), so",
            "that the figures order nothing yet: run it again on a quiet machine.",
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.providers", description=__doc__.split("\n")[0])
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    parser.add_argument("--measure", nargs=2, metavar=("PROVIDER", "MODEL"), help="one figure, as JSON")
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(*args.measure)))
        return
    compile_sources()
    text = page(args.processes)
    print(text)
    if args.write:
        PAGE.write_text(text)


if __name__ == "__main__":
    run_main(main)
