"""Lists of operators and kernels, under onnxruntime's names."""

from __future__ import annotations

import pytest

from ortlite.api.schemas import get_all_operator_schema, get_all_opkernel_def


def names(thing):
    return {name for name in dir(thing) if not name.startswith("_") and name[0].islower()}


def found(schemas, domain, name, since):
    return next(s for s in schemas if (s.domain, s.name, s.since_version) == (domain, name, since))


def test_schemas():
    schemas = get_all_operator_schema()
    concat = found(schemas, "", "Concat", 13)
    assert concat.is_infinite(concat.max_input)
    assert concat.attributes["axis"].required
    assert concat.inputs[0].typeStr == "T"
    assert "tensor(float)" in concat.type_constraints[0].allowed_type_strs
    gemm = found(schemas, "com.microsoft", "FusedGemm", 1)
    assert [(p.name, p.option.name) for p in gemm.inputs] == [("A", "Single"), ("B", "Single"), ("C", "Optional")]
    assert {gemm.attributes[name].type.name for name in ("alpha", "transA", "activation")} == {"FLOAT", "INT", "STRING"}
    assert (gemm.min_input, gemm.max_input, gemm.deprecated) == (2, 3, False)


def test_kernels():
    kernels = [k for k in get_all_opkernel_def() if (k.domain, k.op_name) == ("", "Softmax")]
    assert [k.version_range for k in kernels] == [(1, 12), (13, 2**31 - 1)]
    assert {k.provider for k in kernels} == {"CPUExecutionProvider"}
    assert "tensor(float)" in kernels[-1].type_constraints["T"]


def test_beside_onnxruntime():
    theirs = pytest.importorskip("onnxruntime.capi.onnxruntime_pybind11_state")
    schema, ours = found(theirs.get_all_operator_schema(), "", "Concat", 13), get_all_operator_schema()
    concat = found(ours, "", "Concat", 13)
    assert names(schema) <= names(concat)
    assert names(schema.inputs[0]) <= names(concat.inputs[0])
    assert names(schema.attributes["axis"]) <= names(concat.attributes["axis"])
    assert names(schema.type_constraints[0]) <= names(concat.type_constraints[0])
    kernels = theirs.get_all_opkernel_def()
    assert names(kernels[0]) <= names(get_all_opkernel_def()[0])
    for thing in ("min_input", "max_input", "min_output", "max_output", "deprecated", "doc"):
        assert getattr(schema, thing) == getattr(concat, thing)
