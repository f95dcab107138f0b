"""ONNX files as networks. Needs the extra ``onnx``, which is imported only when a file is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from ..errors import InputError
from .result import ImportedNetwork, UnsupportedOperator

__all__ = ["ImportedNetwork", "UnsupportedOperator", "load_onnx"]


def load_onnx(path: Path, *, shapes: Mapping[str, Sequence[int] | int] | None = None) -> ImportedNetwork:
    """The network of an ONNX file (operator sets 9 to 23), with external data where that is present.

    ``shapes`` pins what the file leaves open: an input's name -> its whole shape, or a symbolic dimension's name -> size.

    Raises
    ------
    InputError
        if onnx is not installed, the file is not a valid model or reaches outside its folder, a shape is missing (all
        missing ones are listed), or nothing in the model can be represented.
    """
    if find_spec("onnx") is None:
        raise InputError(f"{path}: reading ONNX needs the package onnx: pip install 'nestling[onnx]'")
    from .importer import import_model

    return import_model(path, shapes=shapes or {})
