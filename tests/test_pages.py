"""The heap's pages become huge ones, and what is in them stays."""

from __future__ import annotations

import mmap
import subprocess
import sys

import pytest

from ortlite import pages

CODE = """
import re
from ortlite import pages
kept = [bytes([i % 251]) * 1000 for i in range(20000)]  # by malloc: 20 MB of its heap
def huge():
    found, of_heap = 0, False
    for line in open("/proc/self/smaps"):
        if re.match("[0-9a-f]+-", line):
            of_heap = line.endswith("[heap]\\n")
        elif of_heap and line.startswith("AnonHugePages:"):
            found += int(line.split()[1]) // 2048
    return found
print(huge(), pages.put_together(0.0), pages.put_together(60.0), huge())
assert kept == [bytes([i % 251]) * 1000 for i in range(20000)]
"""


def collapses():
    """Whether the system puts pages together for who asks."""
    if sys.platform != "linux" or "[never]" in pages.ENABLED.read_text():
        return False
    memory = mmap.mmap(-1, 2 * pages.SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[:] = bytes(2 * pages.SIZE)
    try:
        memory.madvise(pages.COLLAPSE)
    except OSError:
        return False
    return True


def test_pages_are_put_together_until_the_time_is_over():
    if not collapses():
        pytest.skip("needs Linux 6.1 and huge pages for who asks")
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    before, at_once, made, after = map(int, done.stdout.split())
    assert (before, at_once) == (0, 0)
    assert 4 <= made <= after + 1


def test_nothing_is_done_where_the_system_says_never(monkeypatch, tmp_path):
    says = tmp_path / "enabled"
    says.write_text("always madvise [never]\n")
    monkeypatch.setattr(pages, "ENABLED", says)
    assert pages.put_together(1.0) == 0
    monkeypatch.setattr(pages, "ENABLED", tmp_path / "missing")
    assert pages.put_together(1.0) == 0
