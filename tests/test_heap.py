"""Memory that is freed stays in the process, unless a user asked glibc for something else."""

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
print(heap.keep_freed(1 << 26, frozenset(OVERRULED)))
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


THRESHOLD = {"MALLOC_TRIM_THRESHOLD_": "65536"}


def ran(code, **variables):
    """Whether glibc was asked, and the faults of ten runs, in a process that has these variables of malloc's alone."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run([sys.executable, "-c", code], env=env | variables, capture_output=True, text=True, check=True)
    kept, faults = done.stdout.split()
    return kept == "True", int(faults)


def asked(overruled, **variables):
    return ran(CODE.replace("OVERRULED", repr([*overruled.items()])), **variables)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives the heap back at once")
def test_what_a_framework_asks_for_is_overruled_and_what_a_user_asks_for_is_not():
    kept, faults = asked(THRESHOLD, **THRESHOLD)
    assert kept
    assert faults < PAGES  # in ten runs
    kept, faults = asked({}, **THRESHOLD)
    assert not kept
    assert faults >= 9 * PAGES
    assert asked(THRESHOLD)[0]
    assert not asked(THRESHOLD, MALLOC_TRIM_THRESHOLD_="131072")[0]
    assert not asked(THRESHOLD, MALLOC_ARENA_MAX="1", **THRESHOLD)[0]


LARGE = """
import resource, threading
import numpy as np
from ortlite import heap
print(heap.keep_all())
def run():
    thread = threading.Thread(target=np.ones, args=(1 << 24, np.float32))
    thread.start()
    thread.join()
for _ in range(3):
    run()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    run()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has a heap for each thread")
def test_large_blocks_of_threads_stay_too():
    kept, faults = ran(LARGE)
    assert kept
    assert faults < (1 << 26) // os.sysconf("SC_PAGE_SIZE")  # in ten runs, fewer than one takes


def test_dask_overrules_what_its_nanny_sets():
    config = pytest.importorskip("distributed.config")  # fills dask's
    import dask

    from ortlite.dask import NANNYS

    assert config
    found = dask.config.get("distributed.nanny.pre-spawn-environ")
    assert {(n, str(v)) for n, v in found.items() if n.startswith(("MALLOC_", "GLIBC_"))} == NANNYS
