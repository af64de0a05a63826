"""The rewrites, in the order in which they are tried, in phases; names are onnxruntime's where it has one."""

from __future__ import annotations

from ortlite.optimize import activations, attention, epilogues, norms, weights
from ortlite.optimize.rule import MS, Rule

__all__ = ["PHASES"]

BASIC, EXTENDED = 1, 2

CLEANING: tuple[Rule, ...] = (
    Rule("TransposeOptimizer", BASIC, ("Reshape",), attention.match_swap, attention.swap),
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
    Rule("SimplifiedLayerNormFusion", EXTENDED, ROOTS, norms.match_rms_norm, norms.rms_norm),
    Rule("GeluFusionL2", EXTENDED, ROOTS, activations.match_gelu, activations.gelu),
    Rule("FastGeluFusion", EXTENDED, ROOTS, activations.match_tanh_gelu, activations.tanh_gelu),
    Rule("QuickGeluFusion", EXTENDED, ("Mul",), activations.match_swish, activations.swish),
    Rule("MishFusion", EXTENDED, ("Mul",), activations.match_mish, activations.mish),
    Rule("HardSwishFusion", EXTENDED, ROOTS, activations.match_hard_swish, activations.hard_swish),
    Rule("AttentionFusion", EXTENDED, ("MatMul",), attention.match_attention, attention.attention),
    Rule("SkipLayerNormFusion", EXTENDED, ("Add",), norms.match_skip, norms.skip),
)  # fmt: skip

EPILOGUES: tuple[Rule, ...] = (
    Rule("BiasGeluFusion", EXTENDED, ("Gelu",), activations.match_bias_gelu, activations.bias_gelu),
    Rule("BiasGeluFusion", EXTENDED, ("Gelu", "FastGelu"), activations.match_bias_gelu, activations.bias_gelu, MS),
    Rule("ConvAddActivationFusion", EXTENDED, ("Add",), epilogues.match_conv_sum, epilogues.conv_sum),
    Rule("ConvActivationFusion", EXTENDED, (*epilogues.ACTIVATIONS, "Clip"), epilogues.match_conv_activation,
         epilogues.conv_activation),
    Rule("MatmulTransposeFusion", EXTENDED, ("MatMul",), epilogues.match_transpose, epilogues.transpose),
    Rule("MatmulTransposeFusion", EXTENDED, ("FusedMatMul",), epilogues.match_transpose, epilogues.transpose, MS),
    Rule("MatMulScaleFusion", EXTENDED, ("Mul", "Div"), epilogues.match_scale, epilogues.scale),
)  # fmt: skip

PHASES = (CLEANING, FUSING, EPILOGUES)
