"""A PyTorch model in this process as a network: the exporter's walk without its files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from .errors import InputError
from .exported import Exported, build_exported
from .network import Network

if TYPE_CHECKING:
    import torch

    from .torch_export.levels import State


def from_torch(
    model: torch.nn.Module,
    example: torch.Tensor | Sequence[Any],
    *,
    name: str = "model",
    levels: Sequence[State] | None = None,
) -> Network:
    """The network of a PyTorch model: layers, real zeros, and one level per state dict of ``levels`` (densest first).

    ``example``: the model's input, batch 1, or the sequence of its positional arguments. What the model's operators
    become, and what is not modelled, stands in :func:`capture_torch`'s ``unmodelled``.

    Raises
    ------
    InputError
        if torch is missing, cannot trace the model, or the levels are not nested.
    """
    return capture_torch(model, example, name=name, levels=levels).network


def capture_torch(
    model: torch.nn.Module,
    example: torch.Tensor | Sequence[Any],
    *,
    name: str = "model",
    levels: Sequence[State] | None = None,
    calibration: torch.Tensor | Iterable[Sequence[Any]] | None = None,
    labels: torch.Tensor | None = None,
) -> Exported:
    """As :func:`from_torch`, with activation statistics of ``calibration`` and the operators that are not modelled."""
    if find_spec("torch") is None:
        raise InputError("from_torch needs PyTorch: pip install 'nestling[train]'")
    import torch

    from .torch_export import capture
    from .torch_export.levels import ExportError

    inputs = (example,) if isinstance(example, torch.Tensor) else tuple(example)
    try:
        captured = capture(model, inputs, name=name, levels=levels, calibration=calibration, labels=labels)
    except ExportError as error:
        raise InputError(str(error)) from error
    return build_exported(captured.document, {key: value.numpy() for key, value in captured.tensors.items()})
