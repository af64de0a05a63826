"""Operators of onnxruntime's domain com.microsoft, as its CPU provider has them: what real files carry."""

from ortlite.ops.contrib import (
    attention,
    beams,
    decoding,
    experts,
    fused,
    generation,
    linear,
    other,
    packed,
    quant,
    recurrent,
    state,
    streams,
)

__all__ = [
    "attention",
    "beams",
    "decoding",
    "experts",
    "fused",
    "generation",
    "linear",
    "other",
    "packed",
    "quant",
    "recurrent",
    "state",
    "streams",
]
