"""`ortlite.spark.udf` on a local Spark of two worker processes, of which one is killed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from ortlite.cli.digits import model_bytes
from ortlite.errors import InvalidArgument
from tests.scale.rows import die_once, expected, many
from tests.test_batches import FIXED, TWO, built

if missing := [name for name in ("pyspark", "pandas", "pyarrow") if importlib.util.find_spec(name) is None]:
    pytest.skip(f"Spark needs {', '.join(missing)}: pip install 'ortlite[spark]'", allow_module_level=True)
if shutil.which("java") is None or subprocess.run(["java", "-version"], capture_output=True, check=False).returncode:
    pytest.skip("Spark needs Java: apt install openjdk-17-jre-headless", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")  # Spark's own, of pandas


@pytest.fixture(scope="module")
def spark():
    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master("local[2,4]").appName("ortlite")  # two tasks at a time, four tries each
    for key, value in {"spark.ui.enabled": "false", "spark.sql.execution.arrow.maxRecordsPerBatch": "50"}.items():
        builder = builder.config(key, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("OFF")
    yield session
    session.stop()


@pytest.fixture
def digits(tmp_path):
    path = tmp_path / "digits.onnx"
    path.write_bytes(model_bytes())
    return str(path)


def test_types():
    from pyspark.sql import types

    from ortlite.spark import udf

    assert udf(model_bytes()).returnType == types.ArrayType(types.FloatType())
    both = udf(built(TWO), constants={"scale": 1}).returnType
    assert both.fieldNames() == ["y", "twice"]
    assert both["twice"].dataType == types.LongType()
    assert udf(built(FIXED)).returnType == types.FloatType()
    wider = FIXED.replace("float[4] y", "float[4, K] y").replace("ReduceSum<keepdims=0>(x, one)", "Identity(x)")
    assert udf(built(wider)).returnType == types.ArrayType(types.FloatType())
    wide = FIXED.replace("float[4] y", "uint64[4, 3] y").replace("ReduceSum<keepdims=0>(x, one)", "Cast<to=13>(x)")
    with pytest.raises(InvalidArgument, match="Spark has no type for output 'y'"):
        udf(built(wide))


def test_frames_whose_worker_is_killed(spark, digits, tmp_path):
    from pyspark.sql import functions

    from ortlite.spark import udf

    x = many(400)
    rows = [(i, row.ravel().tolist()) for i, row in enumerate(x)]
    frame = spark.createDataFrame(rows, "id long, scan array<float>").repartition(4, "id")
    mark = str(tmp_path / "mark")

    @functions.udf("array<float>")
    def touched(number, scan):
        if number == 250:
            die_once(mark)
        return scan

    digit = udf(digits)
    made = frame.select("id", digit(touched("id", "scan")).alias("p")).orderBy("id").collect()
    assert (tmp_path / "mark").exists()
    assert [row.id for row in made] == list(range(400))
    np.testing.assert_allclose([row.p for row in made], expected(x), atol=1e-6)


def test_several_columns_nested_rows_and_structs(spark):
    from ortlite.spark import udf

    rows = [(i, [1.0 * i, 2.0, 3.0]) for i in range(7)]
    frame = spark.createDataFrame(rows, "n int, a array<double>")
    made = frame.select("n", udf(built(TWO), constants={"scale": 2})("a", "n").alias("m")).collect()
    assert all(row.m.twice == 2 * row.n for row in made)
    assert all(row.m.y == [2 * row.n + row.n, 4 + row.n, 6 + row.n] for row in made)
    nested = spark.createDataFrame([(row.tolist(),) for row in many(5)], "scan array<array<array<float>>>")
    found = nested.select(udf(model_bytes(), outputs=["probabilities"])("scan").alias("p")).collect()
    np.testing.assert_allclose([row.p for row in found], expected(many(5)), atol=1e-6)
    relu = FIXED.replace("float[4, 3] x", "float[N, 1, 8, 8] x").replace("float[4] y", "float[N, 1, 8, 8] y")
    same = udf(built(relu.replace("ReduceSum<keepdims=0>(x, one)", "Relu(x)")))
    assert [row.s for row in nested.select(same("scan").alias("s")).collect()] == many(5).tolist()
