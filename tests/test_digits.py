"""The model that ships: what its metadata promises holds."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

import ortlite
from benchmarks import train_digits
from ortlite.cli import digits


def test_accuracy_on_scans_it_never_saw():
    data = load_digits()
    held_out = train_digits.held_out_fifth(len(data.images))
    assert len(held_out) == 360
    session = ortlite.InferenceSession(digits.model_bytes())
    (probabilities,) = session.run(None, {"scan": data.images[held_out, None].astype(np.float32)})
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    accuracy = (probabilities.argmax(1) == data.target[held_out]).mean()
    assert accuracy >= 0.98
    facts = session.get_modelmeta().custom_metadata_map
    assert float(facts["accuracy"]) == pytest.approx(accuracy, abs=1e-4)
    assert "CC BY 4.0" in facts["data"]


def test_size():
    assert len(digits.model_bytes()) <= 200_000


def test_the_scans_shown_are_real_and_held_out():
    data = load_digits()
    x, labels = digits.scans()
    shown = train_digits.held_out_fifth(len(data.images))[: len(x)]
    np.testing.assert_array_equal(x[:, 0], data.images[shown])
    np.testing.assert_array_equal(labels, data.target[shown])


def test_training_learns():
    data = load_digits()
    images, labels = data.images[:200, None].astype(np.float32) / 16, data.target[:200]
    weights = train_digits.train(images, labels, epochs=30)
    session = ortlite.InferenceSession(train_digits.model(weights).SerializeToString())
    (probabilities,) = session.run(None, {"scan": images * 16})
    assert (probabilities.argmax(1) == labels).mean() > 0.7
