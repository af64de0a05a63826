"""Where a peer disagrees with the ONNX specification, each case with a reproducer that runs.

    python -m conformance.peer_bugs [--write]

Every row is run on the peer and on ortlite: the peer must still be wrong and ortlite right, or the row goes.
`--write` puts them into conformance/PEER_BUGS.md.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper
from onnx.reference import ReferenceEvaluator

import ortlite
from conformance import run_main
from conformance.dtypes import _type_of

HERE = Path(__file__).parent
F = np.float32


@dataclass(frozen=True)
class Bug:
    """One call that a peer answers wrongly. `expected` is the first output; `why` cites the specification.

    `seen_as` is the type to cast that output to, where the peer cannot hand it to Python as it is.
    """

    peer: str
    op_type: str
    opset: int
    inputs: tuple[Any, ...]
    attributes: dict[str, Any]
    expected: Any
    why: str
    domain: str = ""
    outputs: int = 1
    seen_as: int = 0


def text(*words: str) -> np.ndarray:
    result = np.empty(len(words), object)
    result[:] = words
    return result


ORT, REFERENCE = "onnxruntime", "onnx.reference"
ML = "ai.onnx.ml"
ONE = np.ones((1, 1, 2), F)
CAPPED = (np.ones((1, 1, 1, 1), F), np.array([[[[0], [9]]]], F), np.array([[[[0], [1]]]], F))
BUGS = [
    Bug(ORT, "Gather", 13, (np.array([["a", "b"], ["c", "d"]], object), np.array([1, 0])), {},
        np.array([["c", "d"], ["a", "b"]], object), "every element of a slice is gathered, not the first alone"),
    Bug(ORT, "LSTM", 14, (ONE * 0, np.zeros((1, 4, 2), F), np.zeros((1, 4, 1), F), None, None, None,
                          np.full((1, 1, 1), 9, F)), {"hidden_size": 1, "clip": 0.5},
        np.full((1, 1, 1, 1), 0.5 * np.tanh(0.5), F), "clip is applied to the input of activations, the last one too"),
    Bug(ORT, "LabelEncoder", 2, (np.array([np.nan], F),), {"keys_floats": [float("nan")], "values_int64s": [5]},
        np.array([5]), "keys are compared bit by bit, so that NaN is found", ML),
    Bug(ORT, "MaxUnpool", 11, (np.array([[[[5, 6], [7, 8]]]], F), np.array([[[[5, 7], [13, 15]]]]),
                               np.array([1, 1, 5, 5])), {"kernel_shape": [2, 2], "strides": [2, 2]},
        np.array([[[[0] * 5, [0, 5, 0, 6, 0], [0] * 5, [0, 7, 0, 8, 0], [0] * 5]]], F),
        "the case test_maxunpool_export_with_output_shape: indices count in the shape without output_shape"),
    Bug(ORT, "Resize", 19, (np.array([[[[1, 2, 3, 4], [5, 6, 7, 8]]]], F), None, np.array([1, 1, 0.6, 0.6], F)),
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"}, np.array([[[[1, 3.142857]]]], F),
        "the case test_resize_downsample_scales_linear_align_corners"),
    Bug(ORT, "ReduceProd", 13, (np.array([65536, 65537], np.int32),), {"axes": [0], "keepdims": 0},
        np.array(65536, np.int32), "int32 arithmetic, not float32 arithmetic that is cut off"),
    Bug(REFERENCE, "Unique", 11, (np.array([[2, 1, 1], [2, 1, 1], [4, 6, 6]], F),), {"axis": -1, "sorted": 0},
        np.array([[2, 1], [2, 1], [4, 6]], F), "a negative axis counts from the back"),
    Bug(ORT, "Attention", 24, (np.ones((1, 1, 1, 1), F), np.ones((1, 1, 2, 1), F), np.array([[[[1], [3]]]], F),
                               np.ones((1, 2), np.uint8)), {"is_causal": 1}, np.ones((1, 1, 1, 1), F),
        "query 0 sees key 0 alone also beside a mask of uint8 (is_causal and windows are ignored)"),
    *(Bug(peer, "Attention", 24, CAPPED, {"softcap": -1.0}, F([[[[1 / (1 + np.exp(-1))]]]]),
          "softcap * tanh(logits / softcap) but for 0: the operator's function caps below 0, too")
      for peer in (ORT, REFERENCE)),
    Bug(ORT, "Cast", 19, (np.array([61441, 1e6], F),), {"to": onnx.TensorProto.FLOAT8E5M2, "saturate": 0},
        np.array([np.inf, np.inf], F), "what rounds beyond the largest float8e5m2 is infinite (1e6 is, 61441 is not)",
        seen_as=onnx.TensorProto.FLOAT),
    Bug(REFERENCE, "Softmax", 11, (np.zeros((1, 2, 2), F),), {"axis": 1}, np.full((1, 2, 2), 0.25, F),
        "below opset 13, softmax is over all axes from axis on"),
    Bug(REFERENCE, "BatchNormalization", 9, (np.ones((1, 1, 2), F) * 4, *(np.array([v], F) for v in (1, 0, 2, 4))),
        {"epsilon": 0.0}, np.ones((1, 1, 2), F), "opset 9 normalises by the given mean and variance"),
    Bug(REFERENCE, "CenterCropPad", 18, (text("a"), np.array([3])), {}, text("", "a", ""),
        "strings are padded with the empty string, not with the number 0"),
    Bug(REFERENCE, "OneHot", 11, (np.array([0]), np.array(1.5, F), np.array([0, 1], F)), {}, np.array([[1]], F),
        "a depth that is no integer is cast to int64"),
    Bug(REFERENCE, "GridSample", 20, (np.array([[[[2, 4], [6, 8]]]], np.uint8), np.zeros((1, 1, 1, 2), F)), {},
        np.array([[[[5]]]], np.uint8), "integers are interpolated as other numbers are"),
    Bug(REFERENCE, "LinearRegressor", 1, (np.array([[1, 1]]),), {"coefficients": [0.5, 0.25]},
        np.array([[0.75]], F), "the result is float32 also for integers", ML),
    Bug(REFERENCE, "DictVectorizer", 1, ({"a": 1.0},), {"string_vocabulary": ["a", "b"]}, np.array([[1, 0]], F),
        "one row, as onnxruntime and the converters have it", ML),
]  # fmt: skip


def model(bug: Bug) -> tuple[onnx.ModelProto, dict[str, Any]]:
    names = ["" if v is None else f"x{i}" for i, v in enumerate(bug.inputs)]
    node = helper.make_node(
        bug.op_type, names, [f"y{i}" for i in range(bug.outputs)], domain=bug.domain, **bug.attributes
    )
    nodes, results = [node], list(node.output)
    if bug.seen_as:
        nodes.append(helper.make_node("Cast", results[:1], ["seen"], to=bug.seen_as))
        results = ["seen"]
    feeds = {n: v for n, v in zip(names, bug.inputs, strict=True) if n}
    infos = [helper.make_value_info(n, _type_of(v)) for n, v in feeds.items()]
    graph = helper.make_graph(nodes, "bug", infos, [onnx.ValueInfoProto(name=o) for o in results])
    imports = [helper.make_opsetid("", 18 if bug.domain else bug.opset)]
    if bug.domain:
        imports.append(helper.make_opsetid(bug.domain, bug.opset))
    return helper.make_model(graph, opset_imports=imports, ir_version=8), feeds


def answer(engine: str, bug: Bug) -> Any:
    """The first output, or the error."""
    proto, feeds = model(bug)
    try:
        if engine == REFERENCE:
            return ReferenceEvaluator(proto).run(None, feeds)[0]
        module = onnxruntime if engine == ORT else ortlite
        return module.InferenceSession(proto.SerializeToString()).run(None, feeds)[0]
    except Exception as error:  # noqa: BLE001
        return f"{type(error).__name__}: {str(error)[:80]}"


def same(a: Any, b: Any) -> bool:
    if isinstance(a, str) or isinstance(b, str) or np.shape(a) != np.shape(b):
        return False
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype != b.dtype:
        return False
    return bool((a == b).all()) if a.dtype.kind != "f" else bool(np.allclose(a, b, rtol=1e-4))


def shown(value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"`{' '.join(np.array2string(np.asarray(value), threshold=12).split())}`"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m conformance.peer_bugs", description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true", help="put the table into conformance/PEER_BUGS.md")
    args = parser.parse_args()
    onnxruntime.set_default_logger_severity(4)
    versions = f"onnx {version('onnx')}, onnxruntime {version('onnxruntime')}"
    lines = [
        "# Where peers are wrong",
        "",
        f"Made by `python -m conformance.peer_bugs --write` with {versions}, which has the reproducers.",
        "",
        "| peer | operator | gives | right | because |",
        "|---|---|---|---|---|",
    ]
    wrong = 0
    for bug in BUGS:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            theirs, ours = answer(bug.peer, bug), answer("ortlite", bug)
        name = f"{bug.domain or 'ai.onnx'}::{bug.op_type}-{bug.opset}"
        if same(theirs, bug.expected):
            print(f"{bug.peer} is right now: {name}", file=sys.stderr)
            wrong += 1
        if not same(ours, bug.expected):
            print(f"ortlite is wrong: {name} gives {ours}", file=sys.stderr)
            wrong += 1
        lines.append(f"| {bug.peer} | {name} | {shown(theirs)} | {shown(bug.expected)} | {bug.why} |")
    print(f"{len(BUGS)} rows, {wrong} not as they say", file=sys.stderr)
    if args.write:
        (HERE / "PEER_BUGS.md").write_text("\n".join(lines) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    run_main(main)
