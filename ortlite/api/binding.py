"""IOBinding: a session's inputs and outputs bound to memory of the caller's, for run after run.

Inputs are read where they lie. An output that is bound to memory is written there after the run; one that is bound to a
device stays there.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np

from ortlite.api.device import OrtDevice
from ortlite.api.inner import InferenceSession as Inner
from ortlite.api.options import RunOptions
from ortlite.api.ortvalue import OrtValue, OrtValueVector, element_dtype, from_pointer
from ortlite.errors import OrtError

if TYPE_CHECKING:
    from ortlite.api.session import InferenceSession

__all__ = ["IOBinding", "SessionIOBinding"]

UNSYNCHRONIZED = "disable_synchronize_execution_providers"  # an entry of run options


class SessionIOBinding:
    """What an IOBinding binds, by onnxruntime's inner methods: values for inputs, values or devices for outputs."""

    def __init__(self, session: Any):
        owner = session._session if isinstance(session, Inner) else session
        if not hasattr(owner, "_whole"):
            raise TypeError(f"a SessionIOBinding is one of a session, not of {type(session).__name__}")
        self._session: InferenceSession = owner
        self._inputs: dict[str, OrtValue] = {}
        self._outputs: dict[str, OrtValue | OrtDevice] = {}
        self._results: list[OrtValue] = []

    def bind_input(self, name: str, value: Any, *memory: Any) -> None:
        """Bind an input to an array; or by device, element type, shape and address of its first element.

        Raises RuntimeError for a name that the model has not, and for a value that is no array.
        """
        graph, name = self._session._whole.graph, _name(name)
        if name not in graph.inputs:
            raise RuntimeError(f"Failed to find NodeArg with name: {name} in the def list: {', '.join(graph.inputs)}")
        if memory:
            self._inputs[name] = _at(value, *memory)
        elif isinstance(value, OrtValue):
            self._inputs[name] = value
        elif isinstance(value, np.ndarray):
            self._inputs[name] = OrtValue.of(value)
        elif hasattr(value, "__dlpack__"):
            self._inputs[name] = OrtValue.from_dlpack(value)
        else:
            raise RuntimeError(f"Unable to create OrtValue from the given python object: {type(value).__name__}")

    bind_ortvalue_input = bind_input

    def bind_output(self, name: str, device: OrtDevice, *memory: Any) -> None:
        """Bind an output to a device; or to memory there, by element type, shape and address.

        Raises TypeError for a name that is no str, RuntimeError for the address 0.
        """
        self._outputs[_name(name)] = _at(device, *memory) if memory else device

    def bind_ortvalue_output(self, name: str, value: OrtValue) -> None:
        """Bind an output to the memory of an OrtValue. Raises TypeError for a name that is no str."""
        self._outputs[_name(name)] = value._get_c_value()

    def run(self, run_options: RunOptions | None = None, timeout: float | None = None) -> None:
        """Run the session; RuntimeError with whatever goes wrong."""
        try:
            self._results = self._run(run_options, timeout)
        except OrtError as error:
            raise RuntimeError(f"Error in execution: {error.text}") from error
        except ValueError as error:
            raise RuntimeError(f"Error in execution: {error}") from error

    def _run(self, run_options: RunOptions | None, timeout: float | None) -> list[OrtValue]:
        session, names = self._session, list(self._outputs)
        if not names:
            raise ValueError("At least one output should be requested.")
        for name in names:
            if name not in session._whole.graph.outputs:
                raise ValueError(f"Invalid output name: {name}")
        away = [name for name, bound in self._outputs.items() if _device_of(bound).device_type()]
        if away and session._providers[0] != "CPUExecutionProvider":
            results = session._on_device(names, self._inputs, run_options, timeout)
            found = dict(zip(names, results, strict=True))
            for name in names:
                if name not in away and found[name].device_name() != "cpu":
                    found[name] = OrtValue.of(found[name].numpy())
        else:
            results = session.run(names, self._inputs, run_options, timeout=timeout)
            found = {name: OrtValue.of(value) for name, value in zip(names, results, strict=True)}
        written = [_written(name, found[name], self._outputs[name]) for name in names]
        entries = {} if run_options is None else run_options._entries
        if entries.get(UNSYNCHRONIZED) != "1" and any(isinstance(self._outputs[name], OrtValue) for name in away):
            self.synchronize_outputs()  # who reads memory by its address does not know the stream
        return written

    def get_outputs(self) -> OrtValueVector:
        """The outputs of the last run, in the order in which they were bound."""
        return OrtValueVector(self._results)

    def copy_outputs_to_cpu(self) -> list[Any]:
        """The outputs of the last run as NumPy arrays of their own: what is bound may be written again."""
        return [deepcopy(value.numpy()) for value in self._results]

    def clear_binding_inputs(self) -> None:
        """Forget the inputs."""
        self._inputs = {}

    def clear_binding_outputs(self) -> None:
        """Forget the outputs."""
        self._outputs, self._results = {}, []

    def synchronize_inputs(self) -> None:
        """Wait until devices have done what they were asked to, on whatever stream: inputs are there."""
        for provider in self._session._chosen:
            provider.synchronize()

    synchronize_outputs = synchronize_inputs


