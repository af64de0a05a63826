"""Memory that is freed stays in a worker of Dask, whatever its nanny asks glibc for."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

CODE = """
import resource
import numpy as np
from ortlite import heap
print(heap.keep_freed(1 << 26, in_worker=WORKER))
def run():
    x = [np.ones(1 << 18, np.float32) for _ in range(4)]
for _ in range(5):
    run()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    run()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 4 * (1 << 20) // os.sysconf("SC_PAGE_SIZE")  # of one run


def asked(in_worker, **variables):
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    code = CODE.replace("WORKER", str(in_worker))
    done = subprocess.run([sys.executable, "-c", code], env=env | variables, capture_output=True, text=True, check=True)
    kept, faults = done.stdout.split()
    return kept == "True", int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives the heap back at once")
def test_what_dask_asks_for_is_overruled_and_what_a_user_asks_for_is_not():
    dasks = {"MALLOC_TRIM_THRESHOLD_": "65536"}
    kept, faults = asked(True, **dasks)
    assert kept
    assert faults < PAGES  # in ten runs
    kept, faults = asked(False, **dasks)
    assert not kept
    assert faults >= 9 * PAGES
    assert not asked(True, MALLOC_TRIM_THRESHOLD_="131072")[0]
    assert not asked(True, MALLOC_ARENA_MAX="1", **dasks)[0]


def test_it_is_what_dask_sets():
    config = pytest.importorskip("distributed.config")  # fills dask's
    import dask

    from ortlite import heap

    assert config
    found = dask.config.get("distributed.nanny.pre-spawn-environ")
    assert heap.DASKS.items() <= {name: str(value) for name, value in found.items()}.items()
    assert not [name for name in found if name.startswith(("MALLOC_", "GLIBC_")) and name not in heap.DASKS]
