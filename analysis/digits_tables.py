"""What `nestling train digits` shows: a table per comparison, the claims, and what the data cannot decide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ..workloads.digits_record import NOT_SHOWN, ROW_NOTES, DigitsRecord, Row, claims, spread
from ..workloads.digits_training import record_text
from ..workloads.errors import InputError
from ..workloads.weights_file import write_atomically
from .fitted_table import Column, FittedTable
from .output import console, note, print_object

TITLES = {
    "levels": "Nested levels and their baselines: accuracy per density, %",
    "N:M": "N:M on the hidden layers: accuracy, %",
    "post-training": "Without training, from the dense network: accuracy, %",
}
#: The one row that is not an accuracy.
RATIO = "error ratio"


def deliver_digits(record: DigitsRecord, folder: Path | None, *, as_json: bool) -> None:
    """Write the record to ``folder`` if there is one, and print JSON or tables."""
    if folder is not None:
        write_digits(record, folder)
    if as_json:
        print_object(record.to_json())
        return
    screen = console()
    for table in digits_tables(record):
        screen.print(table)
    for text in ROW_NOTES:
        screen.print(text, highlight=False)
    for text in NOT_SHOWN:
        screen.print(f"[yellow]not shown[/yellow] {text}", highlight=False)
    for text in record.notes:
        screen.print(f"[yellow]![/yellow] {text}", highlight=False)
    screen.print(summary(record), highlight=False)
    if folder is not None:
        note(f"record: {folder / 'digits_training.json'}   table: {folder / 'digits_training.csv'}")


def summary(record: DigitsRecord) -> str:
    """What was run, in one sentence."""
    count = len(record.seeds)
    over = f"mean ± standard deviation over {count} seeds" if count > 1 else "one seed: no spread"
    return f"{over}; 450 test images each; {record.cpu_s:.0f} s of processor time"


def digits_tables(record: DigitsRecord) -> Iterator[FittedTable]:
    """A table per comparison, then the claims."""
    for table, title in TITLES.items():
        rows = [row for row in record.rows if row.table == table]
        columns = list(dict.fromkeys(column for row in rows for column in row.cells))
        yield FittedTable(
            title,
            (
                Column("method", [row.method for row in rows], left=True),
                Column("epochs", [row.epochs if row.passes else "-" for row in rows]),
                Column("passes", [f"{row.passes:.0f}" if row.passes else "-" for row in rows]),
                Column("rate", [f"{row.peak_rate:g}" if row.passes else "-" for row in rows]),
                *(Column(column, [cell(row, column) for row in rows]) for column in columns),
            ),
            overflow="below",
            compact=True,
        )
    found = claims(record)
    yield FittedTable(
        "Claims",
        (
            Column("claim", [claim.text for claim in found], left=True),
            Column("measured", [f"{claim.measured:.2f}" for claim in found]),
            Column("bar", [f"{claim.relation} {claim.bar:g}" for claim in found]),
            Column("holds", ["yes" if claim.holds else "[red]no[/red]" for claim in found]),
        ),
    )


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


def digits_frame(record: DigitsRecord) -> pd.DataFrame:
    """One row per method, column and seed."""
    return pd.DataFrame(
        [
            {
                "table": row.table, "method": row.method, "epochs": row.epochs, "passes": row.passes,
                "peak_rate": row.peak_rate, "column": column, "seed": seed, "value": value,
            }
            for row in record.rows
            for column, values in row.cells.items()
            for seed, value in zip(record.seeds, values, strict=True)
        ]
    )  # fmt: skip


def write_digits(record: DigitsRecord, folder: Path) -> None:
    """Write digits_training.json and digits_training.csv.

    Raises
    ------
    InputError
        if the folder cannot be written to.
    """
    texts = {"json": record_text(record), "csv": digits_frame(record).to_csv(index=False)}
    try:
        for suffix, text in texts.items():
            write_atomically(folder / f"digits_training.{suffix}", text.encode())
    except OSError as error:
        raise InputError(f"--out {folder}: cannot be written ({error.strerror or error})") from None