class IOBinding:
    """Bindings of one session: `session.io_binding()`, then bind, then `session.run_with_iobinding(binding)`.

    `element_type` is a NumPy dtype, type or name, or ONNX's number. Memory that is given by its address must stay
    valid for as long as it is bound.

    Example:
        >>> from ortlite.cli.digits import model_bytes, scans
        >>> import ortlite
        >>> session = ortlite.InferenceSession(model_bytes())
        >>> binding, logits = session.io_binding(), np.zeros((2, 10), np.float32)
        >>> binding.bind_cpu_input("scan", scans()[0][:2])
        >>> binding.bind_output(session.get_outputs()[0].name, "cpu", 0, np.float32, (2, 10), logits.ctypes.data)
        >>> session.run_with_iobinding(binding)
        >>> logits.argmax(axis=1).tolist()
        [2, 8]

    """

    def __init__(self, session: InferenceSession):
        self._session = session
        self._iobinding = SessionIOBinding(session)

    def bind_cpu_input(self, name: str, arr_on_cpu: Any) -> None:
        """Bind an input to an array in the CPU's memory."""
        self._iobinding.bind_input(name, arr_on_cpu)

    def bind_input(
        self, name: str, device_type: str, device_id: int, element_type: Any, shape: Sequence[int], buffer_ptr: int
    ) -> None:
        """Bind an input to memory, by the address of its first element."""
        self._iobinding.bind_input(name, OrtDevice.make(device_type, device_id), element_type, shape, buffer_ptr)

    def bind_ortvalue_input(self, name: str, ortvalue: OrtValue) -> None:
        """Bind an input to an OrtValue."""
        self._iobinding.bind_ortvalue_input(name, ortvalue._get_c_value())

    def bind_output(
        self,
        name: str,
        device_type: str = "cpu",
        device_id: int = 0,
        element_type: Any = None,
        shape: Sequence[int] | None = None,
        buffer_ptr: int | None = None,
    ) -> None:
        """Bind an output to memory by its address, or, without one, to a device, where every run makes a fresh one.

        Raises ValueError for an address without element type and shape.
        """
        device = OrtDevice.make(device_type, device_id)
        if buffer_ptr is None:
            self._iobinding.bind_output(name, device)
            return
        if element_type is None or shape is None:
            raise ValueError("`element_type` and `shape` are to be provided if pre-allocated memory is provided")
        self._iobinding.bind_output(name, device, element_type, shape, buffer_ptr)

    def bind_ortvalue_output(self, name: str, ortvalue: OrtValue) -> None:
        """Bind an output to the memory of an OrtValue."""
        self._iobinding.bind_ortvalue_output(name, ortvalue)

    def synchronize_inputs(self) -> None:
        """Wait until inputs are where they are bound, whatever stream of a device still writes them."""
        self._iobinding.synchronize_inputs()

    def synchronize_outputs(self) -> None:
        """Wait until outputs are where they are bound. Runs do so where memory of a device is bound."""
        self._iobinding.synchronize_outputs()

    def get_outputs(self) -> list[OrtValue]:
        """The outputs of the last run, in the order in which they were bound."""
        return list(self._iobinding.get_outputs())

    def get_outputs_as_ortvaluevector(self) -> OrtValueVector:
        """The same, as a vector."""
        return self._iobinding.get_outputs()

    def copy_outputs_to_cpu(self) -> list[Any]:
        """The outputs of the last run as NumPy arrays."""
        return self._iobinding.copy_outputs_to_cpu()

    def clear_binding_inputs(self) -> None:
        """Forget the inputs."""
        self._iobinding.clear_binding_inputs()

    def clear_binding_outputs(self) -> None:
        """Forget the outputs."""
        self._iobinding.clear_binding_outputs()


def _device_of(bound: OrtValue | OrtDevice) -> OrtDevice:
    return bound if isinstance(bound, OrtDevice) else bound._device


def _name(name: Any) -> str:
    """The name of an input or output; bytes are text, as in onnxruntime. Raises TypeError for what is neither."""
    if isinstance(name, bytes):
        return name.decode()
    if not isinstance(name, str):
        raise TypeError(f"the name of an input or output is a str, not {type(name).__name__}")
    return name


def _at(device: OrtDevice, element_type: Any, shape: Sequence[int], pointer: int) -> OrtValue:
    if not isinstance(pointer, int | np.integer):
        raise TypeError(f"an address is an int, not {type(pointer).__name__}")
    if any(not isinstance(size, int | np.integer) for size in shape):
        raise TypeError(f"the sizes of a shape are int, not {list(shape)}")
    if any(size < 0 for size in shape):
        raise RuntimeError(f"a tensor has no negative dimensions: {list(shape)}")
    if not pointer and 0 not in shape:
        raise RuntimeError(f"the address of {list(shape)} elements is 0")
    return from_pointer(pointer, shape, element_dtype(element_type), device)


def _written(name: str, value: OrtValue, bound: OrtValue | OrtDevice) -> OrtValue:
    """The result of an output, in the memory that it is bound to. Raises ValueError where it does not fit."""
    if isinstance(bound, OrtDevice):
        return value
    if value.is_tensor() != bound.is_tensor():
        raise ValueError(f"output {name!r} is {value.data_type()}, and it is bound to {bound.data_type()}")
    if value.element_type() != bound.element_type():
        raise ValueError(
            f"Unexpected output data type. Actual: ({bound.data_type()}) , expected: ({value.data_type()})"
        )
    if value.shape() != bound.shape():
        raise ValueError(
            f"The output OrtValue provided for output {name!r} has shape {bound.shape()} but the computed shape is "
            f"{value.shape()}"
        )
    bound.update_inplace(value)
    return bound
