"""A session's `fallback`: what is said of nodes that the CPU provider runs where others were asked to."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ortlite.errors import Fail, InvalidArgument
from ortlite.provider import CPU, usable

if TYPE_CHECKING:
    from ortlite.partition import Partitions

__all__ = ["FALLBACK", "check_asked", "check_placed"]

FALLBACK = ("allow", "warn", "error")
NO_FALLBACK = (
    "This session contains graph nodes that are assigned to the default CPU EP, but fallback to CPU EP has been "
    "explicitly disabled by the user."
)
LISTED = 20  # nodes that a message names


def check_asked(fallback: str, no_cpu: bool, names: Sequence[str], available: Sequence[str]) -> None:
    """Raise for providers that a session cannot have: Fail for those that are not here, unless others may stand in.

    `no_cpu`: the options forbid the CPU provider, so that naming it is an InvalidArgument.
    """
    if no_cpu and CPU in names:
        raise InvalidArgument(
            "Conflicting session configuration: explicitly added the CPU EP to the session, but also disabled "
            "fallback to the CPU EP via session configuration options."
        )
    if fallback == "error" and (lost := [name for name in names if name not in usable()]):
        raise Fail(f"{NO_FALLBACK} Not available here: {', '.join(lost)}; available: {', '.join(available)}.")


def check_placed(fallback: str, parts: Partitions) -> None:
    """Warn of nodes on the CPU provider that others were asked to run; raise Fail where `fallback` is "error"."""
    from ortlite.api.explain import fallen_back

    nodes = fallen_back(parts)
    if not nodes:
        return
    lines = [f"  {n.name} ({n.op_type}): {'; '.join(n.reasons) or 'no other provider'}" for n in nodes[:LISTED]]
    lines += [f"  and {len(nodes) - LISTED} more"] if len(nodes) > LISTED else []
    listed = "\n".join(lines)
    if fallback == "error":
        raise Fail(f"{NO_FALLBACK}\n{listed}")
    warnings.warn(f"{len(nodes)} nodes run on the CPU provider:\n{listed}", RuntimeWarning, stacklevel=4)
