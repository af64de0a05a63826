"""The rewrites, in the order in which they are tried, in phases; names are onnxruntime's where it has one."""

from __future__ import annotations

from ortlite.optimize import (
    activations,
    attention,
    distances,
    epilogues,
    noop,
    norms,
    pointwise,
    quantised,
    rotary,
    weights,
)
from ortlite.optimize.rule import MS, Rule

__all__ = ["ASKED", "BEFORE_FOLDING", "HERE", "NEWER", "PHASES"]

BASIC, EXTENDED, LAYOUT = 1, 2, 3

Q = ("QuantizeLinear",)
BYTES: tuple[Rule, ...] = (
    Rule("DoubleQDQPairsRemover", BASIC, Q, quantised.match_back, quantised.hand_back),
    Rule("ReluQuantRewrite", BASIC, Q, quantised.match_redundant, quantised.redundant),
    Rule("QDQSelectorActionTransformer", EXTENDED, Q, quantised.match_moving, quantised.moving),
    Rule("QDQSelectorActionTransformer", EXTENDED, Q, quantised.match_integer, quantised.integer),
    Rule("NhwcTransformer", EXTENDED, ("QLinearConv",), quantised.match_convolution, quantised.convolution, MS),
)

SHAPES = ("Shape", "Size", "Gather", "Concat", "Slice", "Squeeze", "Unsqueeze", "Cast", "Add", "Sub", "Mul", "Div")
NOOPS: tuple[Rule, ...] = (
    Rule("ShapeFolding", BASIC, SHAPES, noop.match_shape_value, noop.shape_value),
    Rule("EliminateDropout", BASIC, ("Dropout",), noop.match_dropout, noop.hand_on),
    Rule("EliminateSlice", BASIC, ("Slice",), noop.match_same_slice, noop.hand_on),
    Rule("Pad_Fusion", BASIC, ("Pad",), noop.match_no_pad, noop.hand_on),
    Rule("ExpandElimination", BASIC, ("Expand",), noop.match_own_shape, noop.hand_on),
    Rule("CastElimination", BASIC, ("Cast",), noop.match_own_dtype, noop.hand_on),
    Rule("CastChainElimination", BASIC, ("Cast",), noop.match_casts, noop.casts),
    Rule("NoopElimination", BASIC, ("Add", "Sub", "Mul", "Div"), noop.match_neutral, noop.hand_on),
    Rule("NoopElimination", BASIC, ("Concat", "Sum", "Max", "Min", "Mean"), noop.match_single, noop.hand_on),
    Rule("NoopElimination", BASIC, ("Where",), noop.match_where, noop.hand_on),
    Rule("TransposeOptimizer", BASIC, ("Transpose",), noop.match_transposes, noop.transposes),
    Rule("TransposeOptimizer", BASIC, ("Reshape",), attention.match_swap, attention.swap),
    Rule("ReshapeFusion", BASIC, ("Reshape", "Flatten"), noop.match_own_shape, noop.hand_on),
    Rule("ReshapeFusion", BASIC, noop.FOLDS, noop.match_reshape_back, noop.hand_on),
    Rule("ReshapeFusion", BASIC, ("Reshape",), noop.match_reshapes, noop.reshapes),
    Rule("ReshapeFusion", BASIC, ("Reshape",), noop.match_reshape_target, noop.reshape_target),
)  # fmt: skip

CLEANING: tuple[Rule, ...] = (
    Rule("ConvBNFusion", BASIC, ("BatchNormalization",), weights.match_conv_norm, weights.conv_affine),
    Rule("ConvMulFusion", BASIC, ("Mul",), weights.match_conv_mul, weights.conv_affine),
    Rule("ConvAddFusion", BASIC, ("Add",), weights.match_conv_add, weights.conv_affine),
    Rule("MatMul_BatchNormalization_Fusion", BASIC, ("BatchNormalization",), weights.match_product_norm,
         weights.gemm_affine),
    Rule("MatMul_BatchNormalization_Fusion", BASIC, ("BatchNormalization",), weights.match_gemm_norm,
         weights.gemm_affine),
    Rule("MatMulAddFusion", BASIC, ("Add",), weights.match_product_add, weights.gemm_of_product),
    Rule("GemmSumFusion", BASIC, ("Add",), weights.match_gemm_add, weights.gemm_affine),
)  # fmt: skip

