"""What the annotations of a kernel's parameters mean.

`Array` and `Arrays` are values of the array library, on its device. A `Condition` stays where it is: an array of the
library, or a bool where the host knows it. Everything else is a host value: a plain Python object that the kernel may
branch on. Host inputs reach a kernel through `HOST`, the table
that turns the NumPy array of a graph value into the Python object that the annotation promises.

A `Flag` is an attribute that says yes (1) or no (0). ONNX's texts define these two values and no other; its shape
inference and onnxruntime read the others now as yes ("not 0"), now as no ("not 1"), now as an error. Here they are
one, for all flags alike, when a session is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

from ortlite.dtypes import DType

__all__ = ["DEVICE", "HOST", "HOST_RESULT", "Array", "Arrays", "Bool", "DType", "Float", "Floats", "Graph", "Int"]
__all__ += ["Condition", "Flag", "Ints", "Map", "Scalar", "Text", "Texts", "Type", "Value"]

Array: TypeAlias = Any  # an array of the provider's library, on its device
Arrays: TypeAlias = tuple[Any, ...]  # an ONNX sequence of tensors
Value: TypeAlias = Any  # any ONNX value: array, sequence (tuple), optional (None or a value) or map
Map: TypeAlias = Mapping[Any, Any]  # an ONNX map: a dict, on the host
Condition: TypeAlias = Any  # one boolean: an array, or a bool

Int: TypeAlias = int
Flag: TypeAlias = int  # 0 or 1
Ints: TypeAlias = tuple[int, ...]
Float: TypeAlias = float
Floats: TypeAlias = tuple[float, ...]
Bool: TypeAlias = bool
Scalar: TypeAlias = Any  # int, float, bool, complex or str: one element, of the tensor's own dtype
Text: TypeAlias = str
Texts: TypeAlias = tuple[str, ...]
Type: TypeAlias = Any  # an attribute that holds a type (graph.TensorType, SequenceType, ...)


class Graph(Protocol):
    """A subgraph: takes its formal inputs, returns its outputs; `input_types` and `types` are what is known of them.

    `unread` are the positions of the inputs that it does not use.
    """

    input_types: tuple[Any, ...]
    types: tuple[Any, ...]
    unread: frozenset[int]

    def __call__(self, *inputs: Any) -> tuple[Any, ...]:
        """Run the subgraph."""

    def repeated(self, states: Mapping[int, int] | None = None) -> Callable[..., tuple[Any, ...]]:
        """The same for many calls one after the other, which cost less.

        `states`, if given: positions of the inputs that are results of the call before, and of these results; the other
        inputs have the same dtypes and shapes in all calls.
        """

    def on(self, xp: Any) -> Graph:
        """The same subgraph, its kernels computing in another namespace."""


DEVICE = frozenset({"Array", "Arrays", "Condition", "Value", "Map"})

# Annotation -> how a NumPy array becomes that host object. An attribute already is one.
HOST: dict[str, Callable[[Any], Any]] = {
    "Int": lambda a: int(a.reshape(-1)[0]),
    "Ints": lambda a: tuple(a.reshape(-1).tolist()),
    "Float": lambda a: float(a.reshape(-1)[0]),
    "Floats": lambda a: tuple(a.reshape(-1).astype(float).tolist()),
    "Bool": lambda a: bool(a.reshape(-1)[0]),
    "Scalar": lambda a: a.reshape(-1)[0].item() if hasattr(a.reshape(-1)[0], "item") else a.reshape(-1)[0],
    "Text": lambda a: str(a.reshape(-1)[0]),
    "Texts": lambda a: tuple(map(str, a.reshape(-1).tolist())),
}

# Return annotations of kernels whose result is a host value, and the NumPy dtype that holds it.
HOST_RESULT = {"Int": "int64", "Ints": "int64", "Bool": "bool"}

# Annotations that only attributes can have.
ATTRIBUTE_ONLY = frozenset({"DType", "Flag", "Graph", "Type"})
