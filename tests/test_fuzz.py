"""What fuzzing found, and was mended: each model that broke something once must not do so again."""

from __future__ import annotations

from pathlib import Path

import fuzz
import pytest

CASES = sorted(Path(__file__).with_name("fuzz_cases").glob("*.onnx"))


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
@pytest.mark.parametrize("compiled", ["0", "1"])
def test_what_was_found_is_mended(path, compiled):
    problem, found = fuzz.tried(path.read_bytes(), 0, compiled)
    assert problem is None
    if isinstance(found, tuple) and not fuzz.peculiar(path.read_bytes()):
        pytest.importorskip("onnxruntime")
        assert fuzz.judged(found, fuzz.theirs(path.read_bytes(), found[0], found[1])) is None


def test_mutants_are_the_same_every_time():
    models = fuzz.few()
    assert [fuzz.mutant(seed, models) for seed in range(20)] == [fuzz.mutant(seed, models) for seed in range(20)]
