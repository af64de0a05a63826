"""What nodes cost, against counts made by hand and, of all that a model can hold, against a run."""

import numpy as np
import pytest
from onnx import parser

import ortlite
from ortlite.cli.digits import model_bytes
from ortlite.graph import Node
from ortlite.load import load
from ortlite.tools import flops
from ortlite.tools.flops import count, node_flops


def costs(text, **dims):
    model = load(
        parser.parse_model(f'<ir_version: 8, opset_import: ["": 20, "com.microsoft": 1]> {text}').SerializeToString()
    )
    return count(model.graph, dims)


@pytest.mark.parametrize(
    ("node", "given", "made", "wanted"),
    [
        (Node("Conv", ("x", "w"), ("y",)), [(1, 4, 8, 8), (6, 2, 3, 3)], [(1, 6, 8, 8)], 384 * 36),
        (Node("Conv", ("x", "w", "b"), ("y",)), [(1, 4, 8, 8), (6, 2, 3, 3), (6,)], [(1, 6, 8, 8)], 384 * 37),
        (Node("ConvTranspose", ("x", "w"), ("y",)), [(1, 4, 5), (4, 3, 2)], [(1, 3, 6)], 2 * 20 * 6),
        (Node("Gemm", ("a", "b", "c"), ("y",), {"transA": 1}), [(7, 3), (7, 5), (5,)], [(3, 5)], 15 * 15),
        (Node("MatMul", ("a", "b"), ("y",)), [(7,), (7,)], [()], 14),
        (Node("FusedMatMul", ("a", "b"), ("y",), {"transA": 1}, domain="com.microsoft"),
         [(2, 7, 3), (2, 7, 5)], [(2, 3, 5)], 2 * 30 * 7),
        (Node("Attention", ("q", "k", "v"), ("y",)), [(1, 2, 5, 4), (1, 2, 9, 4), (1, 2, 9, 3)], [(1, 2, 5, 3)],
         2 * 2 * 5 * 9 * 4 + 2 * 2 * 5 * 9 * 3),
        (Node("MultiHeadAttention", ("q", "k", "v"), ("y",), domain="com.microsoft"),
         [(1, 5, 8), (1, 9, 8), (1, 9, 8)], [(1, 5, 8)], 4 * 5 * 9 * 8),
        (Node("LSTM", ("x", "w", "r"), ("y",)), [(3, 2, 4), (1, 20, 4), (1, 20, 5)], [(3, 1, 2, 5)],
         6 * (2 * 80 + 2 * 100 + 20)),
        (Node("Einsum", ("a", "b"), ("y",), {"equation": "...ij, ...jk -> ...ik"}), [(2, 3, 4), (2, 4, 5)], [(2, 3, 5)],
         2 * 30 * 4),
        (Node("MaxPool", ("x",), ("y",), {"kernel_shape": (3, 3)}), [(1, 1, 9, 9)], [(1, 1, 3, 3)], 81),
        (Node("ReduceSum", ("x",), ("y",)), [(4, 5)], [(4,)], 20),
        (Node("Relu", ("x",), ("y",)), [(4, 5)], [(4, 5)], 20),
        (Node("Transpose", ("x",), ("y",)), [(4, 5)], [(5, 4)], 0),
        (Node("MoE", tuple("xrabcd"), ("y",), {"k": 2}, domain="com.microsoft"),
         [(3, 5, 8), (15, 4), (4, 6, 8), (4, 6), (4, 8, 6), None], [(3, 5, 8)], 2 * 2 * 15 * (8 * 6 + 6 * 8)),
        (Node("MoE", tuple("xra"), ("y",), {"swiglu_fusion": 1, "activation_type": "swiglu"}, domain="com.microsoft"),
         [(15, 8), (15, 4), (4, 12, 8)], [(15, 8)], 2 * 15 * (8 * 12 + 6 * 8)),
        (Node("QMoE", tuple("xrabcdefg"), ("y",), domain="com.microsoft"),
         [(15, 8), (15, 4), (4, 6, 4), (4, 6), None, (4, 8, 3), (4, 8), None, (4, 6, 4)], [(15, 8)],
         2 * 15 * 3 * 8 * 6),
        (Node("LinearAttention", tuple("qkv"), ("y",), {"q_num_heads": 4, "kv_num_heads": 2, "update_rule": "linear"},
              domain="com.microsoft"), [(2, 3, 16), (2, 3, 8), (2, 3, 10)], [(2, 3, 20)], 2 * 6 * 4 * 5 * (2 + 4)),
        (Node("LinearAttention", tuple("qkv"), ("y",), {"q_num_heads": 2, "kv_num_heads": 2}),
         [(2, 2, 3, 4), (2, 2, 3, 4), (2, 2, 3, 5)], [(2, 3, 10)], 2 * 6 * 4 * 5 * (2 * 2 + 2)),
        (Node("GatedDeltaNet", tuple("qkv"), ("y",), domain="com.microsoft"),
         [(6, 2, 3), (6, 2, 3), (6, 4, 5)], [(6, 4, 5)], 6 * 6 * 4 * 5 * 3),
        (Node("CausalConvWithState", tuple("xwb"), ("y",), {"activation": "silu"}, domain="com.microsoft"),
         [(2, 3, 5), (3, 1, 4), (3,)], [(2, 3, 5)], 30 * (2 * 4 + 2)),
        (Node("DecoderMaskedMultiHeadAttention", ("q", "k", "v", "", "", "p"), ("y",), domain="com.microsoft"),
         [(2, 1, 8), (2, 1, 8), (2, 1, 8), None, None, (2, 2, 6, 4)], [(2, 1, 8)], 4 * 7 * 2 * 8),
        (Node("SparseAttention", tuple("qkvpr"), ("y", "a", "b"), domain="com.microsoft"),
         [(2, 3, 16), (2, 3, 8), (2, 3, 8), (2, 1, 32, 8), (2, 1, 32, 8)], [(2, 3, 16), (2, 1, 32, 8), (2, 1, 32, 8)],
         4 * 32 * 2 * 3 * 16),
    ],
    ids=lambda value: value.op_type if isinstance(value, Node) else "",
)  # fmt: skip
def test_operations_of_a_node(node, given, made, wanted):
    assert node_flops(node, given, made) == wanted


