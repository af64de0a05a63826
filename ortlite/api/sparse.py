"""Sparse tensors at the border of a session. Inside, a sparse tensor is a dense array."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ortlite import dtypes
from ortlite.api.device import OrtDevice
from ortlite.api.enums import OrtSparseFormat

__all__ = ["SparseBlockSparseView", "SparseCooView", "SparseCsrView", "SparseTensor"]


class SparseCooView:
    """Where the values of a tensor in COO format stand."""

    def __init__(self, indices: np.ndarray):
        self._indices = indices

    def indices(self) -> np.ndarray:
        """Linear positions [n], or one row a value [n, 2]."""
        return self._indices


class SparseCsrView:
    """Where the values of a matrix in CSR format stand."""

    def __init__(self, inner: np.ndarray, outer: np.ndarray):
        self._inner, self._outer = inner, outer

    def inner(self) -> np.ndarray:
        """The column of each value [n]."""
        return self._inner

    def outer(self) -> np.ndarray:
        """Where each row begins among the values [rows + 1]."""
        return self._outer


class SparseBlockSparseView:
    """Where the blocks of a tensor in block sparse format stand."""

    def __init__(self, indices: np.ndarray):
        self._indices = indices

    def indices(self) -> np.ndarray:
        """The row and the column of each block [2, n]."""
        return self._indices


class SparseTensor:
    """A sparse tensor: `sparse_coo_from_numpy` or `sparse_csr_from_numpy` make one. Its arrays are read-only.

    Example:
        >>> from ortlite import OrtDevice
        >>> cpu = OrtDevice.make("cpu", 0)
        >>> sparse = SparseTensor.sparse_coo_from_numpy([2, 3], np.float32([5, 7]), np.array([0, 4]), cpu)
        >>> sparse.data_type(), sparse.to_dense().tolist()
        ('sparse_tensor(float)', [[5.0, 0.0, 0.0], [0.0, 7.0, 0.0]])

    """

    def __init__(self, sparse_tensor: SparseTensor):
        """Wrap a SparseTensor again."""
        if not isinstance(sparse_tensor, SparseTensor):
            raise ValueError("`Provided sparse_tensor` needs to be of type `SparseTensor`")
        self.__dict__.update(sparse_tensor.__dict__)

    @classmethod
    def _of(cls, shape: Any, values: np.ndarray, format_: OrtSparseFormat, *indices: np.ndarray) -> SparseTensor:
        made = cls.__new__(cls)
        made._shape = tuple(map(int, shape))
        made._values = _frozen(np.asarray(values))
        made._format = format_
        made._indices = tuple(_frozen(np.asarray(index)) for index in indices)
        return made

    @staticmethod
    def sparse_coo_from_numpy(
        dense_shape: Any, values: np.ndarray, coo_indices: np.ndarray, ort_device: OrtDevice
    ) -> SparseTensor:
        """A tensor of `dense_shape` with `values` [n] at `coo_indices`: linear [n], or rows and columns [n, 2].

        Raises RuntimeError for indices of another shape or outside of the tensor.
        """
        shape, values, indices = tuple(map(int, dense_shape)), _values(values), np.asarray(coo_indices, np.int64)
        if len(shape) == 1 and indices.shape == (values.size, 1):
            indices = indices.reshape(-1)
        if indices.ndim == 2 and indices.shape[1] != len(shape) and indices.size == values.size * len(shape):
            indices = indices.reshape(values.size, len(shape))
        fits = indices.ndim == 1 and indices.size in {values.size, 2 * values.size}
        if not fits and indices.shape != (values.size, len(shape)):
            raise RuntimeError(
                f"{values.size} values want indices [{values.size}] or [{values.size}, {len(shape)}], "
                f"not {list(indices.shape)}"
            )
        if indices.ndim == 1 and indices.size == 2 * values.size and values.size:
            indices = indices.reshape(-1, 2)
        limits = np.array(shape if indices.ndim == 2 else (prod(shape),))
        if indices.size and ((indices < 0) | (indices >= limits)).any():
            raise RuntimeError(f"an index is negative or outside of a tensor {list(shape)}")
        return SparseTensor._of(shape, values, OrtSparseFormat.ORT_SPARSE_COO, indices)

    @staticmethod
    def sparse_csr_from_numpy(
        dense_shape: Any,
        values: np.ndarray,
        inner_indices: np.ndarray,
        outer_indices: np.ndarray,
        ort_device: OrtDevice,
    ) -> SparseTensor:
        """A matrix with `values` [n] in columns `inner_indices` [n], row i from `outer_indices`[i] on [rows + 1].

        Raises RuntimeError for indices that do not fit.
        """
        shape, values = tuple(map(int, dense_shape)), _values(values)
        inner, outer = np.asarray(inner_indices, np.int64), np.asarray(outer_indices, np.int64)
        if not values.size and not inner.size and not outer.size:
            return SparseTensor._of(shape, values, OrtSparseFormat.ORT_SPARSE_CSRC, inner, outer)
        if len(shape) != 2 or inner.shape != (values.size,) or outer.shape != (shape[0] + 1,):
            raise RuntimeError(
                f"{values.size} values of a matrix {list(shape)} want inner indices [{values.size}] and outer ones "
                f"[rows + 1], not {list(inner.shape)} and {list(outer.shape)}"
            )
        if (np.diff(outer) < 0).any() or outer[0] != 0 or outer[-1] != values.size:
            raise RuntimeError("outer indices rise from 0 to the number of values")
        if inner.size and ((inner < 0) | (inner >= shape[1])).any():
            raise RuntimeError(f"an inner index is negative or not below {shape[1]}")
        return SparseTensor._of(shape, values, OrtSparseFormat.ORT_SPARSE_CSRC, inner, outer)

    @staticmethod
    def blocksparse_from_numpy(
        dense_shape: Any, values: np.ndarray, block_indices: np.ndarray, ort_device: OrtDevice
    ) -> SparseTensor:
        """A tensor in blocks, `values` [n, rows, columns], at `block_indices`, as given."""
        indices = np.asarray(block_indices)
        return SparseTensor._of(tuple(dense_shape), _values(values), OrtSparseFormat.ORT_SPARSE_BLOCK_SPARSE, indices)

    @staticmethod
    def from_dense(dense: np.ndarray) -> SparseTensor:
        """The values of an array that are not zero (or not empty), in COO format with linear indices."""
        flat = dense.reshape(-1)
        where = np.flatnonzero(flat != ("" if flat.dtype == object else 0))
        return SparseTensor._of(dense.shape, flat[where], OrtSparseFormat.ORT_SPARSE_COO, where)

    def to_dense(self) -> np.ndarray:
        """The tensor as an array, of numbers in one place their sum. Raises RuntimeError for block sparse ones."""
        values, shape = self._values, self._shape
        dense = np.full(prod(shape), "" if values.dtype == object else 0, values.dtype)
        if self._format == OrtSparseFormat.ORT_SPARSE_COO:
            (index,) = self._indices
            where = index if index.ndim == 1 else np.ravel_multi_index(tuple(index.T), shape)
        elif self._format == OrtSparseFormat.ORT_SPARSE_CSRC:
            inner, outer = self._indices
            where = np.repeat(np.arange(shape[0] if outer.size else 0), np.diff(outer)) * shape[1] + inner
        else:
            raise RuntimeError("block sparse tensors cannot be fed")
        if values.dtype.kind in "Ob":
            dense[where] = values
        else:
            np.add.at(dense, where, values)
        return dense.reshape(shape)

    def values(self) -> np.ndarray:
        """The values that are kept [n]."""
        return self._values

    def format(self) -> OrtSparseFormat:
        """How positions are kept."""
        return self._format

    def dense_shape(self) -> list[int]:
        """The shape."""
        return list(self._shape)

    def data_type(self) -> str:
        """The type as onnxruntime prints it, e.g. "sparse_tensor(float)"."""
        return f"sparse_tensor({dtypes.of_numpy(self._values.dtype).ort})"

    def device_name(self) -> str:
        """Always "cpu"."""
        return "cpu"

    def as_coo_view(self) -> SparseCooView:
        """Where the values of a COO tensor stand. Raises RuntimeError for another format."""
        return SparseCooView(*self._in(OrtSparseFormat.ORT_SPARSE_COO))

    def as_csrc_view(self) -> SparseCsrView:
        """Where the values of a CSR matrix stand. Raises RuntimeError for another format."""
        return SparseCsrView(*self._in(OrtSparseFormat.ORT_SPARSE_CSRC))

    def as_blocksparse_view(self) -> SparseBlockSparseView:
        """Where the blocks of a block sparse tensor stand. Raises RuntimeError for another format."""
        return SparseBlockSparseView(*self._in(OrtSparseFormat.ORT_SPARSE_BLOCK_SPARSE))

    get_coo_data, get_csrc_data, get_blocksparse_data = as_coo_view, as_csrc_view, as_blocksparse_view

    def _in(self, wanted: OrtSparseFormat) -> tuple[np.ndarray, ...]:
        if self._format != wanted:
            raise RuntimeError(f"The sparse tensor is in {self._format.name}, not in {wanted.name}.")
        return self._indices

    def to_cuda(self, ort_device: OrtDevice) -> SparseTensor:
        """Not possible: sparse tensors stay on the CPU. Raises RuntimeError."""
        raise RuntimeError("Cuda is not available in this build: ortlite keeps sparse tensors on the CPU")

    def _get_c_tensor(self) -> SparseTensor:
        return self

    def __repr__(self) -> str:
        return f"SparseTensor({self.data_type()}, shape={list(self._shape)}, values={self._values.size})"

    _shape: tuple[int, ...]
    _values: np.ndarray
    _format: OrtSparseFormat
    _indices: tuple[np.ndarray, ...]


def _values(given: Any) -> np.ndarray:
    """Values as they are kept: text as objects. Raises TypeError for no array, RuntimeError for one of a wrong kind."""
    if not isinstance(given, np.ndarray):
        raise TypeError(f"values are an array, not {type(given).__name__}")
    values = given
    if values.ndim != 1:
        raise RuntimeError(f"values have one axis, not the shape {values.shape}")
    if values.dtype.kind in "SU":
        return values.astype(str).astype(object)
    if values.dtype.kind in "cmM":
        raise RuntimeError(f"Numpy_type {values.dtype.num} ({values.dtype}) can't be converted to MLDataType.")
    return values


def _frozen(array: np.ndarray) -> np.ndarray:
    view = array.view()
    if array.dtype != object:
        view.flags.writeable = False
    return view
