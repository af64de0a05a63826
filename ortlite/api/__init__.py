"""The onnxruntime-shaped surface: session, options, values, errors. No algorithms live here."""
