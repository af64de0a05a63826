"""What a file's metadata says of where its nodes come from."""

import onnx
from onnx import TensorProto, helper, parser

from ortlite.load.origins import Origin, origins

TRACE = """File "/work/export.py", line 25, in forward
    o = s.fn(s.m, *a)
  File "/lib/transformers/models/bert/modeling_bert.py", line 194, in forward
    q = self.query(x)
  File "/lib/site-packages/torch/nn/modules/linear.py", line 134, in forward
    return F.linear(input)"""


def chain(*nodes):
    """A model of nodes that each read what the one before computes: (name, metadata, doc_string)."""
    protos = []
    for index, (name, metadata, doc) in enumerate(nodes):
        node = helper.make_node("Neg", [f"v{index}"], [f"v{index + 1}"], name=name, doc_string=doc)
        for key, value in metadata.items():
            node.metadata_props.add(key=key, value=value)
        protos.append(node)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("v0", f"v{len(nodes)}")]
    return helper.make_model(helper.make_graph(protos, "g", ends[:1], ends[1:])).SerializeToString()


def one(metadata, name="n", doc=""):
    (found,) = origins(chain((name, metadata, doc)), [(["v1"], {"v0"})])
    return found


def test_the_line_is_the_innermost_outside_of_torch():
    assert one({"pkg.torch.onnx.stack_trace": TRACE}).sources == (
        "/lib/transformers/models/bert/modeling_bert.py:194: q = self.query(x)",
    )
    inside = 'File "torch/fx/passes/runtime_assert.py", line 24, in insert'
    assert one({"pkg.torch.onnx.stack_trace": inside}).sources == ("torch/fx/passes/runtime_assert.py:24",)


def test_the_doc_string_of_the_first_exporter_is_read_innermost_first():
    doc = "/lib/torch/nn/modules/linear.py(114): forward\n/a/net.py(12): forward\n/a/main.py(3): <module>\n"
    assert one({}, doc=doc).sources == ("/a/net.py:12",)


def test_modules_from_scopes_a_namespace_or_the_name():
    scopes = {"pkg.torch.onnx.name_scopes": "['', 'm', 'm.encoder', 'm.encoder.layer.0', 'linear']"}
    assert one(scopes).scope == ("m", "encoder", "layer.0")
    assert one({"namespace": ": W/m: B/m.encoder: E/linear: aten.linear.default"}).scope == ("m", "encoder")
    assert one({}, name="/encoder/layer.0/MatMul").scope == ("encoder", "layer.0")
    assert one({"pkg.torch.onnx.name_scopes": "os.system('no')"}).scope == ()
    assert one({}) == Origin(nodes=("n",))


def test_a_node_stands_for_what_the_file_computes_between_its_inputs_and_outputs():
    metadata = [{"pkg.torch.onnx.stack_trace": f'File "/a.py", line {line}, in f'} for line in (1, 2, 2)]
    source = chain(*((f"n{i}", each, "") for i, each in enumerate(metadata)))
    fused, first, astray = origins(source, [(["v3"], {"v1"}), (["v1"], {"v0"}), (["v3"], set())])
    assert fused == Origin((), ("/a.py:2",), ("n2", "n1"))
    assert first.nodes == ("n0",)
    assert astray.nodes == ("n2", "n1", "n0")
    long = chain(*((f"n{i}", {}, "") for i in range(100)))
    assert origins(long, [(["v100"], {"w"})])[0].nodes == ("n99",)


def test_values_inside_of_functions_come_from_the_call():
    model = parser.parse_model("""<ir_version: 8, opset_import: ["": 18, "f": 1]>
    g (float[1] x) => (float[1] y) { [call] y = f.twice(x) }
    <domain: "f", opset_import: ["": 18]> twice (a) => (c) { b = Neg(a)  c = Neg(b) }""")
    model.graph.node[0].metadata_props.add(key="pkg.torch.onnx.stack_trace", value=TRACE)
    inner, outer, unknown = origins(
        model.SerializeToString(), [(["call/y/b"], {"x"}), (["y"], {"call/y/b"}), (["z"], ())]
    )
    assert inner.sources == outer.sources != ()
    assert unknown == Origin()


def test_subgraphs_files_and_what_is_no_onnx(tmp_path):
    model = parser.parse_model("""<ir_version: 8, opset_import: ["": 18]> g (bool c, float[1] x) => (float[1] y)
    { y = If(c) <then_branch = t () => (float[1] a) { [inner] a = Neg(x) },
                 else_branch = e () => (float[1] b) { b = Abs(x) }> }""")
    onnx.save(model, tmp_path / "model.onnx")
    assert origins(tmp_path / "model.onnx", [(["a"], {"x"})])[0].nodes == ("inner",)
    assert origins(b"ORTM....", [(["a"], {"x"})]) == [Origin()]
    assert origins(tmp_path / "gone.onnx", [(["a"], {"x"})]) == [Origin()]
