"""Hypothesis profiles: `dev` (default) is quick, `ci` repeats the same examples, `thorough` looks further."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from ortlite.api import environment

quiet = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("dev", max_examples=30, deadline=None, suppress_health_check=quiet)
settings.register_profile("ci", max_examples=50, deadline=None, derandomize=True, suppress_health_check=quiet)
settings.register_profile("thorough", max_examples=2000, deadline=None, suppress_health_check=quiet)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in what a shell runs in the background; children inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What the markers mean; pyproject.toml says what they are for."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
    if "CPUExecutionProvider" in os.environ.get("ORTLITE_TEST_PROVIDERS", "CPUExecutionProvider"):
        return
    for item in items:
        if item.get_closest_marker("once"):
            item.add_marker(pytest.mark.skip("says the same whatever library is installed"))


@pytest.fixture(autouse=True, scope="module")
def _forget_programs() -> Iterator[None]:
    """Thousands of compiled functions take gigabytes and make the garbage collector slow; no file needs another's."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()


@pytest.fixture(autouse=True)
def _restore_the_process() -> Iterator[None]:
    """A seed or a number of threads that a test sets for the whole process holds for that test alone."""
    before = dict(environment._process)
    yield
    environment._process.update(before)
