"""Recurrent networks: GNMT (LSTM, translation) and a character model (GRU).

The product with a layer's inputs covers all time steps at once; the product with its state is repeated step by step. As
in the reference tables, ``.ih`` layers have no sources: they read concatenations the tables have no rows for.
"""

from __future__ import annotations

from ..layers import Gemm, Layer
from .graph_builder import GraphBuilder, Tensor
from .model import Model, Parameter, token_count, vocabulary_size

#: RigL, Evci et al., ICML 2020, section 4.2 and appendix I: embedding, and the two layers behind the GRU.
_EMBEDDING, _READOUT = 128, 256


def gnmt_v2(*, source_tokens: int, target_tokens: int, vocabulary: int, hidden: int) -> tuple[Layer, ...]:
    """GNMT v2: four encoder layers (the first in both directions), four decoder layers, Bahdanau attention.

    The decoder runs word by word: its recurrent products, its attention and its classifier are repeated
    ``target_tokens`` times, each time over all ``source_tokens`` encoder states.
    """
    graph = GraphBuilder()
    graph.embedding("embedding", vocabulary, hidden, notes="used by encoder and decoder")
    encoded = _encoder(graph, hidden=hidden, steps=source_tokens)
    keys = graph.linear("attn.linear_k", encoded, hidden, rows=source_tokens, bias=False)
    state = graph.recurrent("dec0", "lstm", features=hidden, hidden=hidden, steps=target_tokens)
    queries = graph.linear("attn.linear_q", state, hidden, repeat=target_tokens, bias=False)
    graph.parameters("attn.v_g_b", 2 * hidden + 1, notes="vector, gain and bias of the normalised attention")
    scores = graph.matmul(
        "attn.score", (queries, keys), Gemm(1, source_tokens, 1, hidden), repeat=target_tokens,
        notes="one vector times tanh(query + key) of each source word",
    )  # fmt: skip
    graph.matmul("attn.context", (scores, encoded), Gemm(1, 1, hidden, source_tokens), repeat=target_tokens)
    for number in (1, 2, 3):  # each reads the layer below and the context
        state = graph.recurrent(f"dec{number}", "lstm", features=2 * hidden, hidden=hidden, steps=target_tokens)
    graph.linear("classifier", state, vocabulary, repeat=target_tokens)
    return graph.layers


def _encoder(graph: GraphBuilder, *, hidden: int, steps: int) -> Tensor:
    """Both directions of the first layer, then three layers; the second reads both directions."""
    graph.recurrent("enc0.fwd", "lstm", features=hidden, hidden=hidden, steps=steps)
    graph.recurrent("enc0.bwd", "lstm", features=hidden, hidden=hidden, steps=steps)
    graph.recurrent("enc1", "lstm", features=2 * hidden, hidden=hidden, steps=steps)
    graph.recurrent("enc2", "lstm", features=hidden, hidden=hidden, steps=steps)
    return graph.recurrent("enc3", "lstm", features=hidden, hidden=hidden, steps=steps)


def gru_wikitext103(*, tokens: int, vocabulary: int, hidden: int) -> tuple[Layer, ...]:
    """A character model: embedding, one GRU, two layers, and an output layer that shares the embedding's weights."""
    graph = GraphBuilder()
    graph.embedding("embedding", vocabulary, _EMBEDDING, notes="the output layer uses the same weights")
    x = graph.recurrent("gru", "gru", features=_EMBEDDING, hidden=hidden, steps=tokens)
    x = graph.linear("readout1", x, _READOUT, rows=tokens, activation="relu")
    x = graph.linear("readout2", x, _EMBEDDING, rows=tokens)
    graph.linear("softmax", x, vocabulary, rows=tokens, shared=True, notes="weights counted at the embedding")
    return graph.layers


def _hidden(default: int) -> Parameter:
    return Parameter(default=default, lowest=1, highest=8192, meaning="units of a recurrent layer")


MODELS = {
    "gnmt_v2": Model(
        gnmt_v2,
        "Wu et al., arXiv:1609.08144, as in NVIDIA's deep learning examples",
        {
            "source_tokens": token_count(50, "words of the source sentence"),
            "target_tokens": token_count(50, "words of the target sentence"),
            "vocabulary": vocabulary_size(32320),
            "hidden": _hidden(1024),
        },
    ),
    "gru_wikitext103": Model(
        gru_wikitext103,
        "character model of Evci et al., RigL, ICML 2020, section 4.2 and appendix I",
        {
            "tokens": token_count(512, "characters of the sequence"),
            "vocabulary": vocabulary_size(256),
            "hidden": _hidden(512),
        },
    ),
}
