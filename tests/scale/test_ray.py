"""`ortlite.ray.Predictor` in Ray Data and Serve, on a local cluster of several processes, of which one is killed."""

from __future__ import annotations

import numpy as np
import pytest

ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")

from ortlite.cli.digits import model_bytes, scans  # noqa: E402
from ortlite.errors import InvalidArgument  # noqa: E402
from ortlite.ray import Predictor  # noqa: E402
from tests.scale.rows import die_once, expected, many  # noqa: E402
from tests.test_batches import TWO, built  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, object_store_memory=200_000_000)
    yield
    ray.shutdown()


@pytest.fixture
def digits(tmp_path):
    path = tmp_path / "digits.onnx"
    path.write_bytes(model_bytes())
    return str(path)


def test_columns(digits):
    predict = Predictor(digits)
    made = predict({"id": np.arange(5), "scan": many(5)})
    assert list(made) == ["id", "probabilities"]
    np.testing.assert_allclose(made["probabilities"], expected(many(5)), atol=1e-6)
    two = Predictor(built(TWO), columns={"a": ["p", "q", "r"], "b": "n"}, constants={"scale": 2})
    columns = {name: np.array([1.0, 2.0]) for name in "pqr"} | {"n": np.array([1, 2]), "key": np.array(["k", "l"])}
    made = two(columns)
    assert list(made) == ["key", "y", "twice"]
    np.testing.assert_array_equal(made["y"], [[3, 3, 3], [6, 6, 6]])
    with pytest.raises(InvalidArgument, match="there is no column n, q, r among p"):
        two({"p": [1]})
    with pytest.raises(InvalidArgument, match="has an output y, and so is a column called"):
        two(columns | {"y": np.zeros(2)})
    with pytest.raises(InvalidArgument, match="has no input c; it has a, b"):
        Predictor(built(TWO), columns={"c": "n"}, constants={"scale": 2})


def test_requests(digits):
    predict = Predictor(digits)
    made = predict.rows([{"scan": row} for row in many(5).tolist()])
    np.testing.assert_allclose([row["probabilities"] for row in made], expected(many(5)), atol=1e-6)
    assert predict.rows([]) == []
    with pytest.raises(InvalidArgument, match="a request has no 'scan'"):
        predict.rows([{}])


class Dying(Predictor):
    """Kills its actor once, when the row 1,000 comes by."""

    def __init__(self, *args, mark, **keywords):
        self.mark = mark
        super().__init__(*args, **keywords)

    def __call__(self, batch):
        if 1000 in batch["id"]:
            die_once(self.mark)
        return super().__call__(batch) | {"threads": np.full(len(batch["id"]), self.threads)}


def test_data_whose_actor_is_killed(cluster, digits, tmp_path):
    x = many(2000)
    dataset = ray.data.from_items([{"id": i, "scan": row} for i, row in enumerate(x)], override_num_blocks=16)
    made = dataset.map_batches(
        Dying,
        fn_constructor_args=[digits],
        fn_constructor_kwargs={"mark": str(tmp_path / "mark")},
        compute=ray.data.ActorPoolStrategy(size=2),
        batch_size=100,
        num_cpus=1,
    )
    rows = sorted(made.take_all(), key=lambda row: row["id"])
    assert (tmp_path / "mark").exists()
    assert [row["id"] for row in rows] == list(range(2000))
    np.testing.assert_allclose(np.stack([row["probabilities"] for row in rows]), expected(x), atol=1e-6)
    assert {row["threads"] for row in rows} == {1}


def test_serve(cluster, digits):
    serve = pytest.importorskip("ray.serve")
    handle = serve.run(serve.deployment(Predictor).bind(digits), route_prefix=None)
    try:
        made = handle.remote({"scan": scans()[0]}).result(timeout_s=120)
    finally:
        serve.shutdown()
    assert (made["probabilities"].argmax(1) == scans()[1]).all()
