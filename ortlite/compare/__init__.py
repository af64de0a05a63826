"""Where do two libraries disagree on a model, who is wrong, and what is the smallest model that shows it?

`compare` runs a model on two providers and compares every value on the way, and says which node differs by itself;
`reduce` cuts out what still shows the first difference.
"""

from __future__ import annotations

from ortlite.compare.alone import Alone
from ortlite.compare.comparison import Comparison, Row, compare
from ortlite.compare.difference import Difference, Tolerance, difference
from ortlite.compare.judge import Judgement, judge
from ortlite.compare.reduce import Reduced, reduce
from ortlite.compare.sides import ProviderSide, Side

__all__ = [
    "Alone", "Comparison", "Difference", "Judgement", "ProviderSide", "Reduced", "Row", "Side", "Tolerance", "compare",
    "difference", "judge", "reduce",
]  # fmt: skip
