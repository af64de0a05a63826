"""What providers replace is called like what it replaces, and is measured."""

from __future__ import annotations

import inspect

import pytest

from benchmarks import overrides
from ortlite import provider
from ortlite.namespace import OPTIONAL
from ortlite.ops import registry
from ortlite.primitives import DEFAULTS

RENAMED = {"bilinear": "linear"}  # GridSample's default before opset 20, under the name that it has since
# What an override hands on as `**rest` to a function that names it.
RECURRENT = {"activation_alpha", "activation_beta", "clip", "direction", "hidden_size", "layout", "output_sequence"}
REST = {"RNN": RECURRENT, "GRU": RECURRENT, "LSTM": RECURRENT}


def shape_of(fn, rest=frozenset()):
    """Names, kinds and defaults of a function's parameters, but for those of `rest` and `derived` (ortlite.derived)."""
    parameters = [p for p in inspect.signature(fn).parameters.values() if p.name not in {*rest, "derived"}]
    shape = [(p.name, p.kind, RENAMED.get(p.default, p.default)) for p in parameters]
    return shape + [("rest", inspect.Parameter.VAR_KEYWORD, inspect.Parameter.empty)] * bool(rest)


@pytest.mark.parametrize("name", provider.usable())
def test_replacements_take_what_they_replace(name):
    primitives, operators = overrides.replaced(provider.create(name))
    for key, fn in primitives.items():
        if getattr(fn, "complete", False):
            assert "NotImplemented" not in fn.__code__.co_names, f"{key} of {name}"
        if key not in OPTIONAL:
            assert shape_of(fn) == shape_of(DEFAULTS[key]), f"{key} of {name}"
    for (domain, op, since), fn in operators.items():
        kernel = registry.lookup(domain, op, since)
        assert kernel is not None, f"{op} of {name}"
        assert kernel.since == since, f"{op} of {name} replaces no kernel"
        rest = REST.get(op, set()) if "rest" in inspect.signature(fn).parameters else set()
        assert shape_of(fn) == shape_of(kernel.fn, rest), f"{op} of {name}"


@pytest.mark.parametrize("name", provider.usable())
def test_every_replacement_is_measured(name):
    assert overrides.missing(provider.create(name)) == []
