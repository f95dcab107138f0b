"""Decoders of the LLaMA family: as large as one likes, for traces that are streamed layer by layer.

A decoder block: root-mean-square normalisation, attention with rotary positions, a feed-forward part gated by SiLU; no
biases, embedding and output table apart. ``tokens`` rows pass at once (prefill), after ``context`` tokens whose keys and
values are cached (``tokens=1`` with a context is one step of decoding).
"""

from __future__ import annotations

from ..layers import Gemm, Layer
from ..network import INPUT
from .graph_builder import GraphBuilder, Tensor
from .model import Model, Parameter, token_count, vocabulary_size

#: Features per head in every size of the family (Touvron et al., table 2: width / heads).
_HEAD_WIDTH = 128


def decoder(
    *, tokens: int, context: int, layers: int, width: int, inner: int, vocabulary: int
) -> tuple[Layer, ...]:  # fmt: skip
    """A decoder-only transformer at batch 1. ``inner``: width of the feed-forward part; heads are 128 features wide.

    Every row attends to all ``context + tokens`` keys: the causal mask of a prefill saves no work here.
    """
    graph = GraphBuilder()
    x = graph.append(
        Layer(
            name="embed_tokens", op="embed", C=vocabulary, K=width, P=tokens, sources=(INPUT,),
            weight_params=vocabulary * width,
        )
    ).features(width)  # fmt: skip
    for number in range(layers):
        name = f"layers.{number}"
        x = _attention(graph, name, x, tokens=tokens, keys=context + tokens)
        x = _feed_forward(graph, name, x, tokens=tokens, inner=inner)
    x = _norm(graph, "norm", x, tokens=tokens)
    graph.linear("lm_head", x, vocabulary, rows=tokens, bias=False)
    return graph.layers


def _attention(graph: GraphBuilder, name: str, x: Tensor, *, tokens: int, keys: int) -> Tensor:
    """The attention block with its residual sum; ``keys``: cached ones and those of the new tokens."""
    heads = x.C // _HEAD_WIDTH
    normed = _norm(graph, f"{name}.input_norm", x, tokens=tokens)
    q, k, v = (graph.linear(f"{name}.{part}_proj", normed, x.C, rows=tokens, bias=False) for part in "qkv")
    q, k = (_combined(graph, f"{name}.rotary_{part}", (y,), "mul", tokens) for part, y in (("q", q), ("k", k)))
    scores = graph.matmul(f"{name}.qk", (q, k), Gemm(heads, tokens, keys, _HEAD_WIDTH))
    mixed = graph.matmul(f"{name}.av", (scores, v), Gemm(heads, tokens, _HEAD_WIDTH, keys)).features(x.C)
    out = graph.linear(f"{name}.o_proj", mixed, x.C, rows=tokens, bias=False)
    return _combined(graph, f"{name}.attention_sum", (x, out), "add", tokens)


def _feed_forward(graph: GraphBuilder, name: str, x: Tensor, *, tokens: int, inner: int) -> Tensor:
    """The gated feed-forward block with its residual sum."""
    normed = _norm(graph, f"{name}.post_norm", x, tokens=tokens)
    gate = graph.linear(f"{name}.gate_proj", normed, inner, rows=tokens, bias=False, activation="silu")
    up = graph.linear(f"{name}.up_proj", normed, inner, rows=tokens, bias=False)
    gated = _combined(graph, f"{name}.gated", (gate, up), "mul", tokens)
    down = graph.linear(f"{name}.down_proj", gated, x.C, rows=tokens, bias=False)
    return _combined(graph, f"{name}.feed_forward_sum", (x, down), "add", tokens)


def _norm(graph: GraphBuilder, name: str, x: Tensor, *, tokens: int) -> Tensor:
    """Root-mean-square normalisation of every row: a scale per feature, no shift."""
    layer = Layer(
        name=name, op="layernorm", C=x.C, H=tokens, K=x.C, P=tokens, sources=x.sources, norm_params=x.C,
        notes="root mean square",
    )  # fmt: skip
    return graph.append(layer).features(x.C)


def _combined(graph: GraphBuilder, name: str, operands: tuple[Tensor, ...], op: str, tokens: int) -> Tensor:
    """Rows combined element by element; with one operand, by a factor that depends on the position."""
    width = operands[0].C
    layer = Layer(
        name=name, op=op, C=width, H=tokens, K=width, P=tokens, join="*" if op == "mul" else "+",
        sources=tuple(source for operand in operands for source in operand.sources),
    )  # fmt: skip
    return graph.append(layer).features(width)


def _size(default: int, highest: int, meaning: str, *, multiple: int = 1) -> Parameter:
    return Parameter(default=default, lowest=multiple, highest=highest, multiple=multiple, meaning=meaning)


MODELS = {
    "llama_7b": Model(
        decoder,
        "Touvron et al., arXiv 2302.13971, table 2 (7B); 6,738,415,616 parameters as in KerasHub's preset llama_7b_en",
        {
            "tokens": token_count(128, "rows that pass at once"),
            "context": Parameter(default=0, lowest=0, highest=1 << 20, meaning="tokens before them, in the cache"),
            "layers": _size(32, 1024, "decoder blocks"),
            "width": _size(4096, 32768, "features of a token; heads are 128 wide", multiple=_HEAD_WIDTH),
            "inner": _size(11008, 131072, "width of the feed-forward part"),
            "vocabulary": vocabulary_size(32000),
        },
    ),
}
