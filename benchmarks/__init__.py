"""Speed and memory beside the peers, in one run, each engine in a process of its own. See `python -m benchmarks -h`."""
