"""The table of operators: which kernel runs (domain, op_type) in which opset.

A kernel is a plain function `kernel(xp, *inputs, **attributes)` whose parameter names are the ONNX
schema's. `@op` reads its signature once; nothing about an operator is written anywhere else.

Third parties register kernels with `@ortlite.op` too: in a script, or in a package that names a module or a function in
the entry-point group `ortlite.operators`, loaded when the first operator is looked up that is none of ours.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import warnings
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cached_property
from threading import RLock
from types import ModuleType
from typing import Any, NamedTuple, TypeAlias, TypeVar

from ortlite.dtypes import DType
from ortlite.forks import renewed_after_fork
from ortlite.namespace import or_default
from ortlite.ops.annotations import ATTRIBUTE_ONLY, DEVICE, HOST, HOST_RESULT
from ortlite.ops.types import Rule

__all__ = ["ENTRY_POINTS", "Kernel", "Param", "built_in", "call", "kernels", "lookup", "op", "read"]

F = TypeVar("F", bound=Callable[..., Any])
Needs: TypeAlias = tuple[str, ...] | Callable[[Sequence[DType | None]], tuple[str, ...]]
INJECTED = frozenset({"memo", "n_outputs", "rng"})
EMPTY = inspect.Parameter.empty
ENTRY_POINTS = "ortlite.operators"
BUILT_IN = "ortlite.ops."  # where the modules of our own kernels are

# One file per ONNX category. The first operator of a domain that is looked up brings the domain's; the rest, and what
# other packages register, come with the first that is not among these.
CATEGORIES = {
    "": (
        "elementwise activation logical reduce shape index create linalg norm conv pool resize attention recurrent "
        "quant cast random control sequence"
    ),
    "com.microsoft": "contrib",
    "ai.onnx.ml": "ml",
}
REST = "vision signal text image training"


class Param(NamedTuple):
    """One parameter of a kernel: `kind` is its annotation; `default` is EMPTY when it must be given.

    `nullable` is a parameter that takes None for an input left out, with a default or without.
    """

    name: str
    kind: str
    default: Any = EMPTY
    nullable: bool = False

    @property
    def required(self) -> bool:
        """Whether a node has to give it."""
        return self.default is EMPTY and not self.nullable

    @property
    def host(self) -> bool:
        """Whether the kernel wants a Python object here instead of an array."""
        return self.kind not in DEVICE


@dataclass(frozen=True)
class Kernel:
    """A registered kernel, what its signature says, and all else that is known of the operator.

    `since` is the opset in which this meaning began. `python_objects`: works on Python objects (text, images,
    maps) and only runs on NumPy. `any_dtype`: takes narrow dtypes as they are stored instead of widened to
    float32 (it only moves elements, or converts them itself). `data_dependent_shape`: the shape of an output depends on
    the values of an array. `views`: a result may share memory with an argument. `needs`: names of the namespace that
    have no default body, or a function of the dtypes of a node's inputs and outputs that gives them.
    The types of the outputs, where no type variable of a schema tells them: `types` is a rule of `ortlite.ops.types`;
    `results`, for domains that onnx has no schema of, says per output the input whose dtype it has, the attribute that
    names its dtype, a dtype's name, or "" when none of these says it. `override`: what a provider runs in place of
    `fn`, whose signature still counts; where it returns NotImplemented, `fn` runs.
    """

    domain: str
    op_type: str
    since: int
    fn: Callable[..., Any]
    python_objects: bool = False
    any_dtype: bool = False
    data_dependent_shape: bool = False
    views: bool = False
    needs: Needs = ()
    results: tuple[str, ...] = ()
    types: Rule | None = None
    override: Callable[..., Any] | None = None

    def __str__(self) -> str:
        return f"{self.domain or 'ai.onnx'}::{self.op_type}-{self.since}"

    @cached_property
    def _signature(self) -> tuple[tuple[Param, ...], Param | None, dict[str, Param], frozenset[str], str]:
        return read(self.fn)

    @cached_property
    def body(self) -> Callable[..., Any]:
        """The function to call: `fn`, or `override` with `fn` for what that leaves to it."""
        return self.fn if self.override is None else or_default(self.override, self.fn)

    def replaced(self, override: Callable[..., Any]) -> Kernel:
        """The kernel with another function to run in its place; its signature is not read again."""
        other = replace(self, override=override)
        other.__dict__["_signature"] = self._signature
        return other

    @property
    def inputs(self) -> tuple[Param, ...]:
        """Parameters that take the node's inputs, by position."""
        return self._signature[0]

    @property
    def variadic(self) -> Param | None:
        """The `*inputs` parameter, which takes every further input."""
        return self._signature[1]

    @property
    def attributes(self) -> dict[str, Param]:
        """Keyword-only parameters, by name."""
        return self._signature[2]

    @property
    def injected(self) -> frozenset[str]:
        """Which of `memo`, `n_outputs` and `rng` the kernel asks for."""
        return self._signature[3]

    @property
    def host_result(self) -> str | None:
        """NumPy dtype of the result when it is a host value (a shape, a size), else None."""
        return HOST_RESULT.get(self._signature[4])

    @property
    def hands_on(self) -> bool:
        """Whether the result is the argument as it is: nothing is computed (`any_dtype`), nothing says what else."""
        moves = self.views and (self.any_dtype or self.python_objects)
        return moves and len(self.inputs) == 1 and not self.attributes and self.variadic is None

    @property
    def multiple(self) -> bool:
        """Whether the kernel returns a tuple of its outputs instead of its only output."""
        return self._signature[4].startswith("tuple[")

    @property
    def results_count(self) -> int | None:
        """How many outputs the kernel has; None where the annotation leaves it open."""
        if not self.multiple:
            return 1
        listed = self._signature[4].removeprefix("tuple[").removesuffix("]")
        return None if listed.endswith("...") else listed.count(",") + 1

    def param(self, position: int) -> Param | None:
        """The parameter that takes the input at `position`, or None when there is none."""
        return self.inputs[position] if position < len(self.inputs) else self.variadic

    def accepts(self, attribute: str) -> Param | None:
        """The parameter that takes `attribute`: older versions give as attribute what became an input."""
        return self.attributes.get(attribute) or next((p for p in self.inputs if p.name == attribute), None)


