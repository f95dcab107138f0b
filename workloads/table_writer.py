"""A network's layers as a layer table, the CSV that :mod:`.tables` reads: a template to edit."""

from __future__ import annotations

import csv
import io

from .errors import InputError
from .layers import Layer
from .network import Network
from .tables import COLUMNS

#: Columns that are called otherwise in a layer.
_FIELDS = {
    "pad": "padding", "dil": "dilation", "w_params": "weight_params", "b_params": "bias_params", "act": "activation",
}  # fmt: skip


def layer_table(network: Network) -> str:
    """The table of all layers of ``network``, one row per layer; :func:`~.tables.load_table` gives the same layers back.

    Raises
    ------
    InputError
        if a layer's name holds a sign that joins sources (``+``, ``|``, ``*``).
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*COLUMNS, "notes"))
    for layer in network.layers:
        if set("+|*") & set(layer.name):
            raise InputError(f"layer '{layer.name}': a layer table joins sources with +, | and *")
        writer.writerow([*(_cell(layer, column) for column in COLUMNS), layer.notes])
    return text.getvalue()


def _cell(layer: Layer, column: str) -> str:
    if column == "src":
        return layer.join.join(layer.sources)
    if column.startswith("gemm_"):
        return "" if layer.gemm is None else str(getattr(layer.gemm, column.removeprefix("gemm_")))
    value = getattr(layer, _FIELDS.get(column, column))
    return str(int(value)) if isinstance(value, bool) else str(value)
