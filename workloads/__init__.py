"""What is computed: layers, networks, weights and their nesting, and where they come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .torch_import import from_torch

__all__ = ["from_torch"]


def __getattr__(name: str) -> Any:
    """``from_torch`` needs PyTorch, which is imported only when it is asked for."""
    if name == "from_torch":
        from .torch_import import from_torch

        return from_torch
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
