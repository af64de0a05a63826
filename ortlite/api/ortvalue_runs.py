"""Runs on OrtValues, whose memory is the caller's or a device's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ortlite.api.names import output_names_of
from ortlite.api.options import RunOptions, adapted, checked
from ortlite.api.ortvalue import OrtValue
from ortlite.errors import InvalidArgument
from ortlite.stopping import stop_of, stoppable

if TYPE_CHECKING:
    from ortlite.api.binding import IOBinding
    from ortlite.api.feed import Prepared

__all__ = ["OnOrtValues"]


class OnOrtValues:
    """The part of an InferenceSession that takes and gives OrtValues."""

    _whole: Prepared
    run: Callable[..., Any]
    _tried: Callable[..., Any]
    _limits_of: Callable[..., Any]

    def run_with_ort_values(
        self,
        output_names: Sequence[str] | None,
        input_dict_ort_values: Mapping[str, OrtValue],
        run_options: RunOptions | None = None,
    ) -> list[OrtValue]:
        """`run` on OrtValues, which also come out.

        Results are in the CPU's memory. Raises InvalidArgument for a name that is no output, and what `run` raises.
        """
        feed = {name: value._get_c_value() for name, value in input_dict_ort_values.items()}
        wanted = output_names_of(self._whole.graph, output_names, feed)
        for name in wanted:
            if name not in self._whole.graph.outputs:
                raise InvalidArgument(f"Invalid output name:{name}")
        return [OrtValue.of(value) for value in self.run(wanted, feed, run_options)]

    def run_with_iobinding(
        self, iobinding: IOBinding, run_options: RunOptions | None = None, *, timeout: float | None = None
    ) -> None:
        """Run on what an `io_binding()` of this session binds, `timeout` seconds at most.

        Raises ValueError for another session's, RuntimeError for whatever goes wrong in the run.
        """
        if iobinding._session is not self:
            raise ValueError("IOBinding must be used with the session that created it.")
        iobinding._iobinding.run(run_options, timeout)

    def run_with_ortvaluevector(
        self,
        run_options: RunOptions | None,
        feed_names: Sequence[str],
        feeds: Any,
        fetch_names: Sequence[str],
        fetches: Any,
        fetch_devices: Sequence[Any],
    ) -> None:
        """Run on a vector of OrtValues. The results go into the vector `fetches`; values that it has are written.

        Raises InvalidArgument where there are not as many names as values, or a name is none of the model's.
        """
        if len(feed_names) != len(feeds):
            raise InvalidArgument(f"feed names has {len(feed_names)} elements, but feed has {len(feeds)} elements.")
        if len(fetches) not in {0, len(fetch_names)}:
            raise InvalidArgument(f"{len(fetches)} values are there for the {len(fetch_names)} outputs.")
        for name in feed_names:
            if name not in self._whole.graph.inputs:
                raise InvalidArgument(f"Invalid input name: {name}")
        results = self.run_with_ort_values(list(fetch_names), dict(zip(feed_names, feeds, strict=True)), run_options)
        for value, bound in zip(results, fetches, strict=False):
            bound.update_inplace(value)
        for value in results if not len(fetches) else ():
            fetches.push_back(value)

    def _on_device(
        self, names: Sequence[str], feed: Mapping[str, Any], run_options: RunOptions | None, timeout: float | None
    ) -> list[OrtValue]:
        """Outputs of the graph where they were computed, as OrtValues."""
        limits = self._limits_of(checked(run_options))
        with stoppable(stop_of(run_options, timeout, limits.seconds)):
            values: list[OrtValue] = self._tried(names, adapted(feed, run_options), None, on_device=True, limits=limits)
        return values

    def create_ortvalue_from_shape_and_type(
        self, shape: Sequence[int], element_type: Any, device_type: str, device_id: int = 0, vendor_id: int = -1
    ) -> OrtValue:
        """An OrtValue for this session's inputs and outputs; `OrtValue.ortvalue_from_shape_and_type` otherwise."""
        return OrtValue.ortvalue_from_shape_and_type(shape, element_type, device_type, device_id, vendor_id)
