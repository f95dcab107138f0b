"""Write a PyTorch model for nestling: PATH.safetensors (weights, levels) and PATH.json (layers, statistics).

It needs torch (2.6 or newer) and safetensors only. ``nestling exporter > nestling_export.py`` prints it as one file to copy
beside your own code::

    from nestling_export import export

    export(model, (example,), "my_model")                               # real zeros become level 0
    export(model, (example,), "my_model", levels=[dense, half, sparse])  # state dicts, densest first
    export(model, (example,), "my_model", calibration=images, labels=labels)

then ``nestling run my_model.json``. ``example`` holds one input (batch 1): nestling counts at batch 1.

A weight that is exactly zero is a pruned one: masks of torch.nn.utils.prune are applied, parametrizations made permanent,
semi-structured (2:4) and other sparse tensors unpacked. Batch normalisation behind a convolution or linear layer is folded
into it. Operators without products become data movement; those that the exporter does not know are listed with their share
of the bytes (``unmodelled``): products inside them are not counted. ``nestling.workloads.exported`` describes the files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .levels import ExportError, State, check_states, effective_state, plain_copy
from .operators import HANDLERS
from .statistics import observe
from .walk import Walk, trace

FORMAT, SCHEMA = "nestling-export", 1


class Captured(NamedTuple):
    """What PATH.json and PATH.safetensors hold."""

    document: dict[str, Any]
    tensors: dict[str, torch.Tensor]


def export(
    model: torch.nn.Module,
    example_inputs: Sequence[Any],
    path: str | Path,
    *,
    levels: Sequence[State] | None = None,
    calibration: torch.Tensor | Iterable[Sequence[Any]] | None = None,
    labels: torch.Tensor | None = None,
) -> dict[str, Any]:
    """Write PATH.safetensors and PATH.json; returns what the JSON holds.

    Parameters
    ----------
    example_inputs : positional arguments of one call, batch 1.
    levels : one state dict per sparsity level, densest first; by default the model's own weights are the one level.
    calibration : real inputs, (N, ...) where the model takes one tensor, else an iterable of argument tuples; the zeros of
        every layer's input are counted at the densest level.
    labels : integers (N,), the class of each calibration input; the inputs are then stored, so that accuracy is measured.

    Raises
    ------
    ExportError
        if torch.export cannot trace the model, the batch is not 1, or the levels are not nested (the message names the
        first tensor and index).
    """
    from safetensors.torch import save_file

    target = Path(path).with_suffix("") if Path(path).suffix in (".json", ".safetensors") else Path(path)
    captured = capture(model, example_inputs, name=target.name, levels=levels, calibration=calibration, labels=labels)
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(captured.tensors, f"{target}.safetensors")
    Path(f"{target}.safetensors").chmod(0o644)  # safetensors writes for its owner only
    Path(f"{target}.json").write_text(json.dumps(captured.document, indent=1) + "\n", encoding="utf-8")
    return captured.document


def capture(
    model: torch.nn.Module,
    example_inputs: Sequence[Any],
    *,
    name: str = "model",
    levels: Sequence[State] | None = None,
    calibration: torch.Tensor | Iterable[Sequence[Any]] | None = None,
    labels: torch.Tensor | None = None,
) -> Captured:
    """As :func:`export`, without writing files."""
    with torch.no_grad():
        if any(parameter.is_meta for parameter in model.parameters()):
            raise ExportError("the model's parameters have no values (meta device); load its weights first")
        plain = plain_copy(model)
        states = [effective_state(state) for state in levels or [plain.state_dict()]]
        check_states(states)
        walk = Walk(trace(plain, tuple(example_inputs)), states, HANDLERS)
        walk.run()
        tensors = walk.stored_tensors()
        document: dict[str, Any] = {
            "format": FORMAT,
            "schema": SCHEMA,
            "name": name,
            "torch": str(torch.__version__),
            "levels": len(states),
            "layers": walk.layers,
            "unmodelled": walk.unmodelled_operators(),
            "activations": {},
        }
        if calibration is not None:
            document["activations"], captured = observe(walk, calibration, labels)
            tensors.update(captured)
    return Captured(document, {key: tensor.contiguous().cpu() for key, tensor in tensors.items()})
