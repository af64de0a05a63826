"""Sessions through pickle: the path of a model, or for large models of bytes a file in the user's cache, by digest."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ortlite import cache
from ortlite.errors import Fail, NoSuchFile

__all__ = ["INLINE", "Kept", "cache_folder", "found", "rebuild", "source_of"]

INLINE = 1 << 16  # bytes of a model that go into the pickle itself


@dataclass(frozen=True)
class Kept:
    """A model's bytes in a file of the cache."""

    digest: str

    @property
    def path(self) -> Path:
        """The file."""
        return cache_folder("models") / f"{self.digest}.onnx"


def cache_folder(name: str) -> Path:
    """A folder of the user's cache, made if it is not there. Raises OSError where that is not possible."""
    made = cache.folder(name)
    made.mkdir(parents=True, exist_ok=True, mode=0o700)
    return made


def source_of(path: str | None, data: bytes | None) -> str | bytes | Kept:
    """What a pickle says of where a model comes from."""
    if data is None:
        assert path is not None
        return str(Path(path).absolute())
    if len(data) <= INLINE:
        return data
    kept = Kept(hashlib.sha256(data).hexdigest())
    try:
        if not kept.path.exists():
            with tempfile.NamedTemporaryFile(dir=kept.path.parent, delete=False) as file:
                file.write(data)
            Path(file.name).replace(kept.path)
    except OSError:  # no cache: a large pickle is better than none
        return data
    return kept


def found(source: Any) -> Any:
    """What a pickle says of a model, as a session takes it.

    Raises NoSuchFile where a model of the cache is not there, Fail where it has changed.
    """
    if not isinstance(source, Kept):
        return source
    if not source.path.exists():
        raise NoSuchFile(f"The pickled model is not in the cache: {source.path}")
    if hashlib.sha256(source.path.read_bytes()).hexdigest() != source.digest:
        raise Fail(f"The pickled model has changed: {source.path}")
    return str(source.path)


def rebuild(
    kind: type, source: str | bytes | Kept, options: Any, providers: Sequence[Any], keywords: Mapping[str, Any]
) -> Any:
    """The session that was pickled, of class `kind`. Raises what `found` raises."""
    return kind(found(source), options, providers, **keywords)
