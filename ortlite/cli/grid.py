"""Tables of the command line: fitted to the width of a terminal, aligned by spaces in a pipe, where nothing is cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ortlite.tools.shown import Table

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["fitted", "show_table"]

NAME, PROSE = 16, 28  # characters that the column of names, and that of sentences, has at least
FRAME = 3  # what Rich draws beside a column


def show_table(out: Console, table: Table) -> None:
    """A titled table: on a terminal as wide as that is, or, where it is too narrow, a few lines a row."""
    if not out.is_terminal:
        _show_plain(out, table)
        return
    from rich.table import Table as Grid
    from rich.text import Text

    found, left_out = fitted(table, out.width)
    if found is None:
        _show_stacked(out, table)
        return
    grid = Grid(title=table.title, title_justify="left", title_style="bold")
    for column in found.head:
        grid.add_column(column, no_wrap=column != table.prose, overflow="fold")
    for row in found.rows:
        grid.add_row(*map(Text, row))
    out.print(grid)
    if left_out:
        out.print(f"no room for {', '.join(left_out)}: a wider terminal or a pipe shows them", highlight=False)


def fitted(table: Table, width: int) -> tuple[Table | None, list[str]]:
    """The table for so many characters, and which columns that cost; None where even that is too wide.

    Columns that say nothing go, then those that can be missed, the first first; names are shown by their ends.
    """
    columns = [list(column) for column in zip(table.head, *table.rows, strict=True)]
    columns = [column for column in columns if any(column[1:]) or not table.rows]
    needed = [max(map(len, column)) + FRAME for column in columns]
    sizes = list(needed)
    at = {column[0]: index for index, column in enumerate(columns)}
    name, prose = at.get(table.name), at.get(table.prose)
    for index, least in ((name, NAME), (prose, PROSE)):
        if index is not None:
            sizes[index] = min(sizes[index], least + FRAME)
    left_out = []
    for title in table.missable:
        if title in at and sum(sizes) + 1 > width:
            left_out.append(title)
            sizes[at[title]] = 0
    spare = width - sum(sizes) - 1
    if spare < 0:
        return None, []
    for index, part in ((name, 1 if prose is None else 2), (prose, 1), (name, 1)):
        if index is not None and sizes[index]:
            more = min(spare // part, needed[index] - sizes[index])
            sizes[index] += more
            spare -= more
    if name is not None:
        columns[name] = [_ending(cell, sizes[name] - FRAME) for cell in columns[name]]
    head, *rows = zip(*(column for column, size in zip(columns, sizes, strict=True) if size), strict=True)
    return table._replace(head=head, rows=rows), left_out


def _ending(text: str, room: int) -> str:
    return text if len(text) <= room else f"…{text[len(text) - room + 1 :]}"


def _show_plain(out: Console, table: Table) -> None:
    widths = [max(map(len, column)) for column in zip(table.head, *table.rows, strict=True)]
    out.print(f"{table.title}:", markup=False, highlight=False, soft_wrap=True)
    for row in (table.head, *table.rows):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        out.print(f"  {line.rstrip()}", markup=False, highlight=False, soft_wrap=True)


def _show_stacked(out: Console, table: Table) -> None:
    """Each row as its name, and below it what its columns say."""
    from rich.padding import Padding
    from rich.text import Text

    out.print(Text(table.title, "bold"))
    place = table.head.index(table.name) if table.name else 0
    for row in table.rows:
        cells = list(zip(table.head, row, strict=True))
        _, name = cells.pop(place)
        told = ", ".join(f"{title} {cell}".strip() for title, cell in cells if cell)
        out.print(Padding(Text(name or "—"), (0, 0, 0, 2)), Padding(Text(told), (0, 0, 0, 4)))
