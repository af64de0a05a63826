"""What providers replace is called like what it replaces, and is measured."""

from __future__ import annotations

import inspect

import pytest

from benchmarks import overrides
from ortlite import provider
from ortlite.namespace import OPTIONAL
from ortlite.ops import registry
from ortlite.primitives import DEFAULTS


def shape_of(fn):
    """Names and kinds of a function's parameters, and which of them may be left out."""
    parameters = inspect.signature(fn).parameters.values()
    return [(p.name, p.kind, p.default is p.empty) for p in parameters]


@pytest.mark.parametrize("name", provider.usable())
def test_replacements_take_what_they_replace(name):
    primitives, operators = overrides.replaced(provider.create(name))
    for key, fn in primitives.items():
        if key not in OPTIONAL:
            assert shape_of(fn) == shape_of(DEFAULTS[key]), f"{key} of {name}"
    for (domain, op, since), fn in operators.items():
        kernel = registry.lookup(domain, op, since)
        assert kernel is not None, f"{op} of {name}"
        assert kernel.since == since, f"{op} of {name} replaces no kernel"
        assert shape_of(fn) == shape_of(kernel.fn), f"{op} of {name}"


@pytest.mark.parametrize("name", provider.usable())
def test_every_replacement_is_measured(name):
    assert overrides.missing(provider.create(name)) == []
