"""The roofs of a machine: that they come from the provider's own library, once; no test depends on how fast it is."""

import pytest

import ortlite
from ortlite.tools import roofs as module
from ortlite.tools.roofs import Roof, roof, roofs


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Sizes that take no time."""
    monkeypatch.setattr(module, "SIDES", (8, 16))
    monkeypatch.setattr(module, "ELEMENTS", (64, 256))
    roof.cache_clear()
    yield
    roof.cache_clear()


@pytest.mark.parametrize("provider", ["CPUExecutionProvider", "StrictExecutionProvider"])
def test_a_provider_is_measured_once(provider, monkeypatch):
    found = roof(provider)
    assert found.provider == provider
    assert found.flops > 0
    assert [size for size, _ in found.bandwidths] == [12 * 64, 12 * 256]
    assert found.memory == found.bandwidths[-1][1] <= found.cached
    monkeypatch.setattr(module, "record", None)
    assert roof(provider) is found


def test_the_roofs_of_a_session_are_those_of_its_providers():
    from ortlite.cli.digits import model_bytes

    session = ortlite.InferenceSession(model_bytes(), providers=["StrictExecutionProvider", "CPUExecutionProvider"])
    assert list(roofs(session)) == ["StrictExecutionProvider", "CPUExecutionProvider"]


def test_no_roof_where_another_provider_runs_the_nodes(monkeypatch):
    from ortlite_strict import StrictExecutionProvider

    monkeypatch.setattr(StrictExecutionProvider, "supports", lambda *_: "nothing")
    assert roof("StrictExecutionProvider") is None


def test_what_the_roofs_allow():
    each = Roof("X", 100.0, ((1000, 10.0), (100_000, 40.0), (10_000_000, 20.0)))
    assert each.bandwidth(1) == each.bandwidth(100_000) == each.cached == pytest.approx(40)
    assert each.bandwidth(1e9) == each.memory == pytest.approx(20)
    assert 20 < each.bandwidth(1_000_000) < 40
    assert each.least_seconds(0, 500) == 5
    assert each.least_seconds(400, 500) == pytest.approx(10)
    assert each.least_seconds(20_000_000, None, calls=200) == pytest.approx(500_000)  # each call from a cache
