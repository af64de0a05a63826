"""`ortlite run --output` on Parquet and Zarr."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner

from ortlite.cli import main
from ortlite.cli.digits import model_bytes, scans
from tests.scale.rows import expected, many
from tests.test_batches import FIXED, TWO, built


@pytest.fixture
def digits(tmp_path):
    path = tmp_path / "digits.onnx"
    path.write_bytes(model_bytes())
    return path


def invoke(*args):
    done = CliRunner().invoke(main, ["run", *map(str, args)])
    return done.exit_code, done.output


@pytest.mark.parametrize("workers", [1, 2])
def test_parquet(digits, tmp_path, workers):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    x = many(2300)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 64)
    table = pa.table({"id": np.arange(2300), "scan": flat, "word": ["a", None] * 1150})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=700)
    status, said = invoke(
        digits, "--input", tmp_path / "x.parquet", "--output", tmp_path / "y.parquet", "--workers", workers
    )
    assert status == 0, said
    made = pq.read_table(tmp_path / "y.parquet")
    assert made.column_names == ["id", "word", "probabilities"]
    assert made["id"].to_pylist() == list(range(2300))
    assert made["word"].to_pylist() == ["a", None] * 1150
    assert made.schema.field("probabilities").type == pa.list_(pa.float32(), 10)
    np.testing.assert_allclose(np.array(made["probabilities"].to_pylist()), expected(x), atol=1e-6)


def test_columns_of_a_table(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (tmp_path / "two.onnx").write_bytes(built(TWO))
    n = np.arange(9)
    pq.write_table(pa.table({"p": n * 1.0, "q": n * 2.0, "r": n * 3.0, "n": n}), tmp_path / "x.parquet")
    given = [tmp_path / "two.onnx", "--input", tmp_path / "x.parquet", "--output", tmp_path / "y.parquet"]
    given += ["--constant", "scale=2"]
    status, said = invoke(*given)
    assert status == 1
    assert "has no column a for input 'a'; it has p, q, r, n. Say which make the input: --columns a=A,B" in said
    status, said = invoke(*given, "--columns", "a=p,q,r", "--columns", "b=n")
    assert status == 0, said
    made = pq.read_table(tmp_path / "y.parquet")
    np.testing.assert_array_equal(made["y"].to_pylist(), np.outer(n, [2, 4, 6]) + n[:, None])
    pq.write_table(pa.table({"x": [[1.0, 2, 3], [1.0]]}), tmp_path / "ragged.parquet")
    (tmp_path / "fixed.onnx").write_bytes(built(FIXED))
    _, said = invoke(tmp_path / "fixed.onnx", "--input", tmp_path / "ragged.parquet", "--output", tmp_path / "z.npy")
    assert "has lists of 1 to 3 elements" in said
    pq.write_table(pa.table({"x": [[1.0, 2, 3], None]}), tmp_path / "null.parquet")
    _, said = invoke(tmp_path / "fixed.onnx", "--input", tmp_path / "null.parquet", "--output", tmp_path / "z.npy")
    assert "column x has 1 nulls" in said
    pq.write_table(pa.table({"x": pa.array([], pa.list_(pa.float32(), 3))}), tmp_path / "none.parquet")
    status, said = invoke(tmp_path / "fixed.onnx", "--input", tmp_path / "none.parquet", "--output", tmp_path / "z.npy")
    assert status == 0, said
    assert np.load(tmp_path / "z.npy").shape == (0,)


@pytest.mark.parametrize("workers", [1, 2])
def test_zarr(digits, tmp_path, workers):
    zarr = pytest.importorskip("zarr")
    x = many(2300)
    zarr.create_array(tmp_path / "x.zarr", data=x, chunks=(500, 1, 8, 8))
    status, said = invoke(digits, "--input", tmp_path / "x.zarr", "--output", tmp_path / "y.zarr", "--workers", workers)
    assert status == 0, said
    made = zarr.open_group(tmp_path / "y.zarr", mode="r")
    np.testing.assert_allclose(made["probabilities"][:], expected(x), atol=1e-6)
    status, said = invoke(digits, "--input", tmp_path / "x.zarr", "--output", tmp_path / "y.zarr")
    assert "is there already" in said


def test_a_group_of_arrays(tmp_path):
    zarr = pytest.importorskip("zarr")
    (tmp_path / "two.onnx").write_bytes(built(TWO))
    group = zarr.open_group(tmp_path / "x.zarr", mode="w")
    group["a"], group["m"] = np.ones((5, 3), np.float32), np.arange(5)
    given = [tmp_path / "two.onnx", "--input", tmp_path / "x.zarr", "--constant", "scale=2"]
    status, said = invoke(*given, "--output", tmp_path / "y.zarr")
    assert status == 1
    assert "has no array 'b'; it has a, m" in said
    status, said = invoke(*given, "--output", tmp_path / "y.zarr", "--columns", "b=m")
    assert status == 0, said
    made = zarr.open_group(tmp_path / "y.zarr", mode="r")
    np.testing.assert_array_equal(made["twice"][:], 2 * np.arange(5))
    (tmp_path / "no.zarr").mkdir()
    assert (
        "no.zarr is no Zarr array or group"
        in invoke(
            tmp_path / "two.onnx",
            "--input",
            tmp_path / "no.zarr",
            "--constant",
            "scale=2",
            "--output",
            tmp_path / "z.npy",
        )[1]
    )


def test_images_name_their_files(digits, tmp_path):
    pq, image = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("PIL.Image")
    (tmp_path / "scans").mkdir()
    for index, scan in enumerate(scans()[0][:3]):
        image.fromarray((scan[0] * 15).astype(np.uint8)).save(tmp_path / f"scans/{index}.png")
    given = [digits, "--input", tmp_path / "scans", "--std", str(15 / 255)]
    status, said = invoke(*given, "--output", tmp_path / "y.parquet")
    assert status == 0, said
    made = pq.read_table(tmp_path / "y.parquet")
    assert made["file"].to_pylist() == ["0.png", "1.png", "2.png"]


def test_text(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    text = """<ir_version: 8, opset_import: ["": 20]>
    g (string[N] x) => (string[N] y) { y = StringConcat(x, x) }"""
    (tmp_path / "text.onnx").write_bytes(built(text))
    pq.write_table(pa.table({"x": ["a", "é"]}), tmp_path / "x.parquet")
    given = [tmp_path / "text.onnx", "--input", tmp_path / "x.parquet"]
    status, said = invoke(*given, "--output", tmp_path / "y.parquet")
    assert status == 0, said
    assert pq.read_table(tmp_path / "y.parquet")["y"].to_pylist() == ["aa", "éé"]
    _, said = invoke(*given, "--output", tmp_path / "y.npy")
    assert "output 'y' is text" in said
    zarr = pytest.importorskip("zarr")
    status, said = invoke(*given, "--output", tmp_path / "y.zarr")
    assert status == 0, said
    assert zarr.open_group(tmp_path / "y.zarr", mode="r")["y"][:].tolist() == ["aa", "éé"]
