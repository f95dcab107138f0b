"""Sparsity levels of a PyTorch model: ordinary dense tensors in, how many levels keep each weight out."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch.nn.utils import parametrize, prune

State = Mapping[str, torch.Tensor]


class ExportError(ValueError):
    """The model or its levels cannot be exported; the message is one line."""


def plain_copy(model: torch.nn.Module) -> torch.nn.Module:
    """A copy in evaluation mode whose parameters are dense tensors: masks applied, parametrizations made permanent."""
    memo: dict[int, torch.Tensor] = {}  # what deepcopy refuses: computed masked weights, packed parameters
    for module in model.modules():
        for key in _pruned_names(module):
            computed = module.__dict__.get(key)
            if isinstance(computed, torch.Tensor):
                memo[id(computed)] = computed.detach().clone()
        for value in module._parameters.values():
            if value is not None and _is_packed(value.data):
                memo[id(value)] = torch.nn.Parameter(value.data.to_dense(), requires_grad=False)
    plain = copy.deepcopy(model, memo).eval()
    for module in plain.modules():
        for key in _pruned_names(module):
            prune.remove(module, key)
        if parametrize.is_parametrized(module):
            own_class(module)
            for key in list(module.parametrizations):
                parametrize.remove_parametrizations(module, key, leave_parametrized=True)
    return plain


def own_class(module: torch.nn.Module) -> None:
    """Give a copied parametrized module a class of its own.

    PyTorch keeps parametrized tensors as properties of a class that copies share: removing one from the copy would break
    the original.
    """
    shared = type(module)
    module.__class__ = type(shared.__name__, shared.__bases__, dict(shared.__dict__))


def _pruned_names(module: torch.nn.Module) -> list[str]:
    """Tensors of a module that torch.nn.utils.prune masks."""
    names = [key.removesuffix("_mask") for key in module._buffers if key.endswith("_mask")]
    return [name for name in names if f"{name}_orig" in module._parameters]


def _is_packed(tensor: torch.Tensor) -> bool:
    """True for sparse layouts and for tensor classes that keep values and positions apart (2:4)."""
    return tensor.layout != torch.strided or "Sparse" in type(tensor).__name__


def effective_state(state: State) -> dict[str, torch.Tensor]:
    """A state dict with ``X_orig`` and ``X_mask`` of torch.nn.utils.prune multiplied, and sparse tensors unpacked."""
    dense = {key: value.to_dense() if _is_packed(value) else value for key, value in state.items()}
    for key in [k for k in dense if k.endswith("_orig") and f"{k.removesuffix('_orig')}_mask" in dense]:
        base = key.removesuffix("_orig")
        dense[base] = dense.pop(key) * dense.pop(f"{base}_mask")
    return dense


def check_states(states: Sequence[State]) -> None:
    """Raise ExportError unless each level's weights (two dimensions or more) are its denser neighbour's or zero."""
    for level, state in enumerate(states[1:], start=1):
        if different := sorted(set(states[0]) ^ set(state)):
            raise ExportError(f"levels 0 and {level} do not have the same tensors; the first is '{different[0]}'")
    for key, tensor in states[0].items():
        if tensor.dim() > 1 and tensor.is_floating_point():
            keep_counts(key, [state[key] for state in states])


def keep_counts(name: str, levels: Sequence[torch.Tensor]) -> torch.Tensor:
    """Number of levels that keep each weight, uint8; ExportError names the first index where nesting breaks."""
    keep = (levels[0] != 0).to(torch.uint8)
    for level, (denser, values) in enumerate(pairwise(levels), start=1):
        if values.shape != denser.shape:
            raise ExportError(f"'{name}' is {tuple(values.shape)} at level {level}, {tuple(denser.shape)} at level 0")
        if values is not denser and (bad := (values != 0) & (values != denser)).any():
            index = tuple(bad.nonzero()[0].tolist())
            raise ExportError(
                f"levels are not nested: '{name}' {index} is {float(values[index]) + 0.0} at level {level}, "
                f"but {float(denser[index]) + 0.0} at level {level - 1}"
            )
        keep += values != 0
    return keep
