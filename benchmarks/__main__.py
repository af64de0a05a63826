"""`python -m benchmarks`: whole models beside onnxruntime. See `benchmarks.speed`."""

from benchmarks.speed import main
from conformance import run_main

if __name__ == "__main__":
    run_main(main)
