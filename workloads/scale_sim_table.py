"""SCALE-Sim's topology tables (CSV): convolutions, matrix products, N:M sparsity; reading and writing.

Columns by position, as SCALE-Sim 3.0.0 reads them (its README, "Topology file"); a comma ends every line:

* convolutions: ``Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter, Strides,``
* products: ``Layer, M, N, K,`` with M output rows, N output columns, K reduction;
* a column ``Sparsity`` with N:M: the first N of every M reduction steps (row, column, channel) of all filters are kept.

The format has no padding and no groups, so a reader must be told: whether the input sizes need padding (``same``), need none
(``valid``) or include it already (``file``), and which rows are depthwise or grouped. Depthwise layers stand in circulating
tables as one filter over all channels, or as one filter over one channel that stands for all of them.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from .errors import InputError, unknown_name
from .layer_json import check_counts
from .layers import CONV_OPS, Layer, conv, linear
from .nesting import NestedWeights
from .network import INPUT, Network
from .text_files import read_text

Padding = Literal["same", "valid", "file"]
PADDINGS: tuple[Padding, ...] = ("same", "valid", "file")
_STAKES: tuple[Padding, ...] = ("valid", "same")
#: What ``groups`` may say instead of naming layers.
DEPTHWISE, STATED = "depthwise", "none"
CONV_HEADER = "Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter, Strides,"
GEMM_HEADER = "Layer, M, N, K,"
#: Larger tables are refused; a row takes some 50 bytes.
MAX_TABLE_BYTES = 1 << 26
#: Largest size in a row, and most weights whose N:M pattern is drawn (a byte each).
MAX_SIZE, MAX_PATTERN = 1 << 31, 1 << 31
#: Most rows that are written.
MAX_ROWS = 1_000_000
#: Longer cells are cut.
MAX_NAME = 200
_SIZES = ("IFMAP height", "IFMAP width", "filter height", "filter width", "channels", "filters", "stride")


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One row: its line in the file, sizes in the order of the columns, and N:M or None."""

    line: int
    name: str
    sizes: tuple[int, ...]
    pattern: tuple[int, int] | None = None

    @property
    def spatial(self) -> bool:
        """True for a convolution whose filters are larger than one pixel."""
        return len(self.sizes) == 7 and self.sizes[2] * self.sizes[3] > 1


