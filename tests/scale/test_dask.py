"""`ortlite.dask.map_blocks`, on a local cluster of two processes too, of which one is killed."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest

da = pytest.importorskip("dask.array")
import dask  # noqa: E402

from ortlite.batches import Job  # noqa: E402
from ortlite.cli.digits import model_bytes, scans  # noqa: E402
from ortlite.dask import map_blocks  # noqa: E402
from ortlite.errors import InvalidArgument  # noqa: E402
from tests.scale.rows import die_once, expected, many  # noqa: E402
from tests.test_batches import FIXED, TWO, built  # noqa: E402

PICTURES = """<ir_version: 8, opset_import: ["": 18]>
g (float[N, 1, H, W] x) => (float[N, 1, h, w] half, float[N, 1] mean)
{ half = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(x)  m = GlobalAveragePool(x)  mean = Flatten(m) }"""
FLAT = """<ir_version: 8, opset_import: ["": 18]>
g (float[N, A, B] x) => (float[N, K] y) { y = Flatten(x) }"""


@pytest.fixture(autouse=True)
def _threads():
    with dask.config.set(scheduler="threads"):
        yield


def test_chunks_dtype_and_meta_are_known_before():
    x = da.from_array(many(50).astype(np.float64), chunks=(16, 1, 8, 8))
    y = map_blocks(model_bytes(), x)
    assert y.chunks == ((16, 16, 16, 2), (10,))
    assert y.dtype == np.float32
    assert y._meta.shape == (0, 0)
    np.testing.assert_allclose(y.compute(), expected(many(50)), atol=1e-6)
    assert y[:3].compute().shape == (3, 10)
    assert map_blocks(model_bytes(), x).name == y.name


def test_several_outputs_come_of_one_run(monkeypatch):
    runs = []
    whole = Job.run
    monkeypatch.setattr(Job, "run", lambda self, *args: runs.append(1) or whole(self, *args))
    x = da.from_array(many(50), chunks=(16, 1, 8, 8))
    made = map_blocks(model_bytes(), x, outputs=["probabilities", "h"])
    h, probabilities = dask.compute(made["h"], made["probabilities"])
    assert len(runs) == 4
    assert (h.shape, probabilities.shape) == ((50, 48), (50, 10))
    np.testing.assert_allclose(h, expected(many(50), "h"), atol=1e-5)


@pytest.mark.parametrize("by_name", [True, False])
def test_several_inputs(by_name):
    a, b = np.arange(30.0).reshape(10, 3), np.arange(10)
    arrays = da.from_array(a, chunks=(4, 2)), da.from_array(b, chunks=3)
    arrays = (arrays[0].rechunk({1: -1}), arrays[1])
    given = [dict(zip("ab", arrays, strict=True))] if by_name else arrays
    made = map_blocks(built(TWO), *given, constants={"scale": 3})
    assert list(made) == ["y", "twice"]
    assert made["y"].chunks[0] == made["twice"].chunks[0]
    np.testing.assert_array_equal(made["y"].compute(), 3 * a + b[:, None])
    np.testing.assert_array_equal(made["twice"].compute(), 2 * b)


def test_a_fixed_batch_and_unknown_chunks():
    x = np.arange(33, dtype=np.float32).reshape(11, 3)
    y = map_blocks(built(FIXED), da.from_array(x, chunks=(5, 3)))
    assert y.chunks == ((5, 5, 1),)
    np.testing.assert_array_equal(y.compute(), x.sum(1))
    array = da.from_array(x, chunks=(5, 3))
    some = map_blocks(built(FIXED), array[array[:, 0] > 10])
    assert np.isnan(some.shape[0])
    np.testing.assert_array_equal(some.compute(), x[x[:, 0] > 10].sum(1))


def test_pictures_in_tiles():
    x = np.random.default_rng(0).standard_normal((5, 1, 12, 20)).astype(np.float32)
    half = map_blocks(built(PICTURES), da.from_array(x, chunks=(2, 1, 8, 10)), outputs=["half"])
    assert half.chunks == ((2, 2, 1), (1,), (4, 2), (5, 5))
    np.testing.assert_array_equal(half.compute(), x.reshape(5, 1, 6, 2, 10, 2).max((3, 5)))
    with pytest.raises(
        InvalidArgument, match=r"output 'mean' .* has no axis 2, along which an input has several chunks"
    ):
        map_blocks(built(PICTURES), da.from_array(x, chunks=(2, 1, 8, 20)))
    flat = da.from_array(np.ones((4, 2, 6), np.float32), chunks=(4, 1, 6))
    assert map_blocks(built(FLAT), flat.rechunk({1: -1})).compute().shape == (4, 12)


@pytest.mark.parametrize(
    ("array", "error", "problem"),
    [
        (many(3), TypeError, "given a ndarray, no Dask array"),
        (da.zeros((3, 8, 8)), InvalidArgument, r"given an array of shape \(3, 8, 8\)"),
        (da.zeros((3, 1, 8, 9)), InvalidArgument, r"rows of shape \[1, 8, 9\] do not fit input 'scan'"),
        (da.zeros((3, 1, 8, 8), dtype=complex), InvalidArgument, "given an array of complex128"),
    ],
)
def test_what_does_not_fit(array, error, problem):
    with pytest.raises(error, match=problem):
        map_blocks(model_bytes(), array)


def test_xarray_keeps_what_is_the_same():
    xr = pytest.importorskip("xarray")
    x = xr.DataArray(
        many(20),
        dims=["scan", "band", "y", "x"],
        coords={"scan": np.arange(20) * 2, "y": np.linspace(0, 1, 8), "label": ("scan", np.resize(scans()[1], 20))},
    )
    with pytest.raises(TypeError, match=r"chunk it first: \.chunk\(\)"):
        map_blocks(model_bytes(), x)
    y = map_blocks(model_bytes(), x.chunk(scan=7))
    assert y.dims == ("scan", "probabilities_1")
    assert set(y.coords) == {"scan", "label"}
    assert (y.argmax("probabilities_1") == y.label).all().compute()
    both = map_blocks(
        model_bytes(), x.chunk(scan=7), outputs=["probabilities", "h"], dims={"probabilities": ("scan", "digit")}
    )
    assert dict(both.sizes) == {"scan": 20, "digit": 10, "h_1": 48}
    pictures = map_blocks(
        built(PICTURES.replace("kernel_shape=[2, 2], strides=[2, 2]", "kernel_shape=[1, 1]")),
        x.chunk(scan=7),
        outputs=["half"],
    )
    assert pictures.dims == x.dims
    assert set(pictures.coords) == set(x.coords)


def touched(block, mark):
    if block.size and block[0, 0, 0, 0] == 99:
        die_once(mark)
    return block


@pytest.mark.filterwarnings("ignore")  # the packages' own, of workers that are lost
def test_a_cluster_whose_worker_is_killed(tmp_path):
    distributed = pytest.importorskip("distributed")
    path = tmp_path / "digits.onnx"
    path.write_bytes(model_bytes())
    x = many(400)
    x[250, 0, 0, 0] = 99  # the ten rows around it kill the first worker that takes them
    x[240, 0, 0, 0] = 99
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=2, processes=True, dashboard_address=None, local_directory=str(tmp_path)
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        lazy = da.from_array(x, chunks=(10, 1, 8, 8)).map_blocks(
            functools.partial(touched, mark=str(tmp_path / "mark"))
        )
        y = map_blocks(path, lazy).compute(scheduler=client)
        client.wait_for_workers(2)  # the one that is started anew is there again
        sessions = client.run(sessions_here)
    assert (tmp_path / "mark").exists()
    np.testing.assert_allclose(y, expected(x), atol=1e-6)
    assert set(sessions.values()) <= {0, 1}
    assert 1 in sessions.values()


def sessions_here():
    from ortlite import batches

    return len(batches._here.sessions)


def test_jobs_travel_light():
    import pickle

    job = Job.of(model_bytes())
    assert len(pickle.dumps(dataclasses.replace(job, source=""))) < 2000
