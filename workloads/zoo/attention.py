"""Transformers: BERT-base, the base model of "Attention Is All You Need", ViT-B/16.

Products with stored weights are ``linear`` layers; scores and mixing are ``matmul`` layers of two activations, one product
per head. The sources follow the reference tables: projections stand in a chain, in the order in which they run, not as the
branches of the mathematics; layer normalisations have no sources.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..layers import Gemm, Layer
from ..network import INPUT
from .graph_builder import GraphBuilder, Tensor, input_image
from .model import Model, class_count, image_size, token_count, vocabulary_size

#: BERT-base and ViT-B: layers, width, inner width of the feed-forward part.
_DEPTH, _WIDTH, _INNER = 12, 768, 3072
#: Longest sequence for which BERT has learned positions, and its kinds of segment.
_BERT_POSITIONS, _BERT_SEGMENTS = 512, 2
#: Vaswani et al., table 3, row "base": layers on either side, width, inner width.
_BASE_DEPTH, _BASE_WIDTH, _BASE_INNER = 6, 512, 2048
#: Features per head; all three networks have as many heads as this divides their width.
_HEAD_WIDTH = 64
#: Pixels on a side of ViT-B/16's patches.
_PATCH = 16


def bert_base(*, tokens: int, vocabulary: int) -> tuple[Layer, ...]:
    """BERT-base with its pooler. ``tokens``: length of the sequence; the scores' work grows with its square."""
    graph = GraphBuilder()
    graph.embedding("emb.word", vocabulary, _WIDTH)
    graph.embedding("emb.pos", _BERT_POSITIONS, _WIDTH)
    graph.embedding("emb.type", _BERT_SEGMENTS, _WIDTH)
    graph.layer_norm("emb.ln", _WIDTH)
    x = Tensor(INPUT, _WIDTH)
    for number in range(_DEPTH):
        name = f"layer{number}"
        q, k, v = _projections(graph, name, x, queries=tokens, keys=tokens)
        scores = _scores(graph, name, (q, k), heads=_WIDTH // _HEAD_WIDTH, queries=tokens, keys=tokens)
        _mixing(graph, name, (scores, v), heads=_WIDTH // _HEAD_WIDTH, queries=tokens, keys=tokens)
        x = graph.linear(f"{name}.o", v, _WIDTH, rows=tokens)
        graph.layer_norm(f"{name}.ln1", _WIDTH)
        x = _feed_forward(graph, name, x, inner=_INNER, rows=tokens, activation="gelu")
        graph.layer_norm(f"{name}.ln2", _WIDTH)
    graph.linear("pooler", x, _WIDTH, activation="tanh")
    return graph.layers


def vit_b_16(*, image: int, classes: int) -> tuple[Layer, ...]:
    """ViT-B/16. A sequence is one token per patch and the class token, so it grows with the square of the image."""
    graph = GraphBuilder()
    patches = graph.conv(
        "patch", input_image(image), K=_WIDTH, R=_PATCH, stride=_PATCH, padding=0,
        bias=True, norm=None, activation="none",
    )  # fmt: skip
    tokens = patches.H * patches.W + 1
    graph.parameters("class_token", _WIDTH)
    graph.parameters("pos_embedding", tokens * _WIDTH)
    x = patches.features(_WIDTH)
    for number in range(_DEPTH):
        name = f"layer{number}"
        graph.layer_norm(f"{name}.ln1", _WIDTH)
        qkv = graph.linear(f"{name}.qkv", x, 3 * _WIDTH, rows=tokens).features(_WIDTH)
        scores = _scores(graph, name, (qkv,), heads=_WIDTH // _HEAD_WIDTH, queries=tokens, keys=tokens)
        _mixing(graph, name, (scores,), heads=_WIDTH // _HEAD_WIDTH, queries=tokens, keys=tokens)
        x = graph.linear(f"{name}.o", qkv, _WIDTH, rows=tokens)
        graph.layer_norm(f"{name}.ln2", _WIDTH)
        x = _feed_forward(graph, name, x, inner=_INNER, rows=tokens, activation="gelu")
    graph.layer_norm("ln", _WIDTH)
    graph.linear("head", x, classes)
    return graph.layers


def transformer_base(*, source_tokens: int, target_tokens: int, vocabulary: int) -> tuple[Layer, ...]:
    """Encoder and decoder of the base model; one table serves both embeddings and the output layer.

    The work of the cross attention's scores is the product of both lengths.
    """
    graph = GraphBuilder()
    width = _BASE_WIDTH
    graph.embedding("embedding", vocabulary, width, notes="the output layer uses the same weights")
    x = Tensor(INPUT, width)
    for number in range(_BASE_DEPTH):
        name = f"enc{number}"
        x = _base_attention(graph, name, x, queries=source_tokens, keys=source_tokens)
        graph.layer_norm(f"{name}.ln1", width)
        x = _feed_forward(graph, name, x, inner=_BASE_INNER, rows=source_tokens, activation="relu")
        graph.layer_norm(f"{name}.ln2", width)
    for number in range(_BASE_DEPTH):
        name = f"dec{number}"
        x = _base_attention(graph, f"{name}.self", x, queries=target_tokens, keys=target_tokens)
        graph.layer_norm(f"{name}.ln1", width)
        x = _base_attention(graph, f"{name}.cross", x, queries=target_tokens, keys=source_tokens)
        graph.layer_norm(f"{name}.ln2", width)
        x = _feed_forward(graph, name, x, inner=_BASE_INNER, rows=target_tokens, activation="relu")
        last = graph.layer_norm(f"{name}.ln3", width)
    graph.linear(
        "output",
        last,
        vocabulary,
        rows=target_tokens,
        bias=False,
        shared=True,
        notes="weights counted at the embedding",
    )
    return graph.layers


def _base_attention(graph: GraphBuilder, name: str, x: Tensor, *, queries: int, keys: int) -> Tensor:
    """Attention of the base model; the tables give its two dynamic products no sources."""
    _, _, v = _projections(graph, name, x, queries=queries, keys=keys)
    _scores(graph, name, (), heads=v.C // _HEAD_WIDTH, queries=queries, keys=keys)
    _mixing(graph, name, (), heads=v.C // _HEAD_WIDTH, queries=queries, keys=keys)
    return graph.linear(f"{name}.o", v, v.C, rows=queries)


def _projections(
    graph: GraphBuilder, name: str, x: Tensor, *, queries: int, keys: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, each as wide as ``x``."""
    q = graph.linear(f"{name}.q", x, x.C, rows=queries)
    k = graph.linear(f"{name}.k", q, x.C, rows=keys)
    v = graph.linear(f"{name}.v", k, x.C, rows=keys)
    return q, k, v


def _scores(
    graph: GraphBuilder, name: str, operands: Sequence[Tensor], *, heads: int, queries: int, keys: int
) -> Tensor:
    """Every query times every key, per head."""
    return graph.matmul(f"{name}.qk", operands, Gemm(heads, queries, keys, _HEAD_WIDTH))


def _mixing(
    graph: GraphBuilder, name: str, operands: Sequence[Tensor], *, heads: int, queries: int, keys: int
) -> Tensor:
    """The values weighted by the scores, per head."""
    return graph.matmul(f"{name}.av", operands, Gemm(heads, queries, _HEAD_WIDTH, keys))


def _feed_forward(graph: GraphBuilder, name: str, x: Tensor, *, inner: int, rows: int, activation: str) -> Tensor:
    y = graph.linear(f"{name}.ff1", x, inner, rows=rows, activation=activation)
    return graph.linear(f"{name}.ff2", y, x.C, rows=rows)


MODELS = {
    "bert_base": Model(
        bert_base,
        "Devlin et al., NAACL 2019; linear layers and parameters as in transformers' BertModel",
        {
            "tokens": token_count(128, "length of the sequence", highest=_BERT_POSITIONS),
            "vocabulary": vocabulary_size(30522),
        },
    ),
    "vit_b_16": Model(
        vit_b_16,
        "Dosovitskiy et al., ICLR 2021; parameters as in torchvision",
        {"image": image_size(224, multiple=_PATCH), "classes": class_count(1000)},
    ),
    "transformer_base": Model(
        transformer_base,
        "Vaswani et al., NIPS 2017, table 3 (base); a shared vocabulary of 37,000",
        {
            "source_tokens": token_count(128, "length of the source sentence"),
            "target_tokens": token_count(128, "length of the target sentence"),
            "vocabulary": vocabulary_size(37000),
        },
    ),
}