def is_scale_sim_table(path: Path) -> bool:
    """True if the file's first line is the header of a SCALE-Sim topology."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            cells = [cell.strip().lower() for cell in file.readline(4096).split(",")]
    except OSError:
        return False
    return _kind(cells) is not None


def load_scale_sim_table(
    path: Path, *, padding: Padding | None = None, groups: str | Mapping[str, int] | None = None
) -> Network:
    """The layers of a topology, in the order of its rows; with an N:M column also their patterns (one level, no values).

    Parameters
    ----------
    padding : ``same``: (filter - 1) // 2 zeros on every side; ``valid``: none; ``file``: the sizes include the zeros of
        ``same``, which are taken off them and stated as padding, so that outputs stay as the table gives them. None: asked
        for, unless it makes no difference.
    groups : ``depthwise``: rows with one filter in front of a layer with many channels are depthwise; ``none``: all rows as
        they stand; or layer name -> groups. None: asked for where such rows exist.

    Raises
    ------
    InputError
        listing every bad row with its line; or asking for ``padding`` or ``groups`` with the MACs at stake.
    """
    rows = _rows(path)
    if padding is not None and padding not in PADDINGS:
        raise unknown_name("padding", padding, PADDINGS)
    try:
        rows, grouping, notes = _grouped(rows, groups)
        notes += _padding_notes(rows, grouping, padding)
        layers = _layers(rows, grouping, padding or "valid")
        check_counts(layers)
        weights = _patterns(rows, layers)
    except InputError as error:
        raise InputError([f"{path}: {problem}" for problem in error.problems]) from None
    return Network(path.stem, layers, weights, source=f"SCALE-Sim topology {path.name}", notes=tuple(notes))


def parse_groups(texts: Sequence[str]) -> str | dict[str, int] | None:
    """``depthwise``, ``none`` or NAME=GROUPS entries as a person writes them; None for nothing."""
    if len(texts) == 1 and texts[0] in (DEPTHWISE, STATED):
        return texts[0]
    found = {}
    for text in texts:
        name, _, count = text.rpartition("=")
        if not name or not count.isdecimal() or not 1 <= int(count[:10]) <= MAX_SIZE:
            raise InputError(f"--groups '{text}': must be {DEPTHWISE}, {STATED} or NAME=GROUPS, such as conv2=2")
        found[name] = int(count)
    return found or None


# --- reading ---------------------------------------------------------------------------------------------------------


def _kind(header: Sequence[str]) -> int | None:
    """Number of size columns that a header (lower case) announces: 7 or 3; None for another file."""
    if len(header) < 4 or not header[0].startswith("layer"):
        return None
    if "ifmap" in header[1]:
        return 7
    return 3 if list(header[1:4]) == ["m", "n", "k"] else None


def _rows(path: Path) -> list[_Row]:
    text = read_text(path, most_bytes=MAX_TABLE_BYTES)
    lines = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
    problems: list[str] = []
    rows: list[_Row] = []
    taken: set[str] = set()
    try:
        header = [cell.strip().lower() for cell in next(lines, [])]
        columns = _kind(header)
        if columns is None:
            raise InputError(f"{path}: line 1: not a SCALE-Sim header; it is '{CONV_HEADER}' or '{GEMM_HEADER}'")
        sparsity = header.index("sparsity") if "sparsity" in header else None
        for cells in lines:
            if not any(cell.strip() for cell in cells):
                continue
            try:
                rows.append(_row(cells, line=lines.line_num, columns=columns, sparsity=sparsity, taken=taken))
            except InputError as error:
                problems += [f"{path}: line {lines.line_num}: {problem}" for problem in error.problems]
    except csv.Error as error:
        problems.append(f"{path}: line {lines.line_num}: not CSV ({error})")
    if not rows and not problems:
        problems.append(f"{path}: the table has no rows")
    if problems:
        raise InputError(problems)
    return rows


def _row(cells: Sequence[str], *, line: int, columns: int, sparsity: int | None, taken: set[str]) -> _Row:
    found = [" ".join(cell.split())[:MAX_NAME] for cell in cells[: columns + 1]]
    name = found.pop(0)
    titles = _SIZES if columns == 7 else ("M", "N", "K")
    bad = [f"{title} = '{cell}'" for title, cell in zip(titles, found, strict=False) if not _is_size(cell)]
    if not name or len(found) < columns or bad:
        missing = f"{len(found)} of {columns} sizes" if len(found) < columns else ", ".join(bad) or "no name"
        raise InputError(f"layer '{name}': {missing}; sizes are whole numbers from 1 to 2^31")
    sizes = tuple(int(cell) for cell in found)
    if columns == 7 and (sizes[2] > sizes[0] or sizes[3] > sizes[1]):
        raise InputError(
            f"layer '{name}': the filter {sizes[2]} x {sizes[3]} exceeds the input {sizes[0]} x {sizes[1]}"
        )
    unique, count = name, 2
    while unique in taken or unique == INPUT:
        unique, count = f"{name}@{count}", count + 1
    taken.add(unique)
    text = " ".join(cells[sparsity].split())[:MAX_NAME] if sparsity is not None and sparsity < len(cells) else ""
    return _Row(line=line, name=unique, sizes=sizes, pattern=_pattern(name, text))


def _is_size(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 10 and 1 <= int(text) <= MAX_SIZE


def _pattern(name: str, text: str) -> tuple[int, int] | None:
    if not text:
        return None
    match = re.fullmatch(r"(\d{1,6}):(\d{1,6})", text, re.ASCII)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise InputError(f"layer '{name}': sparsity '{text}' is not N:M with 1 <= N <= M, such as 2:4")
    return int(match[1]), int(match[2])


# --- meaning ---------------------------------------------------------------------------------------------------------


def _grouped(rows: list[_Row], groups: str | Mapping[str, int] | None) -> tuple[list[_Row], dict[str, int], list[str]]:
    """Rows with the channels they mean, groups by layer name, notes."""
    suspects = {
        row.name: after.sizes[4]
        for row, after in pairwise(rows)
        if row.spatial and row.sizes[5] == 1 < after.sizes[4] and row.sizes[4] in (1, after.sizes[4])
    }
    if suspects and groups is None:
        shown = ", ".join(list(suspects)[:3]) + (", ..." if len(suspects) > 3 else "")
        raise InputError(
            f"{len(suspects)} rows ({shown}) have one filter, but the next row reads many channels: depthwise layers? "
            f"--groups {DEPTHWISE} reads them so, --groups {STATED} as they stand"
        )
    if groups in (None, STATED) or (groups == DEPTHWISE and not suspects):
        return rows, {}, []
    if isinstance(groups, str):
        if groups != DEPTHWISE:
            raise unknown_name("grouping", groups, [DEPTHWISE, STATED])
        widened = [
            replace(row, sizes=(*row.sizes[:4], suspects[row.name], suspects[row.name], row.sizes[6]))
            if row.name in suspects
            else row
            for row in rows
        ]
        return widened, suspects, [f"{len(suspects)} rows with one filter are read as depthwise layers"]
    names = [row.name for row in rows]
    unknown = sorted(set(groups or {}) - set(names))
    if unknown:
        raise unknown_name("layer with groups", unknown[0], names)
    return rows, dict(groups or {}), []


def _layers(rows: Sequence[_Row], groups: Mapping[str, int], padding: Padding) -> tuple[Layer, ...]:
    layers: list[Layer] = []
    for row in rows:
        made = _product(row) if len(row.sizes) == 3 else _convolution(row, groups.get(row.name, 1), padding)
        before = layers[-1] if layers else None
        # Rows are a list, not a graph: one reads the other where the shapes allow it.
        linked = before is not None and (before.K, before.P, before.Q) == (made.C, made.H, made.W)
        sources = (INPUT,) if before is None else (before.name,) if linked else ()
        layers.append(replace(made, sources=sources, bias_params=0))
    return tuple(layers)


def _product(row: _Row) -> Layer:
    m, n, k = row.sizes
    return linear(row.name, INPUT, features_in=k, features_out=n, rows=m)


def _convolution(row: _Row, groups: int, padding: Padding) -> Layer:
    H, W, R, S, C, K, stride = row.sizes
    down, across = (R - 1) // 2, (S - 1) // 2
    zeros, notes = 0, ""
    if padding != "valid" and down == across:
        zeros = down
        if padding == "file":
            zeros = min(zeros, (H - 1) // 2, (W - 1) // 2)
            H, W = H - 2 * zeros, W - 2 * zeros
    elif padding == "same":  # one padding for both sides is all that a layer states
        H, W, notes = H + 2 * down, W + 2 * across, f"input sizes include {down} rows and {across} columns of padding"
    layer = conv(row.name, INPUT, C=C, H=H, W=W, K=K, R=R, S=S, stride=stride, padding=zeros, groups=groups)
    return replace(layer, notes=notes)


def _padding_notes(rows: Sequence[_Row], groups: Mapping[str, int], padding: Padding | None) -> list[str]:
    """What missing padding costs; InputError asking for ``padding`` where it was not given and makes a difference."""
    if padding in ("same", "file"):
        return []
    valid, same = (sum(layer.macs for layer in _layers(rows, groups, choice)) for choice in _STAKES)
    if valid == same:
        return []
    if padding is None:
        raise InputError(
            f"the table states no padding. --padding same: {same:,} MACs; --padding valid (there is none) or file "
            f"(the sizes include it): {valid:,} MACs, {(valid - same) / same:+.1%}"
        )
    return [f"no padding: {valid:,} MACs, {(valid - same) / same:+.1%} of what padded filters would compute"]


def _patterns(rows: Sequence[_Row], layers: Sequence[Layer]) -> dict[str, NestedWeights]:
    """One level of N:M patterns, dense rows dense; empty where no row has one."""
    if not any(row.pattern for row in rows):
        return {}
    size = sum(int(np.prod(layer.weight_shape, dtype=object)) for layer in layers)
    if size > MAX_PATTERN:
        raise InputError(f"{size:,} weights; N:M patterns of more than {MAX_PATTERN:,} are not held in memory")
    found = {}
    for row, layer in zip(rows, layers, strict=True):
        kept, of = row.pattern or (1, 1)
        if layer.op in CONV_OPS:
            K, C, R, S = layer.weight_shape
            steps = np.arange(R * S * C).reshape(R, S, C).transpose(2, 0, 1)
            keep = np.broadcast_to(steps % of < kept, (K, C, R, S))
        else:
            keep = np.broadcast_to(np.arange(layer.weight_shape[1]) % of < kept, layer.weight_shape)
        found[row.name] = NestedWeights(None, keep.astype(np.uint8), 1, row.name)
    return found


# --- writing ---------------------------------------------------------------------------------------------------------


def scale_sim_topology(layers: Sequence[Layer]) -> tuple[str, tuple[str, ...]]:
    """A topology with the MACs of every product layer, and notes on what the format cannot say.

    Sizes include the padding, so that SCALE-Sim computes the same outputs; what its rounding up would read beyond the last
    position is cut off. Each group becomes a row of its own, and so does each run and each of b batched products. With any
    dilated or batched product, or a linear layer over several rows, the table is one of products (M, N, K): a file holds one
    kind of rows.
    """
    products = [layer for layer in layers if layer.gemm is not None]
    if not products:
        raise InputError("the network has no products: a topology would be empty")
    as_convolutions = all(_is_plain_convolution(layer) or _is_vector(layer) for layer in products)
    rows = [CONV_HEADER if as_convolutions else GEMM_HEADER]
    split = 0
    if (total := sum(_copies(layer) for layer in products)) > MAX_ROWS:
        raise InputError(
            f"the topology would have {total:,} rows, one per group, batch and time step; at most {MAX_ROWS:,}"
        )
    for layer in products:
        copies = _copies(layer)
        split += copies > 1
        sizes = _conv_sizes(layer) if as_convolutions else _gemm_sizes(layer)
        name = re.sub(r"[,\s\"]", "_", layer.name)
        suffixes = [""] if copies == 1 else [f".{index}" for index in range(copies)]
        rows += [f"{name}{suffix},{','.join(map(str, sizes))}," for suffix in suffixes]
    notes = [f"{split} layers became one row per group, batch or time step"] if split else []
    if not as_convolutions:
        notes.append("some layers are no plain convolutions: all rows are matrix products (M, N, K)")
    return "\n".join(rows) + "\n", tuple(notes)


def _copies(layer: Layer) -> int:
    return layer.repeat * (1 if layer.gemm is None else layer.gemm.b)


def _is_plain_convolution(layer: Layer) -> bool:
    return layer.op in CONV_OPS and layer.dilation == 1


def _is_vector(layer: Layer) -> bool:
    return layer.op not in CONV_OPS and layer.gemm is not None and layer.gemm.m == 1


def _gemm_sizes(layer: Layer) -> tuple[int, ...]:
    assert layer.gemm is not None
    return layer.gemm.m, layer.gemm.n, layer.gemm.k


def _conv_sizes(layer: Layer) -> tuple[int, ...]:
    assert layer.gemm is not None
    if layer.op not in CONV_OPS:
        return 1, 1, 1, 1, layer.gemm.k, layer.gemm.n, 1
    H, W = ((out - 1) * layer.stride + size for out, size in ((layer.P, layer.R), (layer.Q, layer.S)))
    return H, W, layer.R, layer.S, layer.C // layer.groups, layer.K // layer.groups, layer.stride
