"""What follows a convolution or a product along its channels, taken into its weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ortlite.graph import Node
from ortlite.optimize.rule import New, copy
from ortlite.optimize.view import View
from ortlite.schema import OWN

__all__ = ["conv_affine", "gemm_affine", "gemm_of_product", "linear", "match_conv_add", "match_conv_mul",
           "match_conv_norm", "match_gemm_add", "match_gemm_norm", "match_linear", "match_product_add",
           "match_product_norm"]  # fmt: skip

DTYPES = {"float16", "float32", "float64"}


class _Affine(NamedTuple):
    """`source` computes what is multiplied and shifted: a factor and an offset a channel, in float64."""

    source: Node
    factor: np.ndarray
    offset: np.ndarray


def _source(view: View, name: str, *op_types: str) -> Node | None:
    """The convolution or product that computes a value for one reader, with constant weights and bias."""
    node = view.made_by(name, *op_types)
    if node is None or not view.alone(name) or not all(_constant(view, weight) for weight in node.inputs[1:]):
        return None
    dtype = view.dtype(name)
    return node if dtype is not None and dtype.name in DTYPES else None


def _constant(view: View, name: str) -> bool:
    return not name or name in view.constants


def _channels(view: View, conv: Node) -> int:
    weights = view.constants[conv.inputs[1]]
    if conv.op_type == "ConvTranspose":
        return int(weights.shape[1] * conv.attributes.get("group", 1))
    return int(weights.shape[0])


def _normalisation(view: View, node: Node, channels: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Factor and offset of a BatchNormalization that does not train."""
    if len(node.outputs) > 1 or node.attributes.get("training_mode") or not node.attributes.get("spatial", 1):
        return None
    found = [view.constant(name) for name in node.inputs[1:5]]
    if any(v is None or v.shape != (channels,) or v.dtype != found[0].dtype for v in found):  # type: ignore[union-attr]
        return None
    scale, shift, mean, variance = (np.asarray(v, np.float64) for v in found)
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(variance + node.attributes.get("epsilon", 1e-5))
    if not (np.isfinite(factor).all() and np.isfinite(mean).all()):
        return None
    return factor, shift - mean * factor


def _per_channel(view: View, name: str, channels: int, rank: int) -> np.ndarray | None:
    """A constant with one element for each channel (axis 1 of `rank`), or for all; with no more axes than that."""
    constant = view.constant(name)
    if constant is None or constant.ndim > rank:
        return None
    shape = (1,) * (rank - constant.ndim) + constant.shape
    if constant.size == 1 or shape == (1, channels, *(1,) * (rank - 2)):
        flat = np.asarray(constant, np.float64).reshape(-1)
        return np.broadcast_to(flat, (channels,)) if np.isfinite(flat).all() else None
    return None


def match_conv_norm(view: View, node: Node) -> _Affine | None:
    """BatchNormalization of a convolution."""
    conv = _source(view, node.inputs[0], "Conv", "ConvTranspose")
    found = None if conv is None else _normalisation(view, node, _channels(view, conv))
    return None if conv is None or found is None else _Affine(conv, *found)


def _match_arithmetic(view: View, node: Node) -> tuple[Node, np.ndarray] | None:
    for value, other in (node.inputs, node.inputs[::-1]):
        conv = _source(view, value, "Conv", "ConvTranspose")
        if conv is None:
            continue
        constant = _per_channel(view, other, _channels(view, conv), view.constants[conv.inputs[1]].ndim)
        if constant is not None:
            return conv, constant
    return None


def match_conv_mul(view: View, node: Node) -> _Affine | None:
    """A convolution times a constant a channel."""
    found = _match_arithmetic(view, node)
    return None if found is None else _Affine(found[0], found[1], np.zeros_like(found[1]))


def match_conv_add(view: View, node: Node) -> _Affine | None:
    """A convolution plus a constant a channel."""
    found = _match_arithmetic(view, node)
    return None if found is None else _Affine(found[0], np.ones_like(found[1]), found[1])


def conv_affine(view: View, node: Node, found: _Affine) -> New | None:
    """The convolution with other weights and bias."""
    conv = found.source
    weights = view.constants[conv.inputs[1]]
    spatial = (1,) * (weights.ndim - 2)
    if conv.op_type == "ConvTranspose":  # (in, out / group, …): the groups lie along the first axis
        groups = conv.attributes.get("group", 1)
        factor = np.repeat(found.factor.reshape(groups, -1), weights.shape[0] // groups, axis=0).reshape(
            *weights.shape[:2], *spatial
        )
    else:
        factor = found.factor.reshape(-1, 1, *spatial)
    bias = conv.inputs[2] if len(conv.inputs) > 2 else ""
    old = np.asarray(view.constants[bias], np.float64) if bias else 0.0
    inputs, constants = _scaled(view, node, found, factor, old)
    if not all(np.isfinite(v).all() for v in constants.values()):
        return None
    return New((copy(node, conv.op_type, inputs, opset=conv.opset, attributes=conv.attributes),), constants)


