"""Speed and memory beside the peers, in one run, each engine in a process of its own. See `python -m benchmarks -h`."""

import os

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # processes started from here find bytecode, as those of users do
