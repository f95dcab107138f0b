"""From an ONNX file to a network: read, screen, evaluate, fold, tabulate."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from ..errors import InputError
from ..graph import Graph, Node
from ..layers import DATA_OPS
from ..network import Network
from . import convolution, movement, patterns, products, recurrent
from .affine import fold_affine
from .draft import Draft
from .evaluation import evaluated
from .input_shapes import Pins, pinned_inputs
from .model_file import read_model
from .result import ImportedNetwork, UnsupportedOperator
from .screening import screened
from .table import Gap, LayerTable, UnknownShapeError

_HANDLERS = {
    **movement.HANDLERS,
    **patterns.HANDLERS,
    **convolution.HANDLERS,
    **products.HANDLERS,
    **recurrent.HANDLERS,
}


def import_model(path: Path, *, shapes: Pins) -> ImportedNetwork:
    """See :func:`nestling.workloads.onnx_import.load_onnx`; every message starts with the file's path."""
    try:
        file = read_model(path)
        model = screened(file)
        known = {*file.constants, *file.absent}
        draft = evaluated(model, file, pinned_inputs(model, initializers=known, shapes=shapes))
        if not draft.nodes:
            raise InputError("no operator depends on the model's inputs")
        fold_affine(draft)
        return _assembled(draft, path)
    except InputError as error:
        raise InputError([f"{path}: {problem}" for problem in error.problems]) from None


def _assembled(draft: Draft, path: Path) -> ImportedNetwork:
    table = LayerTable(draft)
    for node in draft.nodes:
        _tabulate(table, node)
    if not table.layers:
        raise InputError("none of its operators has a place in a layer table")
    complete = all(layer.name in table.weights for layer in table.layers.values() if layer.has_weights)
    network = Network(
        name=path.stem,
        layers=tuple(table.layers.values()),
        weights=table.weights if complete else {},
        source=f"ONNX file {path.name}, operator set {draft.opset}",
        graph=_graph(table),
    )
    notes, unsupported = tuple(_notes(draft, complete)), _unsupported(table, network)
    return ImportedNetwork(
        network=replace(network, notes=(*notes, *map(str, unsupported))),
        unsupported=unsupported,
        notes=notes,
        weight_bits=table.weight_bits,
    )


def _tabulate(table: LayerTable, node: Node) -> None:
    if node.name in table.absorbed:
        return
    handler = None if node.domain or node.name in table.draft.opaque else _HANDLERS.get(node.op)
    if node.name in table.draft.opaque:
        table.gap(node, macs=None, reason="control flow is not followed")
    elif handler is None:
        own = f"of the operator set '{node.domain}'" if node.domain else "of this operator"
        table.gap(node, macs=None if node.domain else 0, reason=f"the work {own} is not known")
    else:
        try:
            handler(table, node)
        except UnknownShapeError:
            table.gap(node, macs=None, reason="its shapes depend on values")
        except (IndexError, StopIteration):
            raise InputError(f"node '{node.name}' ({node.op}) lacks inputs") from None


def _graph(table: LayerTable) -> Graph | None:
    """The executable form; None where control flow was left out."""
    draft = table.draft
    if draft.opaque:
        return None
    nodes = tuple(table.graph_node(node) for node in draft.nodes)
    read = {name for node in nodes for name in node.inputs} | set(draft.outputs)
    return Graph(
        nodes=nodes,
        inputs=draft.inputs,
        outputs=draft.outputs,
        constants={name: value for name, value in draft.constants.items() if name in read},
        shapes=draft.shapes,
        opset=draft.opset,
        absent=frozenset(name for name in draft.absent if name in read),
    )


def _notes(draft: Draft, complete: bool) -> list[str]:
    notes = list(draft.notes)
    batches = {shape[0] for shape, _ in draft.inputs.values() if len(shape) >= 4 and shape[0] > 1}
    if batches:
        notes.append(f"the file fixes a batch of {max(batches)}: all counts are for the whole batch")
    if not complete:
        notes.append("the external data file is absent: shapes only, no weights")
    if draft.opaque:
        notes.append("the model has control flow: it cannot be executed here")
    return notes


def _unsupported(table: LayerTable, network: Network) -> tuple[UnsupportedOperator, ...]:
    """Gaps by operator, with their shares of all multiply-accumulates and of all bytes that operators without products
    move (one byte per element)."""
    grouped: dict[tuple[str, str], list[Gap]] = defaultdict(list)
    for gap in table.gaps:
        grouped[gap.operator, gap.reason].append(gap)
    macs = network.macs + sum(gap.macs or 0 for gap in table.gaps)
    moved = sum(x.input_size + x.output_size for x in network.layers if x.op in DATA_OPS and x.op != "view")
    total = moved + sum(gap.bytes or 0 for gap in table.gaps)
    found = []
    for (operator, reason), gaps in grouped.items():
        own_macs = None if any(gap.macs is None for gap in gaps) else sum(gap.macs or 0 for gap in gaps)
        own_bytes = None if any(gap.bytes is None for gap in gaps) else sum(gap.bytes or 0 for gap in gaps)
        found.append(
            UnsupportedOperator(
                operator=operator,
                count=len(gaps),
                macs=own_macs,
                macs_share=None if own_macs is None else own_macs / max(1, macs),
                bytes=own_bytes,
                bytes_share=None if own_bytes is None else own_bytes / max(1, total),
                reason=reason,
            )
        )
    return tuple(sorted(found, key=lambda entry: -(entry.macs if entry.macs is not None else math.inf)))
