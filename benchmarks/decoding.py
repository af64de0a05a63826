"""Time per token where a cache grows: every run of a sequence has new lengths.

    python -m benchmarks.decoding [MODEL ...] [--sequences N] [--tokens N] [--write]

MODEL is a decoder with a cache: its inputs of four axes are the past, and come back as the last outputs in the same
order or as `present…` of `past_key_values…`. The same sequence is decoded several times, in a process of its own for
each engine, on one thread; what JAX compiles runs on as many as it likes. A figure is processor time a token: of the
first sequence, whose lengths are all new, of the second, whose lengths come for the second time, and of the fastest.
`--write` puts the table into benchmarks/DECODING.md.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from conformance import run_main
from ortlite.cli.bars import working
from ortlite.progress import say

HERE = Path(__file__).parent
ENGINES: dict[str, Any] = {
    "onnxruntime": "CPUExecutionProvider",
    "NumPy": ("CPUExecutionProvider", {"compiled": "0"}),
    "NumPy [fast]": ("CPUExecutionProvider", {"compiled": "1"}),
    "Torch": "TorchExecutionProvider",
    "Torch compile=1": ("TorchExecutionProvider", {"compile": "1"}),
    "JAX": "JAXExecutionProvider",
}


def session(engine: str, model: str) -> Any:
    """A session on one thread."""
    if engine == "onnxruntime":
        import onnxruntime as ort
    else:
        import ortlite as ort
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(model, options, providers=[ENGINES[engine]])


def pairs(inputs: Any, outputs: Any) -> dict[str, str]:
    """The outputs that are the past of the next run, by input."""
    past, made = [i.name for i in inputs if len(i.shape) == 4], [o.name for o in outputs]
    named = {name: name.replace("past_key_values", "present") for name in past}
    return named if set(named.values()) <= set(made) else dict(zip(past, made[-len(past) :], strict=True))


def decode(session: Any, tokens: int) -> tuple[list[float], list[int]]:
    """Processor seconds of each run, and the tokens, the likeliest one each time."""
    inputs, made = session.get_inputs(), [o.name for o in session.get_outputs()]
    again, rng = pairs(inputs, session.get_outputs()), np.random.default_rng(0)
    feeds: dict[str, Any] = {}
    for value in inputs:
        if value.name in again:
            feeds[value.name] = np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32)
        elif value.name == "encoder_hidden_states":
            feeds[value.name] = rng.standard_normal((1, 1500, value.shape[2]), np.float32)
    seconds, said, token = [], [], np.array([[1]], np.int64)
    names = {value.name for value in inputs}
    for step in range(tokens):
        feeds["input_ids"] = token
        if "attention_mask" in names:
            feeds["attention_mask"] = np.ones((1, step + 1), np.int64)
        if "use_cache_branch" in names:
            feeds["use_cache_branch"] = np.array([step > 0])
        began = time.process_time()
        outputs = session.run(None, feeds)
        seconds.append(time.process_time() - began)
        found = dict(zip(made, outputs, strict=True))
        token = found["logits"][:, -1:].argmax(-1).astype(np.int64)
        said.append(int(token[0, 0]))
        for name, output in again.items():
            if step == 0 or "encoder" not in name:  # the encoder's part is made once
                feeds[name] = found[output]
    return seconds, said


def measure(engine: str, model: str, sequences: int, tokens: int) -> dict[str, Any]:
    """Milliseconds a token of each sequence, the first token left out: it reads what the others find in the cache."""
    one = session(engine, model)
    found = [decode(one, tokens) for _ in range(sequences)]
    return {
        "ms": [sum(seconds[1:]) / (tokens - 1) * 1e3 for seconds, _ in found],
        "said": found[0][1],
        "same": all(said == found[0][1] for _, said in found),
    }


def table(models: list[str], sequences: int, tokens: int) -> str:
    """A row for each engine and model."""
    lines = [
        "| Model | Engine | First sequence | Second | Fastest | Tokens as onnxruntime's |",
        "|---|---|--:|--:|--:|---|",
    ]
    for model in models:
        reference: list[int] = []
        for engine in ENGINES:
            say(f"{Path(model).stem}, {engine}")
            command = [sys.executable, "-m", "benchmarks.decoding", model, "--engine", engine]
            command += ["--sequences", str(sequences), "--tokens", str(tokens)]
            row = json.loads(subprocess.check_output(command, cwd=HERE.parent, text=True))
            reference = reference or row["said"]
            alike = sum(a == b for a, b in zip(row["said"], reference, strict=True))
            first, second, best = row["ms"][0], row["ms"][1], min(row["ms"])
            lines.append(
                f"| {Path(model).stem} | {engine} | {first:.1f} | {second:.1f} | {best:.1f} | {alike} of {tokens} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Print the table, or, for one engine, what was measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decoding", description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--engine", choices=ENGINES, help="measure this one, here, and print JSON")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    if args.sequences < 2 or args.tokens < 2:
        parser.error("at least two sequences of two tokens")
    if args.engine:
        print(json.dumps(measure(args.engine, args.models[0], args.sequences, args.tokens)))
        return
    with working("decoding"):
        found = table(args.models, args.sequences, args.tokens)
    print(found)
    if args.write:
        versions = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "numpy", "torch", "jax"))
        (HERE / "DECODING.md").write_text(
            f"# Decoding with a growing cache\n\nProcessor time in ms a token, {args.tokens} tokens a sequence, one "
            f"thread; `python -m benchmarks.decoding MODEL … --write`. {versions}, Python {platform.python_version()}, "
            f"{platform.machine()}.\n\n{found}\n"
        )


if __name__ == "__main__":
    run_main(main)
