"""Layer tables that the package writes: what comes back is what went in."""

from __future__ import annotations

from pathlib import Path

import pytest
from nestling.workloads.bundled import fashion_layers
from nestling.workloads.errors import InputError
from nestling.workloads.layers import Layer
from nestling.workloads.network import Network
from nestling.workloads.table_writer import layer_table
from nestling.workloads.tables import load_table
from nestling.workloads.zoo import MODELS, build


@pytest.mark.parametrize("network", [*MODELS, "fashion"])
def test_a_written_table_gives_the_same_layers_back(network: str, tmp_path: Path) -> None:
    layers = fashion_layers() if network == "fashion" else build(network).layers
    path = tmp_path / "net.csv"
    path.write_text(layer_table(Network("net", layers)))
    again = load_table(path)
    assert again.macs == Network("net", layers).macs
    for found, layer in zip(again.layers, layers, strict=True):
        for field in ("name", "op", "C", "H", "W", "K", "P", "Q", "stride", "padding", "dilation", "groups", "repeat"):
            assert getattr(found, field) == getattr(layer, field)
        assert (found.gemm, found.sources, found.activation) == (layer.gemm, layer.sources, layer.activation)
        assert (found.params, found.relu_in, found.notes) == (layer.params, layer.relu_in, layer.notes)


def test_names_that_the_format_cannot_hold() -> None:
    layer = Layer(name="a+b", op="add", sources=("input",))
    with pytest.raises(InputError, match=r"layer 'a\+b': a layer table joins sources"):
        layer_table(Network("net", (layer,)))
