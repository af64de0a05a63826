"""Every version of every operator that ONNX ever published, against the kernel that would run it."""

from __future__ import annotations

import onnx
import pytest
from onnx import helper

from conformance import report
from ortlite import load
from ortlite.ops import registry

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
        if (schema.domain, name) in load.DROPPED:
            continue
        param = kernel.accepts(name)
        assert param is not None, f"{kernel} does not take the attribute {name!r}"
        given = helper.get_attribute_value(attribute.default_value) if attribute.default_value.type else None
        default = load._plain(given)
        default = MISPRINTS.get(default, default) if isinstance(default, str) else default
        if attribute.required:
            continue
        assert param.default is not registry.EMPTY, f"the attribute {name!r} may be left out"
        if default is not None and param.kind != "DType":
            assert param.default == pytest.approx(default) if isinstance(default, float) else param.default == default


def test_the_table_of_operators_is_current():
    committed = (report.HERE / "OPERATORS.md").read_text()
    assert committed == report.operators_table(), "run `python -m conformance --tables`"
