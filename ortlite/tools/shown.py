"""How the results of the tools show themselves: as text, as HTML in notebooks, as plain data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from typing import Any, NamedTuple

__all__ = ["Shown", "Table", "amount"]


class Table(NamedTuple):
    """A titled table of text, and what to do where it is too wide.

    `missable` columns can be left out, the first first. The column `name` can be shown by its end, `prose` has
    sentences, which may be wrapped.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    missable: Sequence[str] = ()
    name: str = ""
    prose: str = ""


class Shown(ABC):
    """A frozen dataclass that prints as `heading`, tables and remarks, and shows itself in notebooks."""

    __slots__ = ()

    @abstractmethod
    def heading(self) -> str:
        """One line that says what this is about."""

    @abstractmethod
    def tables(self) -> list[Table]:
        """What there is to say, in order."""

    def remarks(self) -> list[str]:
        """Sentences that stand below the tables."""
        return []

    def __str__(self) -> str:
        lines = [self.heading()]
        for title, head, rows, *_ in self.tables():
            widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
            lines.append(f"{title}:")
            for row in (head, *rows):
                cells = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
                lines.append(f"  {cells.rstrip()}")
        return "\n".join([*lines, *self.remarks()])

    def _repr_html_(self) -> str:
        parts = [f"<p><b>{escape(self.heading())}</b></p>"]
        for title, head, rows, *_ in self.tables():
            top = "".join(f"<th scope='col'>{escape(cell)}</th>" for cell in head)
            body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
            caption = f"<caption>{escape(title)}</caption>"
            parts.append(f"<table>{caption}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>")
        parts += [f"<p>{escape(remark)}</p>" for remark in self.remarks()]
        return "\n".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """All fields as dicts, lists, numbers and text."""
        return _plain(asdict(self))  # type: ignore[call-overload,no-any-return]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def amount(value: float | None, unit: str = "") -> str:
    """A number in three digits and a prefix: 1.23 G. "?" for None."""
    if value is None:
        return "?"
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()
