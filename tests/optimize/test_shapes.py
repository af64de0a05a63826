"""What the optimiser takes for certain of shapes is true: of every case of ONNX's own suite, and of open dimensions."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance import cases, gradients
from ortlite import load
from ortlite.errors import OrtError
from ortlite.graph import Node
from ortlite.optimize.dims import length_of, product, quotient, total
from ortlite.optimize.facts import Facts
from ortlite.optimize.shape_rules import RULES
from ortlite.optimize.shapes import learn, learn_from
from tests.optimize.models import model, node, outputs


def fits(known, found):
    return len(known) == len(found) and all(isinstance(a, str) or a == b for a, b in zip(known, found, strict=True))


def wrong(proto, values, fed):
    """Values whose learnt shape or elements are not those that are known; with `fed`, inputs are constants."""
    try:
        graph = load.load(proto.SerializeToString()).graph
    except OrtError:
        return []
    constants = {**graph.constants}
    if fed:
        constants |= {name: v for name, v in zip(graph.inputs, values[0], strict=False) if isinstance(v, np.ndarray)}
    facts = learn(graph, constants)
    problems = []
    for name, value in zip(graph.outputs, values[1], strict=False):
        if not isinstance(value, np.ndarray):
            continue
        shape, elements = facts.shapes.get(name), facts.values.get(name)
        if shape is not None and not fits(shape, value.shape):
            problems.append((name, shape, value.shape))
        if elements is not None and not fits(elements, value.reshape(-1).tolist()):
            problems.append((name, elements, value))
    return problems


@pytest.mark.parametrize("fed", [False, True])
def test_every_case_of_the_suite(fed):
    problems, seen = {}, set()
    for name, (kind, case) in cases.load_cases().items():
        if kind == "real":  # large
            continue
        proto = cases.case_model(case)
        seen.update(n.op_type for n in proto.graph.node)
        for values in cases.data_sets(case, proto)[:1]:
            if found := wrong(proto, values, fed):
                problems[name] = found
    assert not problems
    assert len(seen & RULES.keys()) > 100


DIMS = st.lists(st.one_of(st.integers(0, 6), st.sampled_from(["a:0", "b:1", "c[0]"])), max_size=4)


@given(DIMS, DIMS, st.dictionaries(st.sampled_from(["a:0", "b:1", "c[0]"]), st.integers(1, 5), min_size=3))
def test_products_sums_and_quotients(one, other, numbers):
    """Written alike, they are the same number, whatever the symbols stand for."""

    def number(dims):
        return [numbers.get(d, d) for d in dims]

    assert product(one) == product(sorted(one, key=str))
    assert total(one) == total(sorted(one, key=str))
    if product(one) == product(other):
        assert np.prod(number(one)) == np.prod(number(other))
    if total(one) == total(other):
        assert sum(number(one)) == sum(number(other))
    found = quotient([*one, *other], other)
    if isinstance(product(one), int) and 0 not in other and not isinstance(found, str):
        assert found == product(one)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_symbols_stand_for_one_number(data):
    """A chain of operators at sizes that are open: what is called the same is the same in every run."""
    nodes, constants = [], {"one": np.array([1]), "rest": np.array([-1, 4])}
    value = "x"
    for i in range(data.draw(st.integers(1, 4))):
        kind = data.draw(st.sampled_from(["Transpose", "Concat", "Reshape", "Unsqueeze", "Shape", "Sum"]))
        out = f"t{i}"
        if kind == "Transpose":
            nodes.append(node(kind, [value], [out]))
        elif kind == "Concat":
            nodes.append(node(kind, [value, value], [out], axis=0))
        elif kind == "Reshape":
            nodes.append(node(kind, [value, "rest"], [out]))
        elif kind == "Unsqueeze":
            nodes.append(node(kind, [value, "one"], [out]))
        elif kind == "Shape":
            nodes += [node("Shape", [value], [f"{out}s"]), node("ConstantOfShape", [f"{out}s"], [out])]
        else:
            nodes.append(node("Add", [value, value], [out]))
        value = out
    proto = model(nodes, {"x": np.zeros((4, 8), np.float32)}, [value], constants, dims={"x": ["n", "m"]})
    graph = load.load(proto.SerializeToString()).graph
    shape = learn(graph, graph.constants).shape(value)
    for size in ((4, 8), (2, 6)):
        got = outputs(proto, {"x": np.zeros(size, np.float32)})[0].shape
        if shape is None:
            continue
        assert len(got) == len(shape)
        for a, x in zip(shape, got, strict=True):
            assert all(x == y for b, y in zip(shape, got, strict=True) if a == b)
            assert not isinstance(a, int) or a == x


def test_outputs_without_a_name():
    """Such a node says nothing of any value: "" is what an absent input is called too."""
    nodes = [node("Shape", ["x"], [""]), node("ArgMax", ["x"], []), node("Clip", ["x", "", ""], ["y"])]
    graph = load.load(model(nodes, {"x": np.zeros((4, 8), np.float32)}, ["y"]).SerializeToString()).graph
    facts = learn(graph, graph.constants)
    assert facts.shapes == {"x": (4, 8), "y": (4, 8)}
    assert not facts.values


@pytest.mark.parametrize(("dtype", "number"), [(np.int64, 2**62), (np.int32, 2**30)])
def test_products_of_dimensions_that_overflow(dtype, number):
    code = {np.int64: 7, np.int32: 6}[dtype]
    nodes = [node("Shape", ["x"], ["s"]), node("Cast", ["s"], ["t"], to=code), node("Mul", ["t", "n"], ["y"])]
    x = np.zeros((3, 4), np.float32)
    (made,) = outputs(model(nodes, {"x": x}, ["y"], {"n": dtype([number])}), {"x": x})
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(made, np.array([3, 4], dtype) * dtype(number))


def test_sums_of_bytes_overflow_where_they_are_computed():
    nodes = [node("Shape", ["x"], ["s"]), node("Gather", ["table", "s"], ["a"]), node("Add", ["a", "b"], ["c"])]
    nodes.append(node("Cast", ["c"], ["y"], to=7))
    x = np.zeros((1,), np.float32)
    constants = {"table": np.uint8([0, 200]), "b": np.uint8([100])}
    (made,) = outputs(model(nodes, {"x": x}, ["y"], constants), {"x": x})
    assert made.tolist() == [44]


@pytest.mark.parametrize(("op_type", "number", "size"), [("Add", -3, 2), ("Mul", -1, 1)])
def test_what_is_made_of_a_dimension_may_be_negative(op_type, number, size):
    nodes = [
        node("Shape", ["x"], ["s"]), node(op_type, ["s", "n"], ["a"]), node("Equal", ["a", "minus"], ["same"]),
        node("Where", ["same", "five", "six"], ["y"]),
    ]  # fmt: skip
    constants = {"n": np.int64([number]), "minus": np.int64([-1]), "five": np.int64([5]), "six": np.int64([6])}
    x = np.zeros(size, np.float32)
    assert outputs(model(nodes, {"x": x}, ["y"], constants, dims={"x": ["N"]}), {"x": x})[0].tolist() == [5]


def test_names_of_values_are_not_taken_for_what_is_computed():
    """A quotient of an axis of `6` over 4, and 6 over one of `1`; a product, and a name that looks like one."""
    assert quotient([length_of("6", 1)], [4]) != quotient([6], [length_of("1", 4)])
    a, c = length_of("a", 0), length_of("c", 0)
    assert quotient([a], [length_of("b:0:c", 0)]) != quotient([length_of("a:0:b", 0)], [c])
    assert product([length_of("x", 0), length_of("y", 1)]) != length_of("x:0\0y", 1)
    assert len({length_of(name, 0) for name in ("a:", "a%3a", "a%253a", "(a", "%28a")}) == 5


def test_no_axes_in_a_file_say_nothing_of_an_input():
    proto = model([node("Neg", ["x"], ["a"]), node("Shape", ["a"], ["y"])], {"x": np.float32(0)}, ["y"])
    for shape in ((), (3,), (2, 4)):
        assert outputs(proto, {"x": np.zeros(shape, np.float32)})[0].tolist() == list(shape)


@pytest.mark.parametrize(
    ("start", "end", "step", "taken"),
    [(-5, -6, -1, [0]), (-9, -(2**40), -2, [0]), (3, -5, -1, [3, 2, 1, 0]), (-9, 9, 2, [0, 2])],
)
def test_slices_that_begin_before_the_first_element(start, end, step, taken):
    """By ONNX's letter such a start is the first element, which Python's slices leave out where they go backwards."""
    x = np.zeros((2, 4), np.float32)
    constants = {"from": np.int64([start]), "to": np.int64([end]), "axes": np.int64([1]), "steps": np.int64([step])}
    constants["zero"] = np.int64([0])
    nodes = [
        node("Slice", ["x", "from", "to", "axes", "steps"], ["a"]), node("Shape", ["a"], ["y"]),
        node("Shape", ["x"], ["s"]), node("Concat", ["s", "s"], ["ss"], axis=0),
        node("Slice", ["ss", "from", "to", "zero", "steps"], ["z"]),
    ]  # fmt: skip
    proto = model(nodes, {"x": x}, ["y", "z"], constants)
    shape, dims = outputs(proto, {"x": x})
    assert shape.tolist() == [2, len(taken)]
    assert dims.tolist() == [[2, 4, 2, 4][i] for i in taken]


@pytest.mark.parametrize("op_type", ["Conv", "MaxPool"])
def test_valid_windows_have_no_pads(op_type):
    x, inputs = np.zeros((2, 3, 4, 5), np.float32), ["x", "w"] if op_type == "Conv" else ["x"]
    nodes = [node(op_type, inputs, ["a"], kernel_shape=[3, 3], auto_pad="VALID", pads=[1, 1, 1, 1])]
    proto = model([*nodes, node("Shape", ["a"], ["y"])], {"x": x}, ["y"], {"w": np.zeros((3, 3, 3, 3), np.float32)})
    assert outputs(proto, {"x": x})[0].tolist() == [2, 3, 2, 3]


@pytest.mark.parametrize(("axis", "dims"), [(0, 2), (1, (3, 4)), (2, 4), (None, 5)])
def test_what_is_put_at_an_axis_is_no_longer_than_the_other(axis, dims):
    """Below opset 7 `B` is broadcast to `A`, from `axis` on."""
    x = np.zeros((2, 3, 4, 5), np.float32)
    nodes = [node("Add", ["x", "b"], ["a"], broadcast=1, **({} if axis is None else {"axis": axis}))]
    constants = {"b": np.zeros(dims, np.float32)}
    proto = model([*nodes, node("Shape", ["a"], ["y"])], {"x": x}, ["y"], constants, 6, {"x": [2, 3, "H", "W"]})
    assert outputs(proto, {"x": x})[0].tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize("size", [2, 5])
def test_a_range_to_less_than_nothing_is_empty(size):
    nodes = [
        node("Size", ["x"], ["n"]), node("Add", ["n", "minus"], ["m"]), node("Range", ["zero", "m", "one"], ["r"]),
        node("Shape", ["r"], ["s"]), node("Unsqueeze", ["m", "axis"], ["t"]), node("Equal", ["s", "t"], ["same"]),
        node("Where", ["same", "five", "six"], ["w"]), node("Mul", ["w", "two"], ["y"]),
    ]  # fmt: skip
    constants = {name: np.int64(v) for name, v in {"minus": -3, "zero": 0, "one": 1, "two": 2}.items()}
    constants |= {name: np.int64([v]) for name, v in {"axis": 0, "five": 5, "six": 6}.items()}
    x = np.zeros(size, np.float32)
    proto = model(nodes, {"x": x}, ["y"], constants, dims={"x": ["N"]})
    assert outputs(proto, {"x": x})[0].tolist() == [12 if size == 2 else 10]


def test_every_example_of_microsofts_operators():
    """What rules say beforehand is what a run makes, of symbols as of numbers."""
    ruled = set()
    for (domain, op_type), listed in gradients.cases().items():
        for case in listed if domain == "com.microsoft" and op_type in RULES else ():
            results = case.results if isinstance(case.results, tuple) else (case.results,)
            assert not wrong(case.model, (list(case.values.values()), results), fed=True), str(case)
            open_ = onnx.ModelProto()
            open_.CopyFrom(case.model)
            for value in open_.graph.input:
                dims = [f"{value.name}{i}" for i in range(np.ndim(case.values[value.name]))]
                value.type.tensor_type.shape.CopyFrom(onnx.TensorShapeProto())
                value.type.tensor_type.shape.dim.extend(onnx.TensorShapeProto.Dimension(dim_param=d) for d in dims)
            assert not wrong(open_, (list(case.values.values()), results), fed=False), str(case)
            graph = load.load(case.model.SerializeToString()).graph
            known = learn(graph, {**graph.constants, **case.values}).shape(graph.outputs[0])
            ruled |= {op_type} if known is not None and all(isinstance(d, int) for d in known) else set()
    assert ruled >= {
        "AttnLSTM", "BranchwiseRMSNorm", "CausalConvWithState", "DecoderMaskedMultiHeadAttention", "EngramGate",
        "GatedAdd", "GatedDeltaNet", "GatedRMSNorm", "GroupQueryAttention", "HyperConnectionPostMix",
        "HyperConnectionPreMix", "LinearAttention", "LinearAttentionGate", "MRotaryEmbedding", "MatMulBnb4",
        "MatMulNBits", "MoE", "MoEGroupRouter", "QMoE", "ScaledSiLU", "SparseAttention", "VarlenCausalConvWithState",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("op_type", "inputs", "attributes", "wanted"),
    [
        ("NGramHashMapping", [(2, 5), (3,), (4,)], {"max_ngram_size": 3, "n_head_per_ngram": 2}, (2, 5, 4)),
        ("GatherPacked", [(6, 144), (2, 3)], {"K": 256}, (2, 3, 256)),
        ("EmbedLayerNormalization", [(2, 5), (2, 5), (9, 8)], {}, (2, 5, 8)),
        ("GreedySearch", [(2, 5), np.array([9])], {}, (2, 9)),
        ("MatMulFpQ4", [(2, 5, 64), (99,), np.array([64, 7])], {}, (2, 5, 7)),
        ("CDist", [(5, 4), (3, 4)], {}, (5, 3)),
        ("MatMulInteger16", [(5, 4), (4, 3)], {}, (5, 3)),
        ("GroupQueryAttention", [(2, 5, 32), "", "", (2, 1, 3, 8)], {"num_heads": 2, "kv_num_heads": 1}, (2, 5, 16)),
        ("DecoderMaskedMultiHeadAttention", [(2, 1, 24)], {"num_heads": 2}, (2, 1, 8)),
        ("DecoderMaskedMultiHeadAttention", [(2, 1, 8), (2, 2, 5, 4), (2, 2, 5, 3)], {"num_heads": 2}, (2, 1, 6)),
        ("GatedDeltaNet", [(6, 32), "", "", (4,), (6, 4), (6, 4), (3, 4, 5, 3)], {}, (6, 4, 5)),
        ("MoEGroupRouter", [(3, 4), (5,), (5, 4)], {}, (3, 5)),
    ],
)
def test_shapes_of_microsofts_operators(op_type, inputs, attributes, wanted):
    names = tuple(f"i{n}" if isinstance(given, tuple | np.ndarray) else "" for n, given in enumerate(inputs))
    constants = {name: given for name, given in zip(names, inputs, strict=True) if isinstance(given, np.ndarray)}
    facts = Facts(constants)
    facts.shapes |= {name: given for name, given in zip(names, inputs, strict=True) if isinstance(given, tuple)}
    learn_from(facts, [Node(op_type, names, ("y",), attributes, "", "com.microsoft", 1)])
    assert facts.shape("y") == wanted
