"""ModelCompiler: writes a model as a session would run it. No provider here compiles nodes; what remains is the model.

`compile_to_file`, `_bytes` and `_stream` write the model after the passes of the level that was asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ortlite import atomic
from ortlite.api.names import expect
from ortlite.api.options import GraphOptimizationLevel, SessionOptions
from ortlite.errors import Fail, InvalidArgument, InvalidProtobuf, OrtError, typed

if TYPE_CHECKING:
    import numpy as np

    from ortlite.api.ortvalue import OrtValue
    from ortlite.graph import Model
    from ortlite.save import Place

__all__ = ["ModelCompiler", "OrtExternalInitializerInfo"]

NO_NODES, EXISTS = 1, 2  # the flags of OrtCompileApiFlags
UNCOMPILED = (
    "Unable to compile any nodes. Check that the session EPs support compilation and can execute at least one "
    "subgraph in the model. (ortlite's providers run models as they are: leave ERROR_IF_NO_NODES_COMPILED out.)"
)


@dataclass(frozen=True, slots=True)
class OrtExternalInitializerInfo:
    """Where an initializer's data lie: a file, from a byte on, so many bytes."""

    filepath: str
    file_offset: int
    byte_size: int

    def __post_init__(self) -> None:
        kinds = {"filepath": str, "file_offset": int, "byte_size": int}
        for name, kind in kinds.items():
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"{name} is of {kind.__name__}, not {type(getattr(self, name)).__name__}")
        if self.byte_size < 0:
            raise TypeError(f"byte_size is a number of bytes, not {self.byte_size}")


GetLocation = Callable[[str, "OrtValue", OrtExternalInitializerInfo | None], OrtExternalInitializerInfo | None]


