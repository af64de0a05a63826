"""What inductor must not fuse into oneDNN's products and convolutions.

oneDNN's own Relu, bounds and hard sigmoid make a number of NaN, and its Gelu makes NaN of infinity. Inductor finds them
behind a product by patterns of neighbours: two changes of sign in between, which the compiled code does in registers
or not at all, are part of none. Sums, sigmoid, tanh, SiLU and LeakyRelu are right, and stay fused.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from hashlib import blake2b
from typing import Any

import torch
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files

__all__ = ["Apart"]

aten: Any = torch.ops.aten
# Bounds are numbers or tensors: at those inductor stops where they are constants.
WRONG = {
    aten.relu.default, aten.clamp_min.default, aten.clamp_min.Tensor, aten.clamp_max.default, aten.clamp_max.Tensor,
    aten.erf.default,
}  # fmt: skip


class Apart(CustomGraphPass):  # type: ignore[misc]  # what torch is made of is not looked into
    """Changes the sign of what goes into each of `WRONG` twice.

    Inductor keeps code on disk, writes constant numbers into it, and yet looks for it by the shapes of constants alone
    (torch 2.13): it would find that of another model. So the bytes of `constants` are part of what tells this pass
    from others.
    """

    def __init__(self, constants: Iterable[torch.Tensor] = ()):
        self.constants = [*constants]

    def __call__(self, graph: torch.fx.graph.Graph) -> None:
        """Change the graph."""
        for node in [node for node in graph.nodes if node.target in WRONG]:
            x = before = node.args[0]
            value = before.meta.get("val")
            if value is None or not value.dtype.is_floating_point:
                continue
            with graph.inserting_before(node):
                for _ in range(2):
                    x = graph.call_function(aten.neg.default, (x,))
                    x.meta.update(before.meta)
            node.replace_input_with(before, x)

    def uuid(self) -> Any:
        """What tells code compiled with this file and these constants from others, on disk."""
        return get_hash_for_files((__file__,)), self.digest

    @cached_property
    def digest(self) -> bytes:
        """Of all constants, one after the other."""
        digest = blake2b(digest_size=16)
        for value in self.constants:
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        self.constants = []
        return digest.digest()
