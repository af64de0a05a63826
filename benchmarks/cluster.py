"""One measurement of `benchmarks.workers`: rows through a model by one system, on ortlite or as one would by hand.

    python -m benchmarks.cluster SYSTEM ENGINE MODEL WORKERS ROWS BATCH

What is written by hand keeps one onnxruntime session a process, with as many threads as a worker has processors.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

import numpy as np

SEEN = 0.25  # of the rows are through before rates count, where a system starts its workers with the work


def data(model: str, rows: int) -> np.ndarray:
    """scikit-learn's digits as often as it takes, or pictures of noise."""
    if "digits" in model:
        from sklearn.datasets import load_digits

        scans = load_digits().images[:, None].astype(np.float32)
        return np.resize(scans, (rows, 1, 8, 8))
    return np.random.default_rng(0).standard_normal((rows, 3, 224, 224)).astype(np.float32)


# By hand


@functools.cache
def peer_session(model: str, threads: int):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def peer_run(model: str, threads: int, x: np.ndarray, batch: int) -> np.ndarray:
    session = peer_session(model, threads)
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: x[i : i + batch]})[0] for i in range(0, len(x), batch)])


def peer_part(model: str, threads: int, path: str, start: int, stop: int, batch: int) -> np.ndarray:
    return peer_run(model, threads, np.load(path, mmap_mode="r")[start:stop], batch)


class PeerPredictor:
    def __init__(self, model: str, name: str, batch: int):
        self.model, self.name, self.batch = model, name, batch

    def __call__(self, batch):
        return {"y": peer_run(self.model, 1, batch[self.name], self.batch)}


# Systems: each gives seconds for how many rows


