"""onnxruntime's rules for lists of providers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from ortlite import provider

__all__ = [
    "KNOWN", "available_for", "check_and_normalize_provider_args", "get_all_providers", "get_available_providers",
    "resolve",
]  # fmt: skip

THREADS = "intra_op_num_threads"
# Providers of onnxruntime's builds, best first. One that is not available here is dropped with a warning,
# so that a program written for another machine runs; a name that nobody knows is an error.
KNOWN = (
    "Tensorrt CUDA MIGraphX OpenVINO Dnnl VitisAI QNN Nnapi VSINPU Js CoreML Dml Rknpu WebNN WebGpu Xnnpack CANN Azure "
    "NvTensorRTRTX ACL ArmNN ROCM"
)


def get_available_providers() -> list[str]:
    """Providers for running a model on this machine, best first, the CPU provider last.

    The order is that of the ranks that the providers give themselves (`ortlite.provider.ExecutionProvider.rank`). What
    exists for tests, StrictExecutionProvider, is not among them, but may be named.

    Example:
        >>> from ortlite import InferenceSession
        >>> from ortlite.cli.digits import model_bytes
        >>> session = InferenceSession(model_bytes(), providers=get_available_providers())
        >>> session.get_providers()[-1]
        'CPUExecutionProvider'

    """
    return provider.available()


def get_all_providers() -> list[str]:
    """Providers that ortlite or onnxruntime know by name, available or not; those that can be used here stand last."""
    usable = provider.usable()
    theirs = [f"{word}ExecutionProvider" for word in KNOWN.split()]
    return [*(name for name in dict.fromkeys([*theirs, *provider.known()]) if name not in usable), *usable]


def available_for(providers: Any) -> list[str]:
    """`get_available_providers()`, as far as a session with these `providers` needs it.

    Where it asks for NumPy alone, no other is looked for: that would take as long as making it.
    """
    given = providers if isinstance(providers, Sequence) else ()  # what is no list is refused by who reads it
    names = [entry[0] if isinstance(entry, tuple) and entry else entry for entry in given]
    return [provider.CPU] if all(name == provider.CPU for name in names) else get_available_providers()


def check_and_normalize_provider_args(
    providers: Sequence[str | tuple[str, dict[Any, Any]]] | None,
    provider_options: Sequence[dict[Any, Any]] | None,
    available_provider_names: Sequence[str],
) -> tuple[list[str], list[dict[str, str]]]:
    """Names and options, one entry a provider, in order; keys and values of options go through str().

    Raises ValueError for a malformed argument. A name that is not available, and is none of a provider for tests that
    can be used here, gets a UserWarning and stays in the list; a repeated one gets a UserWarning, and its first entry
    counts.
    """
    if providers is None:
        return [], []
    if not isinstance(providers, Sequence):
        raise ValueError("'providers' should be a sequence.")
    result: dict[str, dict[str, str]] = {}

    def add(name: str, options: dict[Any, Any]) -> None:
        if name not in available_provider_names and name not in provider.usable():
            listed = ", ".join(available_provider_names)
            warnings.warn(
                f"Specified provider '{name}' is not in available provider names.Available providers: '{listed}'",
                UserWarning,
                stacklevel=5,
            )
        if name in result:
            warnings.warn(f"Duplicate provider '{name}' encountered, ignoring.", UserWarning, stacklevel=5)
            return
        result[name] = {str(key): str(value) for key, value in options.items()}

    if provider_options is not None:
        if not isinstance(provider_options, Sequence):
            raise ValueError("'provider_options' should be a sequence.")
        if len(providers) != len(provider_options):
            raise ValueError("'providers' and 'provider_options' should be the same length if both are given.")
        if not all(isinstance(name, str) for name in providers):
            raise ValueError("Only string values for 'providers' are supported if 'provider_options' is given.")
        if not all(isinstance(options, dict) for options in provider_options):
            raise ValueError("'provider_options' values must be dicts.")
        for name, options in zip(providers, provider_options, strict=True):
            add(str(name), options)
        return list(result), list(result.values())
    for entry in providers:
        if isinstance(entry, str):
            add(entry, {})
        elif isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str) and isinstance(entry[1], dict):
            add(*entry)
        else:
            raise ValueError("'providers' values must be either strings or (string, dict) tuples.")
    return list(result), list(result.values())


def resolve(
    names: Sequence[str], options: Sequence[dict[str, str]], threads: int = 0
) -> list[provider.ExecutionProvider]:
    """The providers of a session, CPU appended where it is absent. Raises RuntimeError for an unknown name.

    `threads`, if above 0, becomes the option intra_op_num_threads of those that have one, where it is not given.
    """
    usable = [provider.CPU] if set(names) <= {provider.CPU} else provider.usable()
    for name in names:
        if name not in usable and name not in get_all_providers():
            raise RuntimeError(f"Unknown Provider Type: {name}")
    chosen = {n: o for n, o in zip(names, options, strict=True) if n in usable}
    chosen.setdefault(provider.CPU, {})
    if threads > 0:
        own = {THREADS: str(threads)}
        having = {name for name in chosen if name == provider.CPU or provider.takes(name, THREADS)}
        chosen = {name: own | o if name in having else o for name, o in chosen.items()}
    order = [name for name in chosen if name != provider.CPU]
    # The CPU provider runs everything, so nothing listed behind it would ever be used.
    listed = list(chosen)
    before = order if listed[-1] == provider.CPU else [n for n in listed[: listed.index(provider.CPU)] if n in order]
    return [provider.create(name, chosen[name]) for name in [*before, provider.CPU]]
