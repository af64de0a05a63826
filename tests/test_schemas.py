"""Every version of every operator that ONNX ever published, against the kernel that would run it."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import pytest
from onnx import helper

import ortlite
from conformance import dtypes as matrix
from conformance import report
from ortlite import dtypes
from ortlite import schema as schemas
from ortlite.ops import registry
from ortlite.schema import plain

# Defaults that ONNX itself misspelt.
MISPRINTS = {"foward": "forward"}

SCHEMAS = [s for s in onnx.defs.get_all_schemas_with_history() if registry.lookup(s.domain, s.name, s.since_version)]


def _id(schema):
    return f"{schema.domain or 'ai.onnx'}-{schema.name}-{schema.since_version}"


@pytest.mark.parametrize("schema", SCHEMAS, ids=_id)
def test_kernel_accepts_the_schema(schema):
    kernel = registry.lookup(schema.domain, schema.name, schema.since_version)
    for position, formal in enumerate(schema.inputs):
        param = kernel.param(position)
        assert param is not None, f"{kernel} has no parameter for input {position}, {formal.name!r}"
        assert param.name == formal.name
        if formal.option == onnx.defs.OpSchema.FormalParameterOption.Optional:
            assert param.default is not registry.EMPTY, f"{formal.name!r} may be left out"
    for name, attribute in schema.attributes.items():
        if (schema.domain, name) in schemas.DROPPED:
            continue
        param = kernel.accepts(name)
        assert param is not None, f"{kernel} does not take the attribute {name!r}"
        given = helper.get_attribute_value(attribute.default_value) if attribute.default_value.type else None
        default = plain(given)
        default = MISPRINTS.get(default, default) if isinstance(default, str) else default
        if attribute.required:
            continue
        assert param.default is not registry.EMPTY, f"the attribute {name!r} may be left out"
        if default is not None and param.kind != "DType":
            assert param.default == pytest.approx(default) if isinstance(default, float) else param.default == default


NO_SCHEMA = [k for k in registry.kernels() if schemas.lookup(k.domain, k.op_type, k.since) is None]


@pytest.mark.parametrize("kernel", NO_SCHEMA, ids=lambda k: f"{k.domain or 'ai.onnx'}-{k.op_type}-{k.since}")
def test_kernel_without_a_schema_says_what_it_is(kernel):
    assert kernel.fn.__doc__
    for result in kernel.results:
        named = [p.name for p in kernel.inputs] + [n for n, p in kernel.attributes.items() if p.kind == "DType"]
        assert result in {"", *named} or dtypes.by_name(result), f"{kernel}: results names {result!r}"
    assert kernel.multiple or len(kernel.results) < 2


# Versions whose inputs are of another kind than the newest's. Each has a test of its own.
ELSEWHERE = {
    ("GroupNormalization", 18),
    ("OptionalGetElement", 15),
    ("Pad", 1),
    ("Resize", 10),
    ("Scan", 8),
    ("Tile", 1),
}
ELSEWHERE |= {("Upsample", 1)}
Attribute = onnx.defs.OpSchema.AttrType
SAID = {("Cast", "to"): "FLOAT", ("TopK", "k"): 1, ("Upsample", "scales"): [1.0, 2.0]}  # what an attribute once held


@cache
def examples():
    """(domain, operator) -> examples of the newest version."""
    found = matrix.examples()
    for name, make in matrix.MADE.items():
        domain = "ai.onnx.preview.training" if name == "Gradient" else ""
        found[domain, name].append(make(dtypes.by_name("float32")))
    return found


@cache
def newest():
    return {(s.domain, s.name): s for s in onnx.defs.get_all_schemas()}


def older(schema, example):
    """An example as that version writes it: inputs as attributes, dtypes that it allows, broadcasting on request."""
    names = [formal.name for formal in newest()[schema.domain, schema.name].inputs]
    attributes = {a.name: a for a in example.node.attribute if a.name in schema.attributes}
    inputs, values = [], []
    for i, (name, value) in enumerate(zip(example.node.input, example.values, strict=True)):
        formal = names[min(i, len(names) - 1)]
        if formal in schema.attributes:
            if value is not None and np.size(value):
                listed, single = np.asarray(value).reshape(-1).tolist(), schema.attributes[formal].type
                held = listed[0] if single in {Attribute.INT, Attribute.FLOAT} else listed
                attributes[formal] = helper.make_attribute(formal, held)
        elif len(inputs) < schema.max_input:
            inputs.append(name)
            values.append(_allowed(schema, len(values), value))
    if "broadcast" in schema.attributes:
        attributes["broadcast"] = helper.make_attribute("broadcast", 1)
    for name, attribute in attributes.items():
        if schema.attributes[name].type == Attribute.FLOAT and attribute.type == onnx.AttributeProto.INT:
            attributes[name] = helper.make_attribute(name, float(attribute.i))
    for name, attribute in schema.attributes.items():
        spelled = schema.name == "Cast" and attribute.type == Attribute.STRING and name == "to"
        if (schema.name, name) in SAID and (spelled or (attribute.required and name not in attributes)):
            attributes[name] = helper.make_attribute(name, SAID[schema.name, name])
    outputs = list(example.node.output)[: schema.max_output]
    node = helper.make_node(schema.name, inputs, outputs, domain=schema.domain)
    node.attribute.extend(attributes.values())
    return node, values


def _allowed(schema, position, value):
    """A value in a dtype that the version allows at a position, float32 if it can be."""
    formal = schema.inputs[min(position, len(schema.inputs) - 1)]
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}.get(formal.type_str, ())
    kinds = [dtypes.by_ort_name(t[len("tensor(") : -1]) for t in allowed if t.startswith("tensor(")]
    if not isinstance(value, np.ndarray) or not kinds or dtypes.of_numpy(value.dtype) in kinds:
        return value
    wanted = dtypes.by_name("float32")
    return matrix.converted(value, wanted if wanted in kinds else kinds[0])


@pytest.mark.parametrize("schema", SCHEMAS, ids=_id)
def test_every_version_runs(schema):
    if (schema.name, schema.since_version) in ELSEWHERE:
        pytest.skip("has a test of its own")
    options = ortlite.SessionOptions()
    options.add_session_config_entry("ortlite.check_types", "1")
    problem = None
    for example in examples()[schema.domain, schema.name]:
        node, values = older(schema, example)
        feeds = {n: v for n, v in zip(node.input, values, strict=True) if n}
        infos = [helper.make_value_info(n, matrix._type_of(v)) for n, v in feeds.items()]
        results = [onnx.ValueInfoProto(name=n) for n in node.output if n]
        graph = helper.make_graph([*example.before, node], "one", infos, results)
        imports = [helper.make_opsetid(schema.domain, schema.since_version)]
        imports += [helper.make_opsetid("", 18)] if schema.domain else []
        model = helper.make_model(graph, opset_imports=imports, ir_version=11)
        try:
            ortlite.InferenceSession(model.SerializeToString(), options).run(None, feeds)
        except Exception as error:  # noqa: BLE001  (an example of what only a newer version can do)
            problem = problem or error
        else:
            return
    pytest.fail(f"no example runs: {problem}")


def test_the_table_of_operators_is_current():
    committed = (report.HERE / "OPERATORS.md").read_text()
    assert committed == report.operators_table(), "run `python -m conformance --tables`"
