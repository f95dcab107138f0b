"""Networks over graphs and point clouds: GAT (edge aggregation) and PointNet++ (sampling, grouping, shared layers)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..layers import Gemm, Layer
from ..network import INPUT
from .graph_builder import GraphBuilder, Tensor
from .model import Model, Parameter, class_count

#: Features per head of GAT's first layer (Velickovic et al., section 3.3, transductive).
_GAT_FEATURES = 8
#: Coordinates of a point.
_XYZ = 3


def gat(*, nodes: int, edges: int, features: int, heads: int, classes: int) -> tuple[Layer, ...]:
    """A graph attention network of two layers.

    ``edges``: directed, without the self loops, of which every node gets one. The first layer joins its heads, the
    second has one head per class vector.
    """
    graph = GraphBuilder()
    links = edges + nodes
    x = Tensor(INPUT, features)
    x = _attention_layer(graph, "gat0", x, nodes=nodes, links=links, heads=heads, width=_GAT_FEATURES, activation="elu")
    _attention_layer(graph, "gat1", x, nodes=nodes, links=links, heads=1, width=classes, activation="none")
    return graph.layers


def _attention_layer(
    graph: GraphBuilder, name: str, x: Tensor, *, nodes: int, links: int, heads: int, width: int, activation: str
) -> Tensor:
    """Project every node, score every edge, and sum the neighbours' features with those weights, per head."""
    total = heads * width
    projected = graph.linear(f"{name}.W", x, total, rows=nodes, bias=False)
    scores = graph.append(
        Layer(
            name=f"{name}.att", op="linear", C=width, K=2, gemm=Gemm(heads, nodes, 2, width),
            sources=projected.sources, weight_params=2 * total, notes="two numbers per head: as source, as destination",
        )
    )  # fmt: skip
    softmax = graph.append(
        Layer(
            name=f"{name}.softmax", op="edge_softmax", C=heads, W=links, K=heads, Q=links, sources=scores.sources,
            notes="leaky ReLU (0.2), then softmax over the edges into a node",
        )
    )  # fmt: skip
    graph.append(
        Layer(
            name=f"{name}.agg", op="spmm", C=total, W=links, K=total, Q=links, gemm=Gemm(heads, links, width, 1),
            sources=(*softmax.sources, *projected.sources), join="*", activation=activation, bias_params=total,
            notes="one multiply-accumulate per edge and feature",
        )
    )  # fmt: skip
    # The reference tables let the next layer read the projection, not the aggregation.
    return projected


@dataclass(frozen=True, slots=True)
class _SetAbstraction:
    """Keep ``centres`` points; around each, ``neighbours`` points pass through shared layers of these ``filters``."""

    name: str
    centres: int
    neighbours: int
    filters: tuple[int, ...]


#: Qi et al., appendix B, single-scale grouping for classification.
_ABSTRACTIONS = (
    _SetAbstraction("sa1", 512, 32, (64, 64, 128)),
    _SetAbstraction("sa2", 128, 64, (128, 128, 256)),
)
_GLOBAL_FILTERS = (256, 512, 1024)
_CLASSIFIER = (512, 256)


def pointnet2_ssg_cls(*, points: int, normals: int, classes: int) -> tuple[Layer, ...]:
    """PointNet++ with single-scale grouping.

    ``points`` sets the work of sampling and grouping only: the number of groups, hence the products, is fixed.
    ``normals``: 1 if points carry a normal vector beside their coordinates.
    """
    graph = GraphBuilder()
    candidates, width = points, _XYZ * (1 + normals)
    for level in _ABSTRACTIONS:
        x = _grouped(graph, level, candidates=candidates, width=width)
        x = graph.max_over_height(f"{level.name}.max", _shared_layers(graph, level.name, x, level.filters))
        candidates, width = level.centres, level.filters[-1] + _XYZ
    everything = Tensor(x.name, width, candidates, 1, rectified=x.rectified)
    x = graph.max_over_height("sa3.max", _shared_layers(graph, "sa3", everything, _GLOBAL_FILTERS))
    for number, features in enumerate(_CLASSIFIER, start=1):
        x = graph.linear(f"fc{number}", x, features, norm=True, activation="relu")
    graph.linear(f"fc{len(_CLASSIFIER) + 1}", x, classes)
    return graph.layers


def _grouped(graph: GraphBuilder, level: _SetAbstraction, *, candidates: int, width: int) -> Tensor:
    """Sample the centres and gather their neighbours: an image of neighbours x centres."""
    sampled = graph.append(
        Layer(
            name=f"{level.name}.fps", op="fps", C=_XYZ, W=candidates, K=level.centres, Q=candidates,
            notes="farthest-point sampling: one distance per centre and candidate",
        )
    )  # fmt: skip
    gathered = graph.append(
        Layer(
            name=f"{level.name}.ball", op="ballquery", C=_XYZ, H=level.centres, W=candidates, K=level.neighbours,
            P=level.centres, Q=candidates, sources=sampled.sources,
            notes="one distance per centre and candidate, then the neighbours are gathered",
        )
    )  # fmt: skip
    return Tensor(gathered.name, width, level.neighbours, level.centres)


def _shared_layers(graph: GraphBuilder, name: str, x: Tensor, filters: Sequence[int]) -> Tensor:
    """The same small network at every point: 1x1 convolutions."""
    for number, count in enumerate(filters):
        x = graph.conv(f"{name}.mlp{number}", x, K=count, R=1, bias=True)
    return x


def _count(default: int, meaning: str, *, lowest: int = 1, highest: int = 10_000_000) -> Parameter:
    return Parameter(default=default, lowest=lowest, highest=highest, meaning=meaning)


MODELS = {
    "gat_cora": Model(
        gat,
        "Velickovic et al., ICLR 2018, on Cora; parameters as in torch_geometric",
        {
            "nodes": _count(2708, "nodes of the graph"),
            "edges": _count(10556, "directed edges without self loops", lowest=0, highest=1_000_000_000),
            "features": _count(1433, "features of a node", highest=1_000_000),
            "heads": _count(8, "attention heads of the first layer", highest=1024),
            "classes": class_count(7),
        },
    ),
    "pointnet2_ssg_cls": Model(
        pointnet2_ssg_cls,
        "Qi et al., NIPS 2017, single-scale grouping, ModelNet40",
        {
            "points": _count(1024, "points of a cloud", lowest=_ABSTRACTIONS[0].centres),
            "normals": _count(0, "1 if points carry normals", lowest=0, highest=1),
            "classes": class_count(40),
        },
    ),
}