def test_shapes_follow_from_computed_shapes_and_dimensions_that_are_given():
    found = costs(
        """g (float[N, 4] x, float[?, 2] z) => (float[a, b] y)
        <int64[1] two = {2}, int64[1] minus = {-1}, int64[1] from = {0}, int64[1] to = {1}>
        { s = Shape(x)  n = Slice(s, from, to)  n2 = Mul(n, two)  t = Concat<axis = 0>(n2, n2, minus)
          r = Reshape(x, t)  y = Relu(x) }""",
        N=6,
    )
    assert dict(found.dims) == {"N": 6, "z:0": 1}
    assert all(cost.flops is not None for cost in found.costs)
    assert [cost.flops for cost in found.costs if cost.node.op_type in {"Mul", "Relu"}] == [1, 24]


def test_a_name_that_no_dimension_has_is_told():
    with pytest.raises(ValueError, match=r"called M; open are N"):
        costs("g (float[N] x) => (float[N] y) { y = Relu(x) }", M=3)


def test_what_values_decide_is_not_known():
    found = costs("g (float[N] x, int64[2] s) => (float[a, b] y) { r = Reshape(x, s)  y = Relu(r) }")
    assert [cost.flops for cost in found.costs] == [0, None]


def test_dimensions_that_do_not_fit_are_told():
    text = """g (float[N, 4] x, float[N, 3] z) => (float[a, b] y, float[c, d] w) <int64[2] s = {2, 4}>
        { [shaped] y = Reshape(x, s)  [product] w = MatMul(x, z) }"""
    assert costs(text, N=4).notes == ("Reshape shaped: [4, 4] cannot become [2, 4] with the assumed dimensions",)
    assert costs(text, N=2).notes == ("MatMul product: the assumed dimensions do not fit",)


