"""ONNX operators as pure functions of arrays, one file per category."""
