"""Operators of the domain ai.onnx.ml: classical machine learning."""

from ortlite.ops.ml import encoders, features, linear, maps, svm, trees

__all__ = ["encoders", "features", "linear", "maps", "svm", "trees"]