def read(fn: Callable[..., Any]) -> tuple[tuple[Param, ...], Param | None, dict[str, Param], frozenset[str], str]:
    """Read a kernel's signature: inputs, variadic input, attributes, injected keywords, result kind."""
    known = DEVICE | HOST.keys() | ATTRIBUTE_ONLY
    inputs: list[Param] = []
    variadic: Param | None = None
    attributes: dict[str, Param] = {}
    injected = set()
    signature = inspect.signature(fn)
    for index, p in enumerate(signature.parameters.values()):
        if index == 0:
            continue  # xp
        if p.name in INJECTED:
            injected.add(p.name)
            continue
        kind = _kind(p.annotation)
        if kind not in known:
            raise TypeError(
                f"{fn.__module__}.{fn.__name__}: parameter {p.name!r} has the unknown annotation {kind!r}; there are "
                f"{', '.join(sorted(known))} (ortlite.ops.annotations)"
            )
        param = Param(p.name, kind, p.default, nullable="None" in str(p.annotation))
        if p.kind is p.VAR_POSITIONAL:
            variadic = param
        elif p.kind is p.KEYWORD_ONLY:
            attributes[p.name] = param
        else:
            inputs.append(param)
    return tuple(inputs), variadic, attributes, frozenset(injected), _kind(signature.return_annotation)


# Annotations of third parties: none, Python's own, and what Array is where a module does not postpone evaluation.
PLAIN = {"_empty": "Array", "Any": "Array", "int": "Int", "float": "Float", "bool": "Bool", "str": "Text"}
PLAIN |= {"tuple[int, ...]": "Ints", "tuple[float, ...]": "Floats", "tuple[str, ...]": "Texts"}


