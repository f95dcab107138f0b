"""Layer tables: a user's own network as a CSV file, one row per layer at batch 1.

Columns, in any order; an empty field is 0 for counts and 1 for sizes, and other columns are ignored:

* ``name``; ``op``: one of :data:`~.layers.OPS`;
* ``src``: the producers, ``a+b`` for a sum, ``a|b`` for a concatenation, ``a*b`` for a product; ``input`` is the network's
  input, and the name of a block (``enc3``) stands for its last row (``enc3.hh``);
* ``C,H,W`` of the input and ``K,P,Q`` of the output, in elements; ``R,S,stride,pad,dil,groups`` of the window;
* ``repeat``: runs one after the other; ``gemm_b,gemm_m,gemm_n,gemm_k``: the row as b products of (m x k) by (k x n);
* ``w_params,b_params,norm_params``: weights, biases, trained parameters of the normalisation;
* ``macs``: dense multiply-accumulates, all repeats included; ``act``: the activation behind the layer;
  ``relu_in``: 1 if the input comes out of a ReLU; ``notes`` (optional): any text.

Invariants checked on load:
macs == repeat*b*m*n*k for every row, the output size formula for convolutions, and w_params == size of the weights.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

from .errors import InputError
from .layers import CONV_OPS, DATA_OPS, WINDOW_OPS, Gemm, Layer
from .network import INPUT, Network
from .text_files import read_text

#: Columns that a table must have, in the order in which one is written.
COLUMNS = (
    "name", "op", "src", "C", "H", "W", "K", "R", "S", "stride", "pad", "dil", "groups", "P", "Q", "repeat",
    "gemm_b", "gemm_m", "gemm_n", "gemm_k", "w_params", "b_params", "norm_params", "macs", "act", "relu_in",
)  # fmt: skip
_JOINS = {"+": "+", "|": "|", "*": "*"}


def load_table(path: Path) -> Network:
    """A shape-only network from a layer table; every problem of the file is listed with its line."""
    rows = csv.DictReader(read_text(path).splitlines())
    missing = [c for c in COLUMNS if c not in (rows.fieldnames or ())]
    if missing:
        raise InputError(f"{path}: line 1: columns {', '.join(missing)} are missing")
    layers: list[Layer] = []
    problems: list[str] = []
    try:
        for row in rows:
            try:
                layers.append(_layer(row, [layer.name for layer in layers]))
            except InputError as error:
                problems += [f"{path}: line {rows.line_num}: {p}" for p in error.problems]
    except csv.Error as error:
        problems.append(f"{path}: line {rows.line_num + 1}: not CSV ({error})")
    if problems:
        raise InputError(problems)
    return Network(path.stem, tuple(layers), source=f"layer table {path.name}")


def _layer(row: dict[str, str], earlier: list[str]) -> Layer:
    if None in row or None in row.values():
        raise InputError("the row does not have one field per column of the first line")
    op = row["op"]
    numbers = {c: _integer(row, c) for c in COLUMNS if c not in ("name", "op", "src", "act")}
    window = op in WINDOW_OPS
    sources, join = _sources(row["src"] or "", earlier)
    layer = Layer(
        name=row["name"],
        op=op,
        C=numbers["C"] or 1,
        H=numbers["H"] or 1,
        W=numbers["W"] or 1,
        K=numbers["K"] or 1,
        P=numbers["P"] or (numbers["H"] or 1),
        Q=numbers["Q"] or (numbers["W"] or 1),
        R=(numbers["R"] or 1) if window else 1,
        S=(numbers["S"] or 1) if window else 1,
        stride=numbers["stride"] or 1,
        padding=numbers["pad"],
        dilation=numbers["dil"] or 1,
        groups=numbers["groups"] or 1,
        repeat=numbers["repeat"] or 1,
        gemm=_gemm(op, numbers),
        sources=sources,
        join=join,
        activation=row["act"] or "none",
        relu_in=bool(numbers["relu_in"]),
        weight_params=numbers["w_params"],
        bias_params=numbers["b_params"],
        norm_params=numbers["norm_params"],
        notes=row.get("notes") or "",
    )
    _check_totals(layer, numbers)
    return layer


def _gemm(op: str, numbers: dict[str, int]) -> Gemm | None:
    if op in DATA_OPS | CONV_OPS:
        return None
    return Gemm(*(numbers[f"gemm_{axis}"] for axis in "bmnk"))


def _check_totals(layer: Layer, numbers: dict[str, int]) -> None:
    problems = []
    if layer.macs != numbers["macs"]:
        problems.append(f"macs = {numbers['macs']}, but repeat*b*m*n*k = {layer.macs}")
    if layer.op in CONV_OPS and layer.gemm is not None:
        stated = tuple(numbers[f"gemm_{axis}"] for axis in "bmnk")
        derived = (layer.gemm.b, layer.gemm.m, layer.gemm.n, layer.gemm.k)
        if stated != derived:
            problems.append(f"GEMM view {stated} does not follow from the dimensions, which give {derived}")
    if layer.has_weights and layer.gemm is not None and numbers["w_params"]:
        size = layer.gemm.b * layer.gemm.n * layer.gemm.k
        if numbers["w_params"] != size:
            problems.append(f"w_params = {numbers['w_params']}, but the weights have {size} elements")
    if problems:
        raise InputError([f"layer '{layer.name}': {p}" for p in problems])


def _integer(row: dict[str, str], column: str) -> int:
    text = (row[column] or "").strip()
    if not text:
        return 0
    try:
        value = int(text)
    except ValueError:
        raise InputError(f"{column} = '{text}' is not a whole number") from None
    if not 0 <= value < 1 << 62:
        raise InputError(f"{column} = {value} is outside 0..2^62")
    return value


def _sources(text: str, earlier: list[str]) -> tuple[tuple[str, ...], str]:
    """Producers of a row. A name that is a block's (``enc3``) stands for the block's last row (``enc3.hh``)."""
    join = next((sign for sign in _JOINS if sign in text), "+")
    names = []
    for name in filter(None, re.split(r"[+|*]", text)):
        if name != INPUT and name not in earlier:
            in_block = [e for e in earlier if e.startswith(f"{name}.")]
            name = in_block[-1] if in_block else name  # noqa: PLW2901
        names.append(name)
    return tuple(names), join
