"""What `nestling train digits` and `nestling train fashion --study` show: tables, claims, and what the data cannot decide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ..workloads.errors import InputError
from ..workloads.training_record import Row, TrainingRecord, spread
from ..workloads.weights_file import write_atomically
from .fitted_table import Column, FittedTable
from .output import console, note, print_object

#: The one row that is not an accuracy.
RATIO = "error ratio"


def deliver_record(record: TrainingRecord, folder: Path | None, *, as_json: bool) -> None:
    """Write the record to ``folder`` if there is one, and print JSON or tables."""
    if folder is not None:
        write_record(record, folder)
    if as_json:
        print_object(record.to_json())
        return
    screen = console()
    for table in record_tables(record):
        screen.print(table)
    for text in record.row_notes:
        screen.print(text, highlight=False)
    for text in record.not_shown:
        screen.print(f"[yellow]not shown[/yellow] {text}", highlight=False)
    for text in record.notes:
        screen.print(f"[yellow]![/yellow] {text}", highlight=False)
    screen.print(summary(record), highlight=False)
    if folder is not None:
        note(f"record: {folder / record.stem}.json   table: {folder / record.stem}.csv")


def summary(record: TrainingRecord) -> str:
    """What was run, in one sentence."""
    count = len(record.seeds)
    over = f"mean ± standard deviation over {count} seeds" if count > 1 else "one seed: no spread"
    settings = ", ".join(f"{name} {value}" for name, value in record.settings.items())
    return f"{over}; {record.test_images:,} test images each; {settings}; {record.cpu_s:,.0f} s of processor time"


def record_tables(record: TrainingRecord) -> Iterator[FittedTable]:
    """A table per comparison, then the claims."""
    over = f"; {len(record.seeds)} seed{'s' * (len(record.seeds) != 1)}"
    for table, title in record.titles.items():
        rows = [row for row in record.rows if row.table == table]
        columns = list(dict.fromkeys(column for row in rows for column in row.cells))
        yield FittedTable(
            title + over,
            (
                Column("method", [_label(row, len(record.seeds)) for row in rows], left=True),
                Column("epochs", [row.epochs for row in rows]),
                Column("passes", [f"{row.passes:.0f}" if row.passes else "-" for row in rows]),
                Column("rate", [row.rate for row in rows]),
                *(Column(column, [cell(row, column) for row in rows]) for column in columns),
            ),
            overflow="below",
            compact=True,
        )
    found = record.claims()
    yield FittedTable(
        "Claims",
        (
            Column("claim", [claim.text for claim in found], left=True),
            Column("measured", [f"{claim.measured:.2f}" for claim in found]),
            Column("bar", [f"{claim.relation} {claim.bar:g}" for claim in found]),
            Column("holds", ["yes" if claim.holds else "[red]no[/red]" for claim in found]),
        ),
    )


def _label(row: Row, seeds: int) -> str:
    """The method, with the number of its seeds if it does not have all of them."""
    count = min(map(len, row.cells.values()))
    return row.method if count == seeds else f"{row.method} ({count} seed{'s' * (count != 1)})"


def cell(row: Row, column: str) -> str:
    """Mean and spread in percent; of a ratio the smallest, because that is what is claimed."""
    values = row.cells.get(column)
    if values is None:
        return ""
    if row.method == RATIO:
        return f"{min(values):.0f}x or more"
    return percent(values)


def percent(values: Sequence[float]) -> str:
    """Accuracies as "98.09 ± 0.27"."""
    mean = f"{100 * np.mean(values):.2f}"
    return f"{mean} ± {100 * spread(values):.2f}" if len(values) > 1 else mean


def record_frame(record: TrainingRecord) -> pd.DataFrame:
    """One row per method, column and seed."""
    return pd.DataFrame(
        [
            {
                "table": row.table, "method": row.method, "epochs": row.epochs, "passes": row.passes,
                "rate": row.rate, "column": column, "seed": seed, "value": value,
            }
            for row in record.rows
            for column, values in row.cells.items()
            for seed, value in zip(record.seeds, values, strict=False)  # a stopped run lacks the last seeds of a row
        ]
    )  # fmt: skip


def write_record(record: TrainingRecord, folder: Path) -> None:
    """Write the record as JSON and its values as CSV, both named after its stem.

    Raises
    ------
    InputError
        if the folder cannot be written to.
    """
    texts = {"json": record.text(), "csv": record_frame(record).to_csv(index=False)}
    try:
        for suffix, text in texts.items():
            write_atomically(folder / f"{record.stem}.{suffix}", text.encode())
    except OSError as error:
        raise InputError(f"--out {folder}: cannot be written ({error.strerror or error})") from None