def _kind(annotation: Any) -> str:
    """The name of an annotation, without `| None`."""
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")
    text = text.removeprefix("Optional[").removesuffix("]") if text.startswith("Optional[") else text
    text = text.removesuffix(" | None")
    return PLAIN.get(text, text)


_TABLE: dict[tuple[str, str], list[Kernel]] = {}
_LOCK = RLock()
renewed_after_fork(sys.modules[__name__], "_LOCK", RLock)
_loaded = _loading = False
_READY: set[str] = set()  # domains whose categories are there


def op(
    *names: str | int,
    since: int = 1,
    domain: str = "",
    python_objects: bool = False,
    any_dtype: bool = False,
    data_dependent_shape: bool = False,
    views: bool = False,
    needs: Needs = (),
    results: tuple[str, ...] = (),
    types: Rule | None = None,
) -> Callable[[F], F]:
    """Register a function as the kernel of an operator from opset `since` on; see Kernel for the flags.

    `names`: the operator's, and then `since` and `domain`; or the domain, the operator's, and then `since`. To define
    a kernel of one's own again, in the same module under the same name, replaces it in sessions made from then on.
    Raises ValueError for a version of an operator that has a kernel already, and for any version of an operator of
    ortlite's own in another package; TypeError for a signature that is no kernel's.

    Example:
        >>> @op("my.domain", "Twice")
        ... def twice(xp, X):
        ...     return X + X

    """
    texts = [name for name in names if isinstance(name, str)]
    numbers = [name for name in names if isinstance(name, int)]
    if not 1 <= len(texts) <= 2 or len(numbers) > 1 or not isinstance(names[0], str):
        raise TypeError('op("Name"), op("Name", since), op("Name", since, "domain") or op("domain", "Name")')
    domain_first = len(names) > 1 and isinstance(names[1], str)
    op_type, *domains = reversed(texts) if domain_first else texts
    domain, since = (domains or [domain])[0], (numbers or [since])[0]

    def register(fn: F) -> F:
        flags = (python_objects, any_dtype, data_dependent_shape, views)
        kernel = Kernel(domain, op_type, since, fn, *flags, needs, results, types)
        foreign = not built_in(kernel)
        if foreign:
            _load_ours()  # they come first, whoever imports what when
            kernel.inputs  # noqa: B018  (reads the signature: a mistake shows here, not in the first session)
        versions = [k for k in _TABLE.get((domain, op_type), []) if not (foreign and _same(k, kernel))]
        name = f"{domain or 'ai.onnx'}::{op_type}"
        if any(k.since == since for k in versions):
            raise ValueError(f"{name} since {since} is registered twice")
        if foreign and any(map(built_in, versions)):
            raise ValueError(f"{name} has a kernel in ortlite, whose place {fn.__module__}.{fn.__name__} cannot take")
        _TABLE[domain, op_type] = sorted([*versions, kernel], key=lambda k: k.since)
        return fn

    return register


def _same(kernel: Kernel, other: Kernel) -> bool:
    """Whether one is the other, defined again: in a notebook's cell, or by a module that is reloaded."""
    return (kernel.since, kernel.fn.__module__, kernel.fn.__qualname__) == (
        other.since,
        other.fn.__module__,
        other.fn.__qualname__,
    )


def built_in(kernel: Kernel) -> bool:
    """Whether a kernel is ortlite's, not a third party's."""
    return (kernel.fn.__module__ or "").startswith(BUILT_IN)


def _load_categories(names: str) -> None:
    for category in names.split():
        importlib.import_module(BUILT_IN + category)


def _load_domain(domain: str) -> None:
    if domain not in _READY:
        with _LOCK:
            _load_categories(CATEGORIES.get(domain, ""))
            _READY.add(domain)


def _load_ours() -> None:
    for names in (*CATEGORIES.values(), REST):
        _load_categories(names)


