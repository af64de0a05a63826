"""The ONNX backend suite on ortlite, per provider, and the tables made from it. See `python -m conformance -h`."""
