"""Terminal tables that never cut a figure: columns that do not fit are given up, or follow in a table below."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

#: Wider than any terminal: what a table would like to have.
_UNBOUNDED = 10_000


@dataclass(frozen=True)
class Column:
    """A heading and its cells (rich markup). ``rank``: 0 is always shown, the highest is given up first."""

    heading: str
    cells: Sequence[str]
    left: bool = False
    rank: int = 0


@dataclass(frozen=True)
class FittedTable:
    """A table of whole columns. The first column names the rows.

    ``overflow``: "drop" gives up columns by rank until the rest fits and says which; "below" puts what does not fit into
    further tables, the first column repeated. ``compact``: without frame and padding.
    """

    title: str
    columns: Sequence[Column]
    overflow: Literal["drop", "below"] = "drop"
    compact: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width

        def fits(columns: Sequence[Column]) -> bool:
            wanted = Measurement.get(console, options.update(width=_UNBOUNDED), self._table(columns, title=""))
            return wanted.maximum <= width

        if self.overflow == "below":
            for number, columns in enumerate(_blocks(self.columns, fits)):
                yield self._table(columns, title=self.title if number == 0 else "")
            return
        shown = list(self.columns)
        while not fits(shown) and any(column.rank for column in shown):
            shown.remove(max(shown, key=lambda column: column.rank))
        yield self._table(shown, title=self.title)
        hidden = [" ".join(column.heading.split()) for column in self.columns if column not in shown]
        if hidden:
            yield Text(f"not shown in {width} columns: {', '.join(hidden)}", style="dim")

    def _table(self, columns: Sequence[Column], *, title: str) -> Table:
        table = Table(title=title or None)
        if self.compact:
            table = Table(title=title or None, box=box.SIMPLE_HEAD, padding=0, pad_edge=False, title_justify="left")
        for column in columns:
            table.add_column(column.heading, justify="left" if column.left else "right", no_wrap=True)
        for row in zip(*(column.cells for column in columns), strict=True):
            table.add_row(*row)
        return table


def _blocks(columns: Sequence[Column], fits: Callable[[list[Column]], bool]) -> Iterator[list[Column]]:
    """Runs of columns, each led by the first one, as many at a time as fit (one at least)."""
    first, block = columns[0], [columns[0]]
    for column in columns[1:]:
        if len(block) > 1 and not fits([*block, column]):
            yield block
            block = [first]
        block.append(column)
    yield block