def _load() -> None:
    """Fill the table, once: our kernels, then those of the packages that are installed."""
    global _loaded, _loading  # noqa: PLW0603  (one-way latches: the table fills itself once)
    if _loaded:
        return
    with _LOCK:
        if _loaded or _loading:  # a package that looks operators up while it registers its own finds ours
            return
        _loading = True
        try:
            _load_ours()
            _load_packages()
            _loaded = True
        finally:
            _loading = False


def _load_packages() -> None:
    """Let every package with an entry point in `ortlite.operators` register its kernels; skip the broken ones."""
    from importlib.metadata import entry_points

    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: (point.name, point.value)):
        before = dict(_TABLE)
        try:
            loaded = point.load()
            if callable(loaded):
                loaded()
            elif not isinstance(loaded, ModuleType):
                raise TypeError(f"{loaded!r} is neither a module nor callable")
        except (Exception, SystemExit) as error:  # noqa: BLE001  (a broken package must not take the others down)
            _TABLE.clear()
            _TABLE.update(before)
            message = f"The operators of {point.name!r} ({point.value}) are skipped: {error!r}"
            warnings.warn(message, RuntimeWarning, stacklevel=4)


Operators = Sequence[tuple[str, str, int, Callable[..., Any], Mapping[str, Any]]]
_LOCAL: ContextVar[Mapping[tuple[str, str], list[Kernel]]] = ContextVar("_LOCAL")


@contextmanager
def local(operators: Operators) -> Iterator[None]:
    """Within it, `lookup` finds these kernels first: (domain, op_type, since, function, flags of Kernel) each."""
    table: dict[tuple[str, str], list[Kernel]] = defaultdict(list)
    for domain, op_type, since, fn, flags in operators:
        table[domain, op_type].append(Kernel(domain, op_type, since, fn, **flags))
        table[domain, op_type].sort(key=lambda kernel: kernel.since)
    token = _LOCAL.set(dict(table))
    try:
        yield
    finally:
        _LOCAL.reset(token)


def _versions(domain: str, op_type: str) -> list[Kernel]:
    """All kernels of an operator. Where one is ours, all are: nobody can take its place."""
    _load_domain(domain)
    found = _TABLE.get((domain, op_type), [])
    if not _loaded and not any(map(built_in, found)):
        _load()
        found = _TABLE.get((domain, op_type), [])
    return found


def lookup(domain: str, op_type: str, opset: int) -> Kernel | None:
    """The kernel with the largest `since` not above `opset`, or None."""
    versions = _LOCAL.get({}).get((domain, op_type)) or _versions(domain, op_type)
    index = bisect_right(versions, opset, key=lambda k: k.since)
    return versions[index - 1] if index else None


def kernels() -> Iterator[Kernel]:
    """Every registered kernel, by domain, name and version."""
    _load()
    for _, versions in sorted(_TABLE.items()):
        yield from versions


def call(kernel: Kernel, xp: Any, inputs: Sequence[Any], attributes: Mapping[str, Any], **injected: Any) -> Any:
    """Run a kernel on inputs (None: absent) that already live where its annotations want them.

    Host inputs are given as NumPy arrays, as graph values are. This is the one place that says how a
    node's inputs and attributes meet a kernel's parameters for a single, eager call.
    """
    keywords = {name: value for name, value in attributes.items() if kernel.accepts(name)}
    keywords |= {name: value for name, value in injected.items() if name in kernel.injected}
    positional = []
    for index, value in enumerate(inputs):
        param = kernel.param(index)
        if param is None:
            raise ValueError(f"{kernel} takes {len(kernel.inputs)} inputs, not {len(inputs)}")
        if value is None:
            default = keywords.pop(param.name, param.default)
            if default is EMPTY:
                raise ValueError(f"{kernel} needs its input {param.name!r}")
            positional.append(default)
        else:
            positional.append(HOST[param.kind](value) if param.kind in HOST else value)
    return kernel.fn(xp, *positional, **keywords)
