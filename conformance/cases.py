"""The cases of the ONNX backend suite, and how one is run on a provider."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test import loader
from onnx.backend.test.runner import Runner

import ortlite
from conformance import judge
from ortlite.provider import CPU, create

__all__ = ["KINDS", "Result", "by_steps", "case_model", "data_sets", "load_cases", "run_case"]

KINDS = ("node", "simple", "real", "pytorch-converted", "pytorch-operator")
RUNS = 3  # of a session: the last one is specialised, whatever the provider
DRAWN = "training_dropout"  # what such cases expect is one draw, the first
# Types array libraries other than NumPy lack; a case on them says nothing about a provider's kernels.
NARROW = ("float16", "bfloat16", "float8", "float6", "float4", "int4", "int2", "uint4", "uint2", "string")


@dataclass(frozen=True, slots=True)
class Result:
    """How one case went. `fallbacks` counts (operator, reason) of nodes that did not run on the first provider."""

    name: str
    kind: str
    error: str = ""
    seconds: float = 0.0
    fallbacks: dict[tuple[str, str], int] = field(default_factory=dict)
    numeric: bool = True


@cache
def load_cases() -> dict[str, Any]:
    """Every case of the installed onnx, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the generators of the suite's own data overflow and divide by zero
        return {case.name: (kind, case) for kind in KINDS for case in loader.load_model_tests(kind=kind)}


def case_model(case: Any) -> onnx.ModelProto:
    """The model of a case."""
    if case.model is not None:
        return case.model
    return onnx.load(_light(case) if case.model_dir is None else Path(case.model_dir) / "model.onnx")


def _light(case: Any) -> Path:
    """The "real" models come inside onnx, without weights worth the name."""
    return Path(onnx.__file__).parent.parent / case.url


def data_sets(case: Any, model: onnx.ModelProto) -> list[tuple[list[Any], list[Any]]]:
    """The inputs and expected outputs of a case, data set by data set."""
    if case.data_sets is None and case.model_dir is None:
        weights = {t.name for t in model.graph.initializer}
        infos = [i for i in model.graph.input if i.name not in weights]
        inputs = [Runner.generate_dummy_data(i, seed=0, name=case.model_name, random=False) for i in infos]
        stem = _light(case).with_suffix("")
        outputs = [_read(Path(f"{stem}_output_{i}.pb"), o.type) for i, o in enumerate(model.graph.output)]
        return [(inputs, outputs)]
    if case.data_sets is not None:
        return [(list(inputs), list(outputs)) for inputs, outputs in case.data_sets]
    sets = []
    for folder in sorted(Path(case.model_dir).glob("test_data_set_*")):
        columns = []
        for word, infos in (("input", model.graph.input), ("output", model.graph.output)):
            count = len(list(folder.glob(f"{word}_*.pb")))
            columns.append([_read(folder / f"{word}_{i}.pb", infos[i].type) for i in range(count)])
        sets.append((columns[0], columns[1]))
    return sets


def _read(path: Path, declared: onnx.TypeProto) -> Any:
    """One stored value. Which message a file holds only the model's type tells."""
    kind = declared.WhichOneof("value")
    if kind == "sequence_type":
        return numpy_helper.to_list(onnx.SequenceProto.FromString(path.read_bytes()))
    if kind == "optional_type":
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(path.read_bytes()))
    return numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes()))


def _array(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.generic) else value


def _assert_similar(expected: list[Any], actual: list[Any], rtol: float, atol: float) -> None:
    """The suite's own comparison, which cannot compare scalars within a sequence: sequences are opened here."""
    assert len(actual) == len(expected), f"{len(actual)} values, expected {len(expected)}"
    for wanted, got in zip(expected, actual, strict=True):
        if isinstance(wanted, list):
            assert isinstance(got, list), f"expected a sequence, got {type(got).__name__}"
            _assert_similar(wanted, got, rtol, atol)
        else:
            Runner.assert_similar_outputs([wanted], [got], rtol=rtol, atol=atol)


def _similar(one: list[Any], other: list[Any], case: Any) -> bool:
    try:
        _assert_similar(one, other, case.rtol, case.atol)
    except AssertionError:
        return False
    return True


def by_steps(provider: str) -> bool:
    """Whether step by step a provider runs the calls of its library; one that compiles would compile each of them."""
    compiler = create(provider).compiler
    return compiler is None or compiler.eager


def run_case(name: str, provider: str, *, steps: bool | None = None, runs: int = RUNS) -> Result:
    """Run one case; the result's `error` is empty when every output agrees with the suite's.

    In a session as users make it: the first of its `runs` is interpreted, or compiled by the provider's library, and
    those after it are specialised. With `steps`, by default `by_steps`, in another one, too, that runs step by step and
    checks the dtype of every value.
    """
    kind, case = load_cases()[name]
    start = perf_counter()
    fallbacks: Counter[tuple[str, str]] = Counter()
    numeric = True
    error = ""

    def prepared(model: onnx.ModelProto, check_types: str = "0") -> ortlite.InferenceSession:
        options = ortlite.SessionOptions()
        options.add_session_config_entry("ortlite.check_types", check_types)
        return ortlite.InferenceSession(model.SerializeToString(), options, [provider], enable_fallback=0)

    try:
        model = case_model(case)
        session = prepared(model)
        explanation = session.explain()
        fallbacks.update(
            (n.op_type, n.reasons[0] if n.reasons else "") for n in explanation.nodes if n.reasons and not n.host
        )
        numeric = not any(word in str(session.stages.model.graph) for word in NARROW)
        weightless = bool(judge.left_out(model))
        steps = by_steps(provider) if steps is None else steps
        sessions = [session] * (1 if DRAWN in name or weightless else runs)
        sessions += [prepared(model, check_types="1")] if steps else []
        for inputs, expected in data_sets(case, model):
            names = [arg.name for arg in session.get_inputs()]
            feeds = dict(zip(names, map(_array, inputs), strict=False))
            wanted = [*map(_array, expected)]
            for each in sessions:
                actual = each.run(None, feeds)
                try:
                    _assert_similar(wanted, actual, case.rtol, case.atol)
                except AssertionError:
                    if not weightless or _similar(actual, prepared(judge.rounded(model)).run(None, feeds), case):
                        raise
            if weightless:
                drawn = prepared(judge.drawn(model))
                for _ in range(runs):
                    judge.assert_agrees(name, drawn.run(None, feeds)[0], case.rtol)
    except Exception as problem:  # noqa: BLE001  (a result, whatever it is)
        error = f"{type(problem).__name__}: {str(problem).strip()}"
    return Result(name, kind, error, perf_counter() - start, dict(fallbacks), numeric and provider != CPU)
