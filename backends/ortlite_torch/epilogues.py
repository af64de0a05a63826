"""What inductor must not fuse into oneDNN's products and convolutions.

oneDNN's own Relu, bounds and hard sigmoid make a number of NaN, and its Gelu makes NaN of infinity. Inductor finds them
behind a product by patterns of neighbours: two changes of sign in between, which the compiled code does in registers
or not at all, are part of none. Sums, sigmoid, tanh, SiLU and LeakyRelu are right, and stay fused.
"""

from __future__ import annotations

from typing import Any

import torch
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files

__all__ = ["Apart"]

aten: Any = torch.ops.aten
WRONG = {aten.relu.default, aten.clamp_min.default, aten.clamp_max.default, aten.erf.default}


class Apart(CustomGraphPass):  # type: ignore[misc]  # what torch is made of is not looked into
    """Changes the sign of what goes into each of `WRONG` twice."""

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
        """What tells code compiled with this file from others, on disk."""
        return get_hash_for_files((__file__,))