def share(workers: int) -> int:
    return max(1, len(os.sched_getaffinity(0)) // workers)


def processes(engine: str, model: str, workers: int, x: np.ndarray, batch: int) -> tuple[float, int]:
    """`ortlite run --workers`, and a ProcessPoolExecutor."""
    block = 16 * batch if "digits" in model else batch
    moments: list[tuple[float, int]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.npy")
        np.save(path, x)
        if engine == "ortlite":
            from ortlite import progress
            from ortlite.batches import Job
            from ortlite.tools import offline

            offline.RUNS = block // batch
            with progress.listening(
                lambda what, done, total: moments.append((time.perf_counter(), done)) if what == "running" else None
            ):
                job = Job.of(model, batch_size=batch)
                offline.run_files(job, [str(path)], Path(folder, "y.npy"), workers=workers)
            return since(moments, len(x))
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            out, done = None, 0
            starts = iter(range(0, len(x), block))
            waiting: deque = deque()
            while True:
                while len(waiting) < 2 * workers and (start := next(starts, None)) is not None:
                    part = (model, share(workers), str(path), start, min(start + block, len(x)), batch)
                    waiting.append(pool.submit(peer_part, *part))
                if not waiting:
                    break
                y = waiting.popleft().result()
                out = (
                    np.lib.format.open_memmap(f"{folder}/y.npy", "w+", y.dtype, (len(x), *y.shape[1:]))
                    if out is None
                    else out
                )
                out[done : done + len(y)] = y
                done += len(y)
                moments.append((time.perf_counter(), done))
    return since(moments, len(x))


def since(moments: list[tuple[float, int]], rows: int) -> tuple[float, int]:
    """Seconds and rows from when a quarter was through."""
    first = next(m for m in moments if m[1] >= SEEN * rows)
    return moments[-1][0] - first[0], moments[-1][1] - first[1]


def dask(engine: str, model: str, workers: int, x: np.ndarray, batch: int) -> tuple[float, int]:
    import dask.array as da
    from distributed import Client, LocalCluster

    cluster = LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None)
    with cluster, Client(cluster):
        lazy = da.from_array(x, chunks=(max(batch, len(x) // 64), *x.shape[1:])).persist()
        if engine == "ortlite":
            from ortlite.dask import map_blocks

            y = map_blocks(model, lazy, batch_size=batch)
        else:
            y = lazy.map_blocks(
                lambda a: peer_run(model, 1, a, batch),
                dtype=np.float32,
                drop_axis=[2, 3],
                chunks=(lazy.chunks[0], (10,)),
            )
        y[: lazy.chunks[0][0] * 2 * workers].compute()  # sessions are made
        start = time.perf_counter()
        y.compute()
        return time.perf_counter() - start, len(x)


def ray(engine: str, model: str, workers: int, x: np.ndarray, batch: int) -> tuple[float, int]:
    # By itself Ray gives its workers 15, which loses to any other process; its variables are spelled like this.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    import ray as ray_

    ray_.init(num_cpus=workers + 1, include_dashboard=False, log_to_driver=False, object_store_memory=2**30)
    dataset = ray_.data.from_numpy(np.array_split(x, 64))
    size, pool = max(batch, len(x) // 64), ray_.data.ActorPoolStrategy(size=workers)
    if engine == "ortlite":
        from ortlite.batches import Job
        from ortlite.ray import Predictor

        columns = {Job.of(model).inputs[0].name: "data"}
        made = dataset.map_batches(
            Predictor, fn_constructor_args=[model], fn_constructor_kwargs={"columns": columns, "batch_size": batch},
            compute=pool, batch_size=size, num_cpus=1,
        )  # fmt: skip
    else:
        made = dataset.map_batches(
            PeerPredictor, fn_constructor_args=[model, "data", batch], compute=pool, batch_size=size, num_cpus=1
        )
    moments, done = [], 0
    for part in made.iter_batches(batch_size=None, prefetch_batches=0):
        done += len(next(iter(part.values())))
        moments.append((time.perf_counter(), done))
    return since(moments, len(x))


def spark(engine: str, model: str, workers: int, x: np.ndarray, batch: int) -> tuple[float, int]:
    os.environ["PYSPARK_PYTHON"], os.environ["SPARK_LOCAL_IP"] = sys.executable, "127.0.0.1"
    from collections.abc import Iterator

    import pandas as pd
    from pyspark.sql import SparkSession
    from pyspark.sql.functions import pandas_udf

    builder = SparkSession.builder.master(f"local[{workers}]").config("spark.ui.enabled", "false")
    builder = builder.config("spark.sql.execution.arrow.pyspark.enabled", "true").config("spark.driver.memory", "2g")
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("OFF")
    frame = session.createDataFrame(pd.DataFrame({"x": list(x.reshape(len(x), -1))})).repartition(8).cache()
    frame.count()
    if engine == "ortlite":
        from ortlite.spark import udf

        run = udf(model, batch_size=batch)
    else:
        row = x.shape[1:]

        def by_hand(batches: Iterator[pd.Series]) -> Iterator[pd.Series]:
            for series in batches:
                yield pd.Series(list(peer_run(model, 1, np.stack(list(series)).reshape(-1, *row), batch)))

        by_hand.__annotations__ = {"batches": Iterator[pd.Series], "return": Iterator[pd.Series]}
        run = pandas_udf(by_hand, "array<float>")
    made = frame.select(run("x").alias("y"))
    made.write.format("noop").mode("overwrite").save()
    start = time.perf_counter()
    made.write.format("noop").mode("overwrite").save()
    seconds = time.perf_counter() - start
    session.stop()
    return seconds, len(x)


SYSTEMS: dict[str, Callable] = {"run": processes, "dask": dask, "ray": ray, "spark": spark}


def held(pid: int) -> tuple[float, float]:
    """MB that a process has in memory, PSS and RSS, of one moment: in two readings a process that grows has a PSS
    above its RSS. Raises OSError where the process is no more.
    """
    lines = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    found = {words[0]: int(words[1]) / 2**10 for words in lines}
    return found["Pss:"], found["Rss:"]


class Memory(threading.Thread):
    """Looks at the largest Python processes below this one, now and then: what they have in memory at most."""

    def __init__(self, workers: int):
        super().__init__(daemon=True)
        self.workers, self.most, self.over = workers, (0.0, 0.0), threading.Event()

    def run(self):
        import psutil

        while not self.over.wait(0.3):
            found = []
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error, OSError):
                    name = " ".join(process.cmdline()[:1])
                    if "java" not in name and "raylet" not in name and "gcs_server" not in name:
                        found.append(held(process.pid))
            if not found and self.workers == 1:  # `ortlite run` by itself
                found.append(held(os.getpid()))
            largest = sorted(found)[-self.workers :]
            if len(largest) == self.workers:
                mean = tuple(sum(each) / self.workers for each in zip(*largest, strict=True))
                self.most = max(self.most, mean)


def main(system: str, engine: str, model: str, workers: int, rows: int, batch: int) -> None:
    x = data(model, rows)
    memory = Memory(workers)
    memory.start()
    seconds, done = SYSTEMS[system](engine, model, workers, x, batch)
    memory.over.set()
    print(json.dumps({"rows": done / seconds, "pss": memory.most[0], "rss": memory.most[1]}))


if __name__ == "__main__":
    from benchmarks import cluster  # noqa: PLW0406  (workers import what runs in them by that name)

    cluster.main(sys.argv[1], sys.argv[2], sys.argv[3], *map(int, sys.argv[4:]))
