"""Zeros of every layer's input, counted while real inputs run through an exported PyTorch program."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.fx import Node
from torch.utils import _pytree as pytree

from .walk import Walk

#: Inputs whose outputs are stored at every level, so that whoever executes the network can check it.
CHECKED_INPUTS = 16


class _Runner(torch.fx.Interpreter):  # type: ignore[misc]
    """Runs the program at one level; counts zeros in what the watched nodes read."""

    def __init__(self, walk: Walk, level: int, counts: dict[str, dict[str, Any]] | None = None) -> None:
        super().__init__(walk.program.graph_module)
        self._walk, self._level, self._counts = walk, level, counts

    def run_one(self, inputs: Sequence[Any]) -> torch.Tensor:
        """The first output for one input, flattened to (elements,)."""
        given = iter(pytree.tree_leaves(tuple(inputs)))
        placed = [n for n in self._walk.program.graph.nodes if n.op == "placeholder"]
        constants = self._walk.constants
        args = [constants[n][self._level] if n in constants else next(given) for n in placed]
        outputs = [value for value in pytree.tree_leaves(self.run(*args)) if isinstance(value, torch.Tensor)]
        return outputs[-len(self._walk.program.graph_signature.user_outputs)].reshape(-1).float()

    def run_node(self, n: Node) -> Any:
        if self._counts is not None and n in self._walk.watched:
            layer, source = self._walk.watched[n]
            _count(self._counts.setdefault(layer["name"], {}), layer, self.env[source])
        return super().run_node(n)


def _count(counts: dict[str, Any], layer: dict[str, Any], values: torch.Tensor) -> None:
    hit = values != 0
    counts["images"] = counts.get("images", 0) + 1
    counts["nonzeros"] = counts.get("nonzeros", 0) + int(hit.sum())
    counts["elements"] = counts.get("elements", 0) + hit.numel()
    taps = _tap_counts(layer, hit)
    if taps is not None:
        counts["taps"] = counts["taps"] + taps if "taps" in counts else taps


def _tap_counts(layer: dict[str, Any], hit: torch.Tensor) -> torch.Tensor | None:
    """Non-zeros that each reduction index (c, r, s) meets over all output positions; None where no single tensor says."""
    if layer["op"] not in {"conv", "dwconv"}:
        b, m, _, k = layer["gemm"]
        fits = b == 1 and layer.get("repeat", 1) == 1 and hit.shape[-1] == k and hit.numel() == m * k
        return hit.reshape(-1, k).sum(0) if fits else None
    C, R, S, stride, dilation = (layer[key] for key in ("C", "R", "S", "stride", "dilation"))
    if hit.numel() != C * layer["H"] * layer["W"]:
        return None
    pad = layer["padding"]
    image = torch.nn.functional.pad(hit.reshape(C, layer["H"], layer["W"]), (pad, pad, pad, pad))
    taps = torch.empty(C, R, S, dtype=torch.int64)
    for r in range(R):
        for s in range(S):
            rows = image[:, r * dilation : r * dilation + stride * (layer["P"] - 1) + 1 : stride]
            seen = rows[:, :, s * dilation : s * dilation + stride * (layer["Q"] - 1) + 1 : stride]
            taps[:, r, s] = seen.sum((1, 2))
    return taps.reshape(-1)


def _each(calibration: torch.Tensor | Iterable[Sequence[Any]]) -> Iterator[Sequence[Any]]:
    if isinstance(calibration, torch.Tensor):
        yield from ((calibration[i : i + 1],) for i in range(len(calibration)))
    else:
        yield from calibration


def observe(
    walk: Walk, calibration: torch.Tensor | Iterable[Sequence[Any]], labels: torch.Tensor | None
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Run the inputs at the densest level.

    Returns
    -------
    Per layer the number of inputs and the fraction of its input that is not zero; and tensors: ``NAME.taps`` int64, and
    with labels ``images`` float32 (N, C, H, W), ``labels`` int64 (N,), ``outputs`` float32 (levels, images, elements) of
    the first images.
    """
    inputs = [tuple(one) for one in _each(calibration)]
    counts: dict[str, dict[str, Any]] = {}
    dense = _Runner(walk, 0, counts)
    for one in inputs:
        dense.run_one(one)
    tensors = {f"{name}.taps": found["taps"] for name, found in counts.items() if "taps" in found}
    if labels is not None:
        shown = inputs[:CHECKED_INPUTS]
        tensors["images"] = torch.cat([one[0].float() for one in inputs])
        tensors["labels"] = labels.reshape(-1).long()
        outputs = [[_Runner(walk, level).run_one(one) for one in shown] for level in range(len(walk.states))]
        tensors["outputs"] = torch.stack([torch.stack(level) for level in outputs])
    facts = {n: {"images": c["images"], "density": c["nonzeros"] / max(1, c["elements"])} for n, c in counts.items()}
    return facts, tensors