def test_bodies_count_as_often_as_they_run():
    found = costs(
        """g (float[7, 3] x) => (float[3] y) <int64 trips = {5}, bool go = {1}>
        { start = ReduceSum<keepdims = 0, noop_with_empty_axes = 0>(x, axes)
          y = Loop(trips, go, start) <body = b (int64 i, bool c, float[3] v) => (bool d, float[3] w)
              { d = Identity(c)  w = Add(v, v) }> }""".replace("<int64 trips", "<int64[1] axes = {0}, int64 trips")
    )
    add = next(cost for cost in found.costs if cost.node.op_type == "Add")
    assert (add.flops, add.times) == (3, 5)
    assert not found.notes


def test_operators_of_onnxruntime_that_no_schema_describes():
    found = costs(
        """g (float[N, 5, 8] x, float[8] g, float[8] b, float[16, 8] w, float[8, 8] g8, float[24] b24,
           uint8[7, 1, 8] packed, float[7] scales) => (float[a, c, d] y, float[e, f, h] z)
        { n, _1, _2, r = com.microsoft.SkipLayerNormalization(x, x, g, b)  q = com.microsoft.QuickGelu(n)
          s = SimplifiedLayerNormalization(q, g)
          z = com.microsoft.MultiHeadAttention <num_heads = 2> (s, s, r)
          y = com.microsoft.FusedMatMul <transB = 1> (z, w)
          p = Transpose<perm = [1, 0]>(w)  v = Concat<axis = 1>(p, g8)
          o = com.microsoft.Attention <num_heads = 2> (x, v, b24)
          o2 = com.microsoft.MatMulNBits <K = 8, N = 7, block_size = 16> (o, packed, scales)
          o3 = Relu(o2) }""",
        N=2,
    )
    flops = {cost.node.op_type: cost.flops for cost in found.costs}
    assert flops["MultiHeadAttention"] == 4 * 2 * 5 * 5 * 8
    assert flops["Attention"] == 2 * 10 * 8 * 24 + 4 * 5 * 2 * 5 * 8
    assert flops["MatMulNBits"] == 2 * 8 * 2 * 5 * 7
    assert flops["Relu"] == 2 * 5 * 7
    assert flops["FusedMatMul"] == 2 * (2 * 5 * 16) * 8
    assert None not in flops.values()


def test_shapes_behind_experts_and_states_follow_from_the_optimisers_rules():
    found = costs(
        """g (float[N, 5, 8] x, float[M, 4] router, float[4, 6, 8] a, float[4, 6] b, float[4, 8, 6] c,
           float[8, 1, 3] w, uint8[24] packed, float[3] absmax) => (float[d, e, f] y)
        { m = com.microsoft.MoE <k = 2> (x, router, a, b, c)  s = com.microsoft.ScaledSiLU(m)
          l = com.microsoft.LinearAttention <q_num_heads = 2, kv_num_heads = 2, update_rule = "linear"> (s, s, s)
          t = com.microsoft.CausalConvWithState <channels_last = 1> (l, w)
          p = com.microsoft.MatMulBnb4 <K = 8, N = 6, block_size = 16, quant_type = 1> (t, packed, absmax)
          y = Relu(p) }""",
        N=2, M=10,
    )  # fmt: skip
    flops = {cost.node.op_type: cost.flops for cost in found.costs}
    assert flops == {
        "MoE": 2 * 2 * 10 * 96, "ScaledSiLU": 80, "LinearAttention": 2 * 10 * 16 * 4, "CausalConvWithState": 80 * 6,
        "MatMulBnb4": 2 * 8 * 60, "Relu": 60,
    }  # fmt: skip


def test_what_is_inferred_is_what_a_run_has():
    session = ortlite.InferenceSession(model_bytes(), providers=["CPUExecutionProvider"])
    graph = load(model_bytes()).graph
    walk = flops._Walk({"batch": 3, "N": 3})
    for name in graph.inputs:
        flops._declare(walk, name, graph.types[name])
    flops._walk(walk, graph, 1)
    arg = session.get_inputs()[0]
    x = np.zeros([3 if not isinstance(d, int) else d for d in arg.shape], np.float32)
    names = [name for node in graph.nodes for name in node.outputs]
    _, values = session.run(None, {arg.name: x}, taps=names)
    assert {name: walk.shapes.get(name) for name in names} == {name: values[name].shape for name in names}