class ModelCompiler:
    """Write the model of a path, or of bytes, after the passes of `graph_optimization_level`.

    With `external_initializers_file_path` (relative to the output's folder), initializers of
    `external_initializers_size_threshold` bytes and more go to that file; `get_initializer_location_func` says for each
    initializer where the caller has put it, or None for inside the model. `flags`: ERROR_IF_OUTPUT_FILE_EXISTS, and
    ERROR_IF_NO_NODES_COMPILED, which always fails: no provider compiles nodes. `embed_compiled_data_into_model` has
    nothing to embed.

    Raises TypeError and ValueError for arguments of the wrong kind; its methods raise InvalidArgument for a path that
    cannot be read or written, Fail, and what a session raises for the model.

    Example:
        >>> import ortlite
        >>> from ortlite.cli.digits import model_bytes
        >>> level = ortlite.GraphOptimizationLevel.ORT_ENABLE_ALL
        >>> compiler = ModelCompiler(ortlite.SessionOptions(), model_bytes(), graph_optimization_level=level)
        >>> ortlite.info(compiler.compile_to_bytes()).nodes, ortlite.info(model_bytes()).nodes
        (9, 11)

    """

    def __init__(
        self,
        sess_options: SessionOptions,
        input_model_path_or_bytes: str | os.PathLike[str] | bytes,
        embed_compiled_data_into_model: bool = False,
        external_initializers_file_path: str | os.PathLike[str] | None = None,
        external_initializers_size_threshold: int = 1024,
        flags: int = 0,
        graph_optimization_level: GraphOptimizationLevel = GraphOptimizationLevel.ORT_DISABLE_ALL,
        get_initializer_location_func: GetLocation | None = None,
    ):
        if not isinstance(sess_options, SessionOptions):
            raise TypeError(f"sess_options is an ortlite.SessionOptions, not {type(sess_options)}")
        source = input_model_path_or_bytes
        if not isinstance(source, str | os.PathLike | bytes):
            raise TypeError(f"Unable to load from type '{type(source)}'")
        if not source:
            raise ValueError(f"Input model {'bytes array' if isinstance(source, bytes) else 'path'} is empty")
        external = external_initializers_file_path
        if external and not isinstance(external, str | os.PathLike):
            raise TypeError(f"Output external initializer filepath is of unexpected type '{type(external)}'")
        if external and get_initializer_location_func is not None:
            raise ValueError(
                "Cannot initialize ModelCompiler with both `external_initializers_file_path` "
                "and `get_initializer_location_func`"
            )
        self._source = source if isinstance(source, bytes) else os.fspath(source)
        self._options = sess_options
        self._embed = bool(embed_compiled_data_into_model)
        self._external = os.fspath(external) if external else ""
        expect(GraphOptimizationLevel, graph_optimization_level=graph_optimization_level)
        self._least = index(external_initializers_size_threshold)
        self._flags = index(flags)
        self._level = graph_optimization_level
        self._get_location = get_initializer_location_func

    def compile_to_file(self, output_model_path: str | os.PathLike[str] | None = None) -> None:
        """Write the model to a file; without a path to one beside the input, `model_ctx.onnx` for `model.onnx`.

        Raises Fail for a file that exists under the flag against it, InvalidArgument where it cannot be written.
        """
        if output_model_path and not isinstance(output_model_path, str | os.PathLike):
            raise TypeError(f"Output model's filepath is of unexpected type '{type(output_model_path)}'")
        path = Path(output_model_path) if output_model_path else self._beside()
        if self._flags & EXISTS and path.exists():
            raise Fail(
                f"Failed to generate EP context model since the file '\"{path}\"' exists already. "
                "Please remove the EP context model if you want to re-generate it."
            )
        with ExitStack() as opened:
            opened.enter_context(_created(path)).write(self._compiled(path.parent, opened))

    def compile_to_bytes(self) -> bytes:
        """The bytes of the model. An external file is written to the working directory."""
        with ExitStack() as opened:
            return self._compiled(Path(), opened)

    def compile_to_stream(self, write_function: Callable[[bytes], Any]) -> None:
        """Hand the bytes of the model to a function. What that raises becomes a Fail; TypeError for no function."""
        if not callable(write_function):
            raise TypeError(f"write_function is a function, not {type(write_function).__name__}")
        data = self.compile_to_bytes()
        try:
            write_function(data)
        except Exception as error:
            raise Fail(f"{type(error).__name__}: {error}") from error

    def set_ep_context_data_write_func(self, write_func: Callable[..., Any]) -> None:
        """Accepted, and never called: no provider compiles nodes."""
        if not callable(write_func):
            raise TypeError(f"write_func is a function, not {type(write_func).__name__}")

    def clear_ep_context_data_write_func(self) -> None:
        """Accepted."""

    def set_ep_context_binary_information(self, output_directory: str | os.PathLike[str], model_name: str) -> None:
        """Accepted: no provider writes binary files. Raises InvalidArgument for no name, or what is no directory."""
        if not os.fspath(output_directory) or os.fspath(output_directory) == "." or not model_name:
            raise InvalidArgument("output_dir or model_name is empty.")
        if not Path(output_directory).is_dir():
            raise InvalidArgument(f"output_dir is not a valid directory: {output_directory}")

    def _beside(self) -> Path:
        if isinstance(self._source, bytes):
            raise InvalidArgument("the output path is missing: there is no input path to make one of")
        return Path(f"{self._source.removesuffix('.onnx')}_ctx.onnx")

    def _compiled(self, folder: Path, opened: ExitStack) -> bytes:
        """The bytes of the model; `folder` is where it will lie. Closing `opened` puts the external file there."""
        from ortlite import save

        if not isinstance(self._source, bytes) and not Path(self._source).exists():
            raise InvalidArgument(f'Input model path does not exist: "{self._source}"')
        if self._flags & NO_NODES:
            raise Fail(UNCOMPILED)
        if Path(self._external).is_absolute():
            raise Fail(f"the external initializers' file is a path relative to the model, not {self._external}")
        model = self._optimized()
        if (size := save.size(model.graph)) > save.LARGE and not self._external and self._get_location is None:
            raise Fail(
                f"the model's initializers have {size} bytes, more than a file of protobuf holds: give "
                "external_initializers_file_path"
            )
        with typed("writing the model"):
            place = self._by_caller(self._get_location) if self._get_location is not None else None
            if self._external:
                place = self._into_file(folder / self._external, opened)
            data: bytes = save.to_proto(model, place).SerializeToString()
            return data

    def _optimized(self) -> Model:
        """The model after the passes."""
        from ortlite.api.session import InferenceSession
        from ortlite.api.source import optimized

        options = SessionOptions()
        options.__dict__.update(self._options.__dict__)
        options.graph_optimization_level = self._level
        options.optimized_model_filepath = ""
        # of the session no more than this: it has weights of its own
        model = InferenceSession(self._source, options, enable_fallback=0).model
        with typed("writing the model"):
            return optimized(model, int(self._level))

    def _into_file(self, path: Path, opened: ExitStack) -> Place:
        """Large initializers go to a file, which is made when the first comes."""
        file: Any = None

        def place(_: str, __: np.ndarray, data: np.ndarray) -> tuple[str, int, int] | None:
            nonlocal file
            if data.nbytes < self._least:
                return None
            if file is None:
                file = opened.enter_context(_created(path))
            with _writing(path):
                return self._external, file.tell(), file.write(data)

        return place

    def _by_caller(self, get_location: GetLocation) -> Place:
        """Where the caller says that initializers lie."""
        from ortlite.api.ortvalue import OrtValue

        known = self._external_now()

        def place(name: str, array: np.ndarray, _: np.ndarray) -> tuple[str, int, int] | None:
            try:
                info = get_location(name, OrtValue.ortvalue_from_numpy(array), known.get(name))
            except OrtError:
                raise
            except Exception as error:
                raise Fail(f"{type(error).__name__}: {error}") from error
            if not isinstance(info, OrtExternalInitializerInfo | None):
                raise Fail(
                    f"get_initializer_location_func returned {type(info).__name__} for {name!r}: "
                    "an OrtExternalInitializerInfo or None is wanted"
                )
            return None if info is None else (info.filepath, info.file_offset, info.byte_size)

        return place

    def _external_now(self) -> dict[str, OrtExternalInitializerInfo]:
        """Where the initializers lie that the input model has outside."""
        from ortlite.load.peek import external_places

        data = self._source if isinstance(self._source, bytes) else Path(self._source).read_bytes()
        try:
            places = external_places(data)
        except InvalidProtobuf:  # a file in ORT format, which has none
            return {}
        return {name: OrtExternalInitializerInfo(*place) for name, place in places.items()}


@contextmanager
def _created(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, there once it is whole. Raises InvalidArgument as `_writing`."""
    with _writing(path), atomic.written(path) as part, part.open("wb") as file:
        yield file


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Raise InvalidArgument for what the system says of a file."""
    try:
        yield
    except OSError as error:
        raise InvalidArgument(f'open file "{path}" failed: {error.strerror}') from error
