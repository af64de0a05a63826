"""The worked example: adversarial digits fool the model, are the same by torch and by JAX, and are on its page."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import ortlite
from ortlite.cli import digits
from ortlite.demo import adversarial

FOLDER = Path(adversarial.__file__).parent


def read(x):
    """Digits and confidences, by a session."""
    (probabilities,) = ortlite.InferenceSession(digits.model_bytes()).run(None, {"scan": x})
    return probabilities.argmax(1), probabilities.max(1)


@pytest.mark.parametrize("library", adversarial.LIBRARIES)
def test_the_model_reads_other_digits(library):
    pytest.importorskip(library)
    before, after = adversarial.examples(library)
    written = digits.scans()[1][list(adversarial.SHOWN)]
    assert (read(before)[0] == written).all()
    found, confidence = read(after)
    assert (found != written).all()
    assert confidence.min() > 0.8
    assert after.dtype == np.float32
    assert after.min() >= 0
    assert after.max() <= 16
    assert np.abs(after - before).max() < 6


def test_both_libraries_give_the_same_digits():
    pytest.importorskip("torch")
    pytest.importorskip("jax")
    (_, one), (_, other) = map(adversarial.examples, adversarial.LIBRARIES)
    np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("library", adversarial.LIBRARIES)
def test_the_page_shows_what_comes_out(library, tmp_path):
    pytest.importorskip(library)
    image = pytest.importorskip("PIL.Image")
    done = CliRunner().invoke(adversarial.main, ["--library", library, "--out", str(tmp_path / "new.png")])
    assert done.exit_code == 0, done.output
    assert len(done.output.splitlines()) == len(adversarial.SHOWN)
    committed = FOLDER / f"adversarial-{library}.png"
    assert committed.stat().st_size < 30_000
    assert committed.name in (FOLDER / "README.md").read_text()
    with image.open(committed) as old, image.open(tmp_path / "new.png") as new:
        assert old.size == new.size
        assert np.abs(np.asarray(old, np.int32) - np.asarray(new, np.int32)).mean() < 1


@pytest.mark.parametrize(("module", "extra"), [("torch", "torch"), ("jax", "jax"), ("PIL", "image")])
def test_what_is_missing_is_named(module, extra, monkeypatch, tmp_path):
    library = module if module != "PIL" else "torch"
    if module == "PIL":
        pytest.importorskip("torch")
    monkeypatch.setitem(sys.modules, module, None)
    done = CliRunner().invoke(adversarial.main, ["--library", library, "--out", str(tmp_path / "new.png")])
    assert done.exit_code == 1
    assert f"this needs {module}: pip install 'ortlite[{extra}]'" in done.output