ROOTS = ("Div", "Mul")
FUSING: tuple[Rule, ...] = (
    Rule("LayerNormFusionL2", EXTENDED, ROOTS, norms.match_layer_norm, norms.layer_norm),
    Rule("LayerNormFusionL2", EXTENDED, ("Add",), norms.match_apart, norms.apart),
    Rule("GroupNormFusion", EXTENDED, ("InstanceNormalization",), norms.match_group_norm, norms.group_norm),
    Rule("SimplifiedLayerNormFusion", EXTENDED, ROOTS, norms.match_rms_norm, norms.rms_norm),
    Rule("GeluFusionL2", EXTENDED, ROOTS, activations.match_gelu, activations.gelu),
    Rule("FastGeluFusion", EXTENDED, ROOTS, activations.match_tanh_gelu, activations.tanh_gelu),
    Rule("QuickGeluFusion", EXTENDED, ("Mul",), activations.match_swish, activations.swish),
    Rule("MishFusion", EXTENDED, ("Mul",), activations.match_mish, activations.mish),
    Rule("HardSwishFusion", EXTENDED, ROOTS, activations.match_hard_swish, activations.hard_swish),
    Rule("MatMulIntegerToFloatFusion", EXTENDED, ("Mul",), quantised.match_scaled, quantised.scaled),
    Rule("MatMulIntegerToFloatFusion", EXTENDED, ("Add",), quantised.match_scaled_bias, quantised.scaled_bias),
    Rule("CDistFusion", EXTENDED, ("Scan",), distances.match_distances, distances.distances),
    Rule("AttentionFusion", EXTENDED, ("MatMul",), attention.match_attention, attention.attention),
    Rule("RotaryEmbeddingFusion", EXTENDED, ("Add",), rotary.match_rotary, rotary.rotary),
    Rule("SkipLayerNormFusion", EXTENDED, ("Add",), norms.match_skip, norms.skip),
)  # fmt: skip

EPILOGUES: tuple[Rule, ...] = (
    Rule("BiasGeluFusion", EXTENDED, ("Gelu",), activations.match_bias_gelu, activations.bias_gelu),
    Rule("BiasGeluFusion", EXTENDED, ("Gelu", "FastGelu"), activations.match_bias_gelu, activations.bias_gelu, MS),
    Rule("GlobalAveragePoolFusion", EXTENDED, ("ReduceMean",), norms.match_global_pool, norms.global_pool),
    Rule("ConvAddActivationFusion", EXTENDED, ("Add",), epilogues.match_conv_sum, epilogues.conv_sum),
    Rule("ConvActivationFusion", EXTENDED, (*epilogues.ACTIVATIONS, "Clip"), epilogues.match_conv_activation,
         epilogues.conv_activation),
    Rule("ConvSwishFusion", LAYOUT, ("QuickGelu",), epilogues.match_conv_activation, epilogues.conv_activation, MS),
    Rule("ConvSwishFusion", LAYOUT, ("HardSwish",), epilogues.match_conv_activation, epilogues.conv_activation),
    Rule("DynamicQuantizeMatMulFusion", EXTENDED, ("MatMulIntegerToFloat",), quantised.match_dynamic,
         quantised.dynamic, MS),
    Rule("MatmulTransposeFusion", EXTENDED, ("MatMul",), epilogues.match_transpose, epilogues.transpose),
    Rule("MatmulTransposeFusion", EXTENDED, ("FusedMatMul",), epilogues.match_transpose, epilogues.transpose, MS),
    Rule("MatMulScaleFusion", EXTENDED, ("Mul", "Div"), epilogues.match_scale, epilogues.scale),
)  # fmt: skip

# Those that a provider asks for (`ExecutionProvider.rewrites`).
ASKED: tuple[Rule, ...] = (
    Rule("PointwiseDepthwiseFusion", LAYOUT, ("Conv",), pointwise.match_depthwise, pointwise.widened),
    Rule("PointwiseDepthwiseFusion", LAYOUT, ("FusedConv",), pointwise.match_depthwise, pointwise.widened, MS),
    Rule("MatMulAddFusion", BASIC, ("Add",), weights.match_linear, weights.linear),
)

# Those whose results are operators of a newer opset than the graph's may be.
NEWER = frozenset({"AttentionFusion", "HardSwishFusion", "MishFusion", "RotaryEmbeddingFusion"})
# Those whose results no other runtime knows: they are not for files.
HERE = frozenset({"ConvSwishFusion"})
BEFORE_FOLDING = (BYTES,)  # which would make floats of quantised weights
PHASES = ((*NOOPS, *CLEANING), FUSING, EPILOGUES)
