"""Importing a case: the network, after its graph has given onnxruntime's outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from nestling.workloads.layers import Layer
from nestling.workloads.onnx_import import ImportedNetwork, load_onnx

from .onnx_cases import Array, saved
from .onnx_oracle import run_file, run_network


def imported(folder: Path, case: onnx.ModelProto, *, feeds: dict[str, Array] | None = None) -> ImportedNetwork:
    """The import, after its graph has given onnxruntime's outputs."""
    path = saved(folder, case)
    found = load_onnx(path)
    graph = found.network.graph
    assert graph is not None
    rng = np.random.default_rng(9)
    given = feeds or {name: rng.standard_normal(shape).astype(dtype) for name, (shape, dtype) in graph.inputs.items()}
    for ours, theirs in zip(run_network(found.network, given), run_file(path, given), strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours.astype(float), theirs.astype(float), rtol=2e-5, atol=2e-5)
    return found


def rows(found: ImportedNetwork) -> dict[str, Layer]:
    return {layer.name: layer for layer in found.network.layers}
