"""Models in Ray Data and Ray Serve: `Predictor`. What it needs: `pip install 'ortlite[ray]'`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ortlite.batches import Job, Source
from ortlite.errors import InvalidArgument
from ortlite.tools.tables import together, writable

try:
    import ray
except ImportError as error:
    raise ImportError("ortlite.ray needs ray: pip install 'ortlite[ray]'") from error

if TYPE_CHECKING:
    import numpy as np

    from ortlite.api.options import SessionOptions

__all__ = ["Predictor"]


class Predictor:
    """A model that an actor holds: a class for `Dataset.map_batches`, and for deployments of Ray Serve.

    `model` is a path that every node can read, or bytes. `columns` says which columns make an input (INPUT -> a name,
    or several of one number a row each); without it they are called like the inputs. `outputs` names outputs (default:
    all) or other values of the model; `constants` are values for inputs that have no rows. `batch_size` rows go into
    one run at most (default: what the model declares, else 64), on `threads` threads (default: as many as the actor has
    CPUs of Ray's).

    Raises what loading a model raises.

    Example:
        dataset.map_batches(ortlite.ray.Predictor, fn_constructor_args=["digits.onnx"], concurrency=2)

    """

    def __init__(
        self,
        model: Source,
        *,
        columns: Mapping[str, str | Sequence[str]] | None = None,
        outputs: Sequence[str] | None = None,
        constants: Mapping[str, Any] | None = None,
        batch_size: int | None = None,
        threads: int | None = None,
        providers: Sequence[Any] | None = None,
        sess_options: SessionOptions | None = None,
    ):
        options: dict[str, Any] = {"providers": providers, "sess_options": sess_options}
        self.job = Job.of(model, outputs=outputs, constants=constants, batch_size=batch_size, **options)
        names = [port.name for port in self.job.inputs]
        if unknown := set(columns or ()) - set(names):
            raise InvalidArgument(
                f"columns: {self.job.called} has no input {', '.join(unknown)}; it has {', '.join(names)}"
            )
        chosen = {name: (columns or {}).get(name, name) for name in names}
        self.columns = {name: [each] if isinstance(each, str) else list(each) for name, each in chosen.items()}
        self.threads = _share() if threads is None else threads
        self.job.session(self.threads)  # before the first batch comes

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs for a batch of columns, beside the columns that the model does not read.

        Raises InvalidArgument for columns that are missing, do not fit, or are called like an output, and what a run
        raises.
        """
        read = {column for columns in self.columns.values() for column in columns}
        kept = {name: values for name, values in batch.items() if name not in read}
        made = self._run(batch)
        if both := kept.keys() & made.keys():
            raise InvalidArgument(
                f"{self.job.called} has an output {', '.join(both)}, and so is a column called: rename it"
            )
        return kept | made

    def rows(self, requests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The outputs for rows that came one by one, each a dict of columns: for `ray.serve.batch`."""
        if not requests:
            return []
        try:
            batch = {c: [row[c] for row in requests] for columns in self.columns.values() for c in columns}
        except KeyError as error:
            raise InvalidArgument(f"{self.job.called}: a request has no {error.args[0]!r}") from None
        made = self._run(batch)
        return [{name: array[i] for name, array in made.items()} for i in range(len(requests))]

    def _run(self, batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
        import numpy as np

        wanted = {column for columns in self.columns.values() for column in columns}
        if missing := sorted(wanted - set(batch)):
            raise InvalidArgument(
                f"{self.job.called}: there is no column {', '.join(missing)} among {', '.join(batch)}; "
                "columns={INPUT: NAME} says which make an input"
            )
        feed: dict[str, Any] = {
            name: batch[columns[0]] if len(columns) == 1 else together([np.asarray(batch[c]) for c in columns])
            for name, columns in self.columns.items()
        }
        return {name: writable(array) for name, array in self.job.run(feed, self.threads).items()}


def _share() -> int:
    """How many CPUs Ray gives this actor or task; 0, which is all, outside of one."""
    if not ray.is_initialized() or ray.get_runtime_context().get_actor_id() is None:
        return 0
    return max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1)))
