"""A model prepared by `ortlite.backend.prepare`."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx.backend.base import BackendRep

from ortlite.api.options import RunOptions
from ortlite.api.session import InferenceSession

__all__ = ["OnnxRuntimeBackendRep", "OrtliteBackendRep", "set_fields"]

# RunOptions that may be given to `run` by name.
OPTIONS = frozenset("log_severity_level log_verbosity_level logid only_execute_path_to_fetches".split())


class OrtliteBackendRep(BackendRep):
    """A prepared model; `session` runs it."""

    def __init__(self, session: InferenceSession):
        self.session = self._session = session

    def run(self, inputs: Any, **kwargs: Any) -> Any:
        """Run on a list of inputs, by position; anything else is the model's only input.

        `kwargs` are fields of RunOptions. Raises RuntimeError for a field that may not be given here, and where one
        input is given to a model of several; IndexError for a list that is too short.
        """
        options = RunOptions()
        given = set_fields(options, kwargs, OPTIONS)
        names = [arg.name for arg in self.session.get_inputs()]
        if not isinstance(inputs, list):
            if len(names) != 1:
                raise RuntimeError(f"Model expect {len(names)} inputs")
            inputs = [inputs]
        feed = {name: inputs[index] for index, name in enumerate(names)}
        feed = {name: np.asarray(v) if isinstance(v, np.generic) else v for name, v in feed.items()}
        return self.session.run(None, feed, options if given else None)


OnnxRuntimeBackendRep = OrtliteBackendRep


def set_fields(options: Any, given: dict[str, Any], allowed: frozenset[str]) -> bool:
    """Set those fields of options that are allowed; whether there was one. Others, and unknown names, are ignored.

    Raises RuntimeError for an attribute that the options have, and that is none of those allowed.
    """
    for name, value in given.items():
        if name in allowed:
            setattr(options, name, value)
        elif hasattr(options, name):
            raise RuntimeError(f"{name!r} may not be given here: {', '.join(sorted(allowed))} may")
    return bool(given.keys() & allowed)