def _scaled(
    view: View, node: Node, found: _Affine, factor: np.ndarray, bias: np.ndarray | float
) -> tuple[list[str], dict[str, np.ndarray]]:
    """The inputs of the new operator, its weights times `factor` (in float64), and the constants among them."""
    source = found.source
    weights = view.constants[source.inputs[1]]
    made = {}
    with np.errstate(all="ignore"):  # what is not finite is looked for in the results
        if (factor != 1).any():
            # block by block in NumPy's buffers: the weights never stand in memory in float64
            made["weights"] = np.multiply(weights, factor, out=np.empty_like(weights), casting="same_kind")
        made["bias"] = (bias * found.factor + found.offset).astype(weights.dtype)
    constants = {view.names.fresh(f"{node.outputs[0]}/{kind}"): value for kind, value in made.items()}
    return [source.inputs[0], *([source.inputs[1]] if len(made) == 1 else []), *constants], constants


def match_product_add(view: View, node: Node) -> tuple[Node, str] | None:
    """The product of two matrices plus a constant row: the product and the row."""
    found = _product_and_row(view, node)
    return None if found is None or view.rank(found[0].inputs[0]) != 2 else found


def _product_and_row(view: View, node: Node) -> tuple[Node, str] | None:
    """A product with a constant matrix, plus a constant row: the product and the row."""
    for value, other in (node.inputs, node.inputs[::-1]):
        product = view.made_by(value, "MatMul")
        if product is None or not view.alone(value) or not view.is_float(value):
            continue
        weights, row = view.constant(product.inputs[1]), view.constant(other)
        if weights is not None and row is not None and weights.ndim == 2 and row.shape in _rows(weights.shape[1]):
            return product, other
    return None


def _rows(columns: int) -> Sequence[tuple[int, ...]]:
    return ((columns,), (1, columns))


def gemm_of_product(view: View, node: Node, found: tuple[Node, str]) -> New:
    """Gemm, whose opset 7 broadcasts."""
    product, row = found
    return New((copy(node, "Gemm", [*product.inputs, row], opset=max(product.opset, 7)),))


def match_linear(view: View, node: Node) -> tuple[Node, str] | None:
    """Matrices times a constant one, plus a constant row that is a vector: the product and the row."""
    found = _product_and_row(view, node)
    if found is None or (view.rank(found[0].inputs[0]) or 0) < 3 or view.constants[found[1]].ndim != 1:
        return None
    return found


def linear(view: View, node: Node, found: tuple[Node, str]) -> New:
    """Both in one."""
    product, row = found
    return New((copy(node, "Linear", [*product.inputs, row], domain=OWN, opset=1),))


def match_gemm_norm(view: View, node: Node) -> _Affine | None:
    """BatchNormalization of a Gemm."""
    gemm = _source(view, node.inputs[0], "Gemm")
    columns = None if gemm is None else _columns(view, gemm)
    found = None if columns is None else _normalisation(view, node, columns)
    return None if gemm is None or found is None else _Affine(gemm, *found)


def match_product_norm(view: View, node: Node) -> _Affine | None:
    """BatchNormalization of the product of two matrices."""
    product = _source(view, node.inputs[0], "MatMul")
    if product is None or view.rank(product.inputs[0]) != 2 or view.constants[product.inputs[1]].ndim != 2:
        return None
    found = _normalisation(view, node, view.constants[product.inputs[1]].shape[1])
    return None if found is None else _Affine(product, *found)


def match_gemm_add(view: View, node: Node) -> _Affine | None:
    """A Gemm plus a constant row."""
    for value, other in (node.inputs, node.inputs[::-1]):
        gemm = _source(view, value, "Gemm")
        columns = None if gemm is None else _columns(view, gemm)
        row = view.constant(other)
        if gemm is not None and columns is not None and row is not None and row.shape in _rows(columns):
            offset = np.asarray(row, np.float64).reshape(-1)
            return _Affine(gemm, np.ones(columns), offset) if np.isfinite(offset).all() else None
    return None


def _columns(view: View, gemm: Node) -> int | None:
    """How many columns a Gemm with a bias of one row, or none, computes."""
    weights = view.constants[gemm.inputs[1]]
    if weights.ndim != 2 or gemm.opset < 7:
        return None
    columns = int(weights.shape[0 if gemm.attributes.get("transB") else 1])
    bias = view.constant(gemm.inputs[2]) if len(gemm.inputs) > 2 and gemm.inputs[2] else None
    return columns if bias is None or bias.shape in _rows(columns) else None


def gemm_affine(view: View, node: Node, found: _Affine) -> New | None:
    """Gemm with other weights and bias."""
    gemm = found.source
    factor = found.factor[:, None] if gemm.attributes.get("transB") else found.factor
    bias = gemm.inputs[2] if len(gemm.inputs) > 2 else ""
    old = np.asarray(view.constants[bias], np.float64).reshape(-1) * gemm.attributes.get("beta", 1.0) if bias else 0.0
    inputs, constants = _scaled(view, node, found, factor, old)
    if not all(np.isfinite(v).all() for v in constants.values()):
        return None
    attributes = {name: value for name, value in gemm.attributes.items() if name != "beta"}
    return New((copy(node, "Gemm", inputs, opset=max(gemm.opset, 7), attributes=attributes),), constants)
