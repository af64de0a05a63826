"""The ways to run a signature, of which the one that takes least time answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter, sleep
from typing import Any

from ortlite.forks import renewed_after_fork

__all__ = ["Race"]

Way = Callable[..., Any]
ROUNDS = 3  # at least
SECONDS = 0.1  # of calls, in which there are more rounds: what takes a millisecond is easily disturbed
TURN = 0.03  # seconds in which a way is called again within a round
PAUSE = 0.01  # seconds before each turn: the threads of the way before look out for work, for 5 ms, and take a core
CLEAR = 1.5  # times as long as the fastest: out, if the time for calls is over


class Race:
    """Functions of which the first call finds out which is fastest; that one answers from then on.

    They give the same but for rounding. `ways` makes them; `told` hears the name of the fastest, and what it was
    called with. Other threads wait for the first call.
    """

    def __init__(self, ways: Callable[[], Mapping[str, Way]], told: Callable[[str, Sequence[Any]], None]):
        self.ways: Callable[[], Mapping[str, Way]] | None = ways
        self.told = told
        self.chosen: Way | None = None
        renewed_after_fork(self, "_lock", threading.Lock)

    _lock: threading.Lock

    def __call__(self, *inputs: Any) -> Any:
        """Call the fastest one."""
        if self.chosen is None:
            with self._lock:
                if self.chosen is None and self.ways is not None:
                    ways = self.ways()
                    name = _fastest(ways, inputs)
                    self.told(name, inputs)
                    self.chosen, self.ways = ways[name], None  # what the others hold may go
        assert self.chosen is not None
        return self.chosen(*inputs)


def _fastest(ways: Mapping[str, Way], inputs: Sequence[Any]) -> str:
    for way in ways.values():
        way(*inputs)
    best, spent, rounds = dict.fromkeys(ways, float("inf")), 0.0, 0
    while len(best) > 1 and (spent < SECONDS or rounds < ROUNDS):
        for name in best:
            took = _turn(ways[name], inputs)
            spent += sum(took)
            best[name] = min(best[name], *took)
        rounds += 1
        if spent >= SECONDS:
            least = min(best.values())
            best = {name: seconds for name, seconds in best.items() if seconds <= CLEAR * least}
    return min(best, key=best.__getitem__)


def _turn(way: Way, inputs: Sequence[Any]) -> list[float]:
    """The seconds of each call."""
    sleep(PAUSE)
    took: list[float] = []
    while sum(took) < TURN:
        took.append(_seconds(way, inputs))
    return took


def _seconds(way: Way, inputs: Sequence[Any]) -> float:
    began = perf_counter()
    way(*inputs)
    return perf_counter() - began
