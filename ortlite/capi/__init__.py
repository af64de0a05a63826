"""The modules that programs import from onnxruntime.capi."""
