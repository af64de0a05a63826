"""Where onnxruntime loads libraries in advance. There are none."""
