"""The CPU provider answers at signatures that a library has compiled nothing for, where its calls would be compiled."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import parser

from ortlite import load, pipeline
from ortlite.errors import NotImplemented as NoKernel
from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array
from ortlite.ops.registry import local
from ortlite.provider import Compiler, create
from ortlite.signatures import AT_ONCE, Budget, Signatures
from ortlite.steady import lengthens
from ortlite_strict import StrictExecutionProvider

CPU = "CPUExecutionProvider"
HEAD = '<ir_version: 8, opset_import: ["": 20]> '
GROWS = (
    HEAD
    + "g (float[N] past, float[1] x) => (float[M] present, float[1] y) { present = Concat <axis = 0> (past, x)  "
    + ("s = ReduceSum <keepdims = 1> (present)  y = Sqrt(s) }")
)
HIDDEN = GROWS.replace("present = Concat <axis = 0> (past, x)", "p = Abs(past)  present = Concat <axis = 0> (p, x)")


class Compiling(StrictExecutionProvider):
    """array-api-strict with a compiler, which counts what it is given."""

    name = "Compiling"
    given = 0

    @property
    def compiler(self):
        return Counting(self)


class Counting(Compiler):
    stands_in = True

    def __init__(self, provider):
        self.provider = provider

    def compile(self, fn):
        self.provider.given += 1
        return fn


def build(text, provider, **options):
    proto = parser.parse_model(text)
    return pipeline.build(load.load(proto.SerializeToString()), [provider, create(CPU)], **options)


def grown(stages, provider, lengths):
    """What runs of these lengths give, each checked. To compile takes for ever: no time decides."""
    for n in lengths:
        stages.program._signatures.cost = 1e9
        past, x = np.arange(1, n + 1, dtype=np.float32), np.float32([5])
        present, y = stages.program([provider.from_numpy(past), provider.from_numpy(x)])
        np.testing.assert_array_equal(np.asarray(present), [*past, 5])
        np.testing.assert_allclose(np.asarray(y), [np.sqrt(n * (n + 1) / 2 + 5)], rtol=1e-6)


@pytest.mark.parametrize(("text", "compiled"), [(GROWS, 0), (HIDDEN, 1)])
def test_a_cache_that_grows_compiles_nothing_more(text, compiled):
    provider = Compiling()
    stages = build(text, provider)
    for _ in range(3):
        grown(stages, provider, range(1, 30))
    assert provider.given == compiled
    assert stages.program.stand_in.runs == 3 * (29 - compiled)


@pytest.mark.parametrize(
    "line",
    [
        "present = Concat <axis = 1> (x, past)",
        "present = Concat <axis = 0> (fixed, x)",
        "p = Concat <axis = 0> (past, x)  present = Abs(p)",
    ],
)
def test_not_all_that_is_joined_is_a_cache(line):
    text = f"g (float[N,2] past, float[1,2] fixed, float[N,2] x) => (float[M,K] present) {{ {line} }}"
    assert not lengthens(build(HEAD + text, Compiling()).plan)


def test_lengths_that_are_not_those_of_results_are_compiled_at_once():
    provider = Compiling()
    stages = build(HIDDEN, provider)
    grown(stages, provider, [5, 3, 4, 9, 5, 3])
    assert provider.given == AT_ONCE
    assert stages.program.stand_in.runs == 2


def test_a_signature_that_comes_up_in_a_row_is_compiled():
    provider = Compiling()
    stages = build(HIDDEN, provider)
    grown(stages, provider, [1, 2, 3, 4, 3, 3, 3])
    assert provider.given == 1 + 1
    assert stages.program.stand_in.runs == 4
    grown(stages, provider, [2, 2, 2])
    assert provider.given == 1 + 2


def test_a_signature_whose_runs_took_as_long_as_compiling_is_compiled():
    signatures = Signatures(Budget(), stands_in=True)
    signatures.made(1.0)
    wanted = []
    for turn in range(6):
        for key in ("a", "b", f"c{turn}"):
            if signatures.wants(key):
                wanted.append((turn, key))
            else:
                signatures.ran(0.25)
    assert wanted == [(3, "a"), (3, "b"), (4, "a"), (4, "b"), (5, "a"), (5, "b")]


@pytest.mark.parametrize("options", [{"defer": False}, {"pinned": {"y": "Compiling"}}])
def test_who_wants_no_other_provider_gets_none(options):
    provider = Compiling()
    stages = build(HIDDEN, provider, **options)
    grown(stages, provider, range(1, 9))
    assert stages.program.stand_in is None
    assert provider.given == 8


def test_random_numbers_come_from_one_place():
    text = HEAD + "g (float[N] x) => (float[N] y) { r = RandomUniformLike(x)  y = Add(x, r) }"
    assert build(text, Compiling()).program.stand_in is None


@pytest.mark.parametrize(
    "body",
    [
        "y = mine.Odd(x)",
        """c = ReduceMax <keepdims = 0> (x)  b = Cast <to = 9> (c)  y = If (b)
        <then_branch = t () => (float[N] u) { u = mine.Odd(x) }, else_branch = e () => (float[N] v) { v = Abs(x) }>""",
    ],
)
def test_a_kernel_of_a_third_party_stays_where_it_is(body):
    text = f'<ir_version: 8, opset_import: ["": 20, "mine": 1]> g (float[N] x) => (float[N] y) {{ {body} }}'

    def odd(xp: Namespace, X: Array) -> Array:
        return X + 1

    with local([("mine", "Odd", 1, odd, {})]):
        assert build(text, Compiling()).program.stand_in is None


def test_outputs_stay_on_the_device_where_they_are_wanted_there():
    provider = Compiling()
    stages = build(HIDDEN, provider, outputs_on_device=True)
    for n in range(1, 6):
        given = [provider.from_numpy(np.ones(n, np.float32)), provider.from_numpy(np.ones(1, np.float32))]
        kinds = {type(value) for value in stages.program(given)}
        assert kinds == {type(given[0])}
    assert stages.program.stand_in.runs == 5 - 1


def test_what_the_cpu_provider_cannot_run_is_compiled_at_once(monkeypatch):
    provider = Compiling()
    stages = build(GROWS, provider)

    def fails():
        raise NoKernel("no kernel")

    monkeypatch.setattr(stages.program.stand_in, "_make", fails)
    grown(stages, provider, range(1, 9))
    assert stages.program.stand_in is None
    assert provider.given >= 7
